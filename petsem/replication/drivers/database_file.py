"""A live database file outside SQL: opened by SQLite's own file system layer, and by nothing else.

Guarantees: the descriptor belongs to SQLite, which knows of every other one that this process has
on the same file, so that closing it drops nobody's locks. `PageReader` takes no lock at all: what
it reads is one moment of a few pages, and only the caller knows whether pages of different moments
may stand side by side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import apsw

from petsem.errors import PetsemError, unavailable
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE

VFS: Final = "unix"
RUN_PAGES: Final = 31
"""Read and written in one call at most: SQLite's file layer takes 131,071 bytes and drops the rest
of the length in silence."""


def open_file(path: Path, vfs: str = VFS) -> apsw.VFSFile:
    """Open a database that is there (it may be empty), for reading and writing, with no lock."""
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
    try:
        # Without symbolic links, as SQLite names the file and the journal beside it.
        file = apsw.VFSFile(vfs, os.path.realpath(path), flags)
    except apsw.CantOpenError as e:
        raise _cannot_open(path) from e
    if flags[1] & apsw.SQLITE_OPEN_READONLY:
        file.xClose()
        raise _cannot_open(path)
    return file


def _cannot_open(path: Path) -> PetsemError:
    return unavailable(f"the database {path.name} is not there or cannot be written")


def runs(pgnos: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending page numbers as runs of neighbours (first, count), short enough for one call."""
    first = count = 0
    for pgno in pgnos:
        if pgno == first + count and count < RUN_PAGES:
            count += 1
            continue
        if count:
            yield first, count
        first, count = pgno, 1
    if count:
        yield first, count


def read_run(file: apsw.VFSFile, first: int, count: int) -> Iterator[tuple[int, bytes]]:
    """The pages of one run, which must lie inside the file."""
    data = file.xRead(count * PAGE_SIZE, (first - 1) * PAGE_SIZE)
    for index in range(count):
        yield first + index, data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]


class PageReader:
    """Reads pages for snapshots and checksums, beside whoever writes.

    It has a descriptor of its own: whether two threads may use one at once depends on how the
    SQLite library was built.
    """

    def __init__(self, path: Path, *, vfs: str = VFS) -> None:
        self._file = open_file(path, vfs)

    def size_pages(self) -> int:
        """Whole pages that the file holds now."""
        return self._file.xFileSize() // PAGE_SIZE

    def read(self, pgno: int) -> bytes | None:
        """One page; None if the file ends before it."""
        for _, page in self.pages(pgno, pgno):
            return page
        return None

    def pages(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """The pages from `first` to `last`, as far as the file goes; never the lock page."""
        for start, count in runs(pgno for pgno in range(first, last + 1) if pgno != LOCK_PAGE):
            held = min(count, self.size_pages() - start + 1)
            if held > 0:
                yield from self._run(start, held)
            if held < count:
                return

    def block(self, first: int, count: int) -> bytes:
        """`count` pages from `first` on in one piece, zeros where the file does not reach."""
        parts = []
        try:
            for start in range(first, first + count, RUN_PAGES):
                size = min(RUN_PAGES, first + count - start) * PAGE_SIZE
                parts.append(self._file.xRead(size, (start - 1) * PAGE_SIZE).ljust(size, b"\0"))
        except apsw.IOError as e:
            raise unavailable("the node could not read its database; see its log") from e
        return b"".join(parts)

    def _run(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        try:
            yield from read_run(self._file, first, count)
        except apsw.IOError as e:
            # Also if the file was cut since its size was asked for; the next try sees that.
            raise unavailable("the node could not read its database; see its log") from e

    def close(self) -> None:
        """Give the descriptor back to SQLite."""
        self._file.xClose()
