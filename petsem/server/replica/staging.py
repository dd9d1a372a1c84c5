"""A snapshot while it is being received: a file beside the database that nobody reads.

Guarantees: the pages of a finished snapshot are exactly those of its position: the checksum over
all of them, read again if they were received by an earlier run, is the one that the position names.
Memory is 8 bytes a page and one run of pages. What is there after a crash is gone on with, as far
as it was known to be on the disk, or thrown away; it is never trusted.
`snapshot.json` says what `snapshot.part` is: received up to a page, or complete and being applied.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Final

import msgspec

from petsem import limits
from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication.drivers.database_file import runs as neighbours
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, page_numbers
from petsem.replication.ltx import CHECKSUM_FLAG, LtxError, Reader, page_checksum
from petsem.replication.rolling import UNKNOWN, PageChecksums
from petsem.server import files
from petsem.server.replica.errors import BadFrame
from petsem.server.replica.frames import is_canonical

PART: Final = "snapshot.part"
NOTE: Final = "snapshot.json"
_NOTE_MAX_BYTES: Final = 1024
_RUN_PAGES: Final = 64


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: str
    pages: int
    next_page: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """What the note beside the staged file says."""

    at: Position
    pages: int
    next_page: int
    complete: bool


class Staging:
    """The staged file of one snapshot, whose pages are of `begun`; `at` is what it is of so far."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        self._directory = directory
        self._fd = os.open(
            directory / PART, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self.at = progress.at
        self.next_page = progress.next_page
        self.begun = progress.at
        self.begun_pages = progress.pages
        self._table = array("Q", (UNKNOWN,)) * progress.pages
        self._noted_page = progress.next_page

    @classmethod
    def begin(cls, directory: Path, at: Position, pages: int) -> Staging:
        """A new one, in place of any other."""
        discard(directory)
        return cls(directory, Progress(at, pages, 1, complete=False))

    @classmethod
    def resume(cls, directory: Path, progress: Progress) -> Staging:
        """The one that is there; reads what it has, so not on the loop."""
        staging = cls(directory, progress)
        try:
            for pgno in range(1, progress.next_page, _RUN_PAGES):
                last = min(pgno + _RUN_PAGES, progress.next_page) - 1
                staging._enter(pgno, staging._read(pgno, last - pgno + 1))
        except BaseException:
            staging.close()
            raise
        return staging

    @property
    def commit(self) -> int:
        """The size of the database in pages."""
        return len(self._table)

    @property
    def unnoted_bytes(self) -> int:
        """Received, and not known to `snapshot.json`."""
        return (self.next_page - self._noted_page) * PAGE_SIZE

    def add(self, first_page: int, data: bytes) -> None:
        """The next run of pages. `BadFrame` if it is another."""
        count, rest = divmod(len(data), PAGE_SIZE)
        last = first_page + count - 1
        if rest or not 0 < count <= limits.STREAM_RUN_MAX_PAGES:
            raise BadFrame("snapshot-size")
        if (
            first_page != self.next_page
            or last > self.begun_pages
            or first_page <= LOCK_PAGE <= last
        ):
            raise BadFrame("snapshot-pages")
        self._write(first_page, data)
        self._enter(first_page, data)
        self.next_page = last + 1 + (last + 1 == LOCK_PAGE)

    def note(self) -> None:
        """Make what was received durable, and say how far it goes. Blocks for the disk."""
        at = self.next_page
        os.fdatasync(self._fd)
        self._say(self.begun, self.begun_pages, at, complete=False)
        self._noted_page = at

    def change(self, end: Position, ltx: bytes) -> None:
        """Lay the transactions up to `end` over the pages. `BadFrame`; then it is spoilt."""
        if self.next_page <= self.begun_pages:
            raise BadFrame("snapshot-pages")
        try:
            reader = Reader((ltx,))
            header = reader.header
            fits = (
                header.page_size == PAGE_SIZE
                and header.tracks_checksum
                and header.min_txid == self.at.txid + 1
                and header.pre_apply_checksum == self.at.checksum
                and header.max_txid == end.txid
            )
            if not fits:
                raise BadFrame("snapshot-chain")
            self._resize(header.commit)
            for pgno, page in reader:
                self._write(pgno, page)
                self._table[pgno - 1] = page_checksum(pgno, page)
        except LtxError as e:
            raise BadFrame(str(e.rule)) from e
        if reader.trailer.post_apply_checksum != end.checksum:
            raise BadFrame("snapshot-chain")
        self.at = end

    def table(self) -> PageChecksums:
        """The checksums of all pages, which are those of `at`; `BadFrame` if they are not."""
        table = self._table
        unknown = table.count(UNKNOWN) - (len(table) >= LOCK_PAGE)
        if unknown or self.at.checksum is None:
            raise BadFrame("snapshot-incomplete")
        if reduce(xor, table, 0) | CHECKSUM_FLAG != self.at.checksum:
            raise BadFrame("snapshot-checksum")
        if not is_canonical(self._read(1, 1), self.at, len(table)):
            raise BadFrame("not-canonical")
        return PageChecksums.restored(table[:], self.at.checksum)

    def complete(self) -> None:
        """Durably say that only the applying is left. Blocks for the disk."""
        os.fsync(self._fd)
        self._say(self.at, self.commit, self.commit + 1, complete=True)

    def pages(self, numbers: array[int]) -> Iterator[tuple[int, bytes]]:
        """Pages as they were received; `BadFrame` if the disk does not give them back."""
        for first, count in neighbours(numbers):
            data = self._read(first, count)
            for index in range(count):
                page = data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
                if page_checksum(first + index, page) != self._table[first + index - 1]:
                    raise BadFrame("snapshot-disk")
                yield first + index, page

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """(first page, pages): all of it, the lock page left out, in pieces of 64 pages."""
        first = 1
        while first <= self.commit:
            last = min(first + _RUN_PAGES, self.commit + 1) - 1
            if first < LOCK_PAGE <= last:
                last = LOCK_PAGE - 1
            yield first, self._read(first, last - first + 1)
            first = last + 1 + (last + 1 == LOCK_PAGE)

    def close(self) -> None:
        """Let go of the file, which stays."""
        os.close(self._fd)

    def _say(self, at: Position, pages: int, next_page: int, *, complete: bool) -> None:
        body = _Note(str(at), pages, next_page, complete)
        files.write_atomic(self._directory / NOTE, msgspec.json.encode(body) + b"\n")

    def _enter(self, first: int, data: bytes) -> None:
        for index in range(len(data) // PAGE_SIZE):
            page = data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
            if first + index != LOCK_PAGE:
                self._table[first + index - 1] = page_checksum(first + index, page)

    def _resize(self, commit: int) -> None:
        if not 0 < commit <= limits.LTX_COMMIT_MAX_PAGES:
            raise BadFrame("snapshot-size")
        if commit < len(self._table):
            del self._table[commit:]
            os.ftruncate(self._fd, commit * PAGE_SIZE)
        elif commit > len(self._table):
            self._table.extend(array("Q", (UNKNOWN,)) * (commit - len(self._table)))

    def _write(self, first: int, data: bytes) -> None:
        view, offset = memoryview(data), (first - 1) * PAGE_SIZE
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def _read(self, first: int, count: int) -> bytes:
        """What the file ends before is zeros, which the checksum then refuses."""
        wanted = count * PAGE_SIZE
        return os.pread(self._fd, wanted, (first - 1) * PAGE_SIZE).ljust(wanted, b"\0")


def found(directory: Path) -> Progress | None:
    """The snapshot that was begun in `directory`; what is no such thing is thrown away."""
    try:
        raw = files.read_bounded(directory / NOTE, _NOTE_MAX_BYTES)
        note = msgspec.convert(json.loads(raw), _Note)
        progress = Progress(Position.parse(note.at), note.pages, note.next_page, note.complete)
        there = (directory / PART).is_file()
    except (PetsemError, ValueError, OSError):
        discard(directory)
        return None
    holds = (
        there
        and progress.at.checksum is not None
        and progress.at.txid > 0
        and 1 <= progress.next_page <= progress.pages + 1 <= limits.LTX_COMMIT_MAX_PAGES + 1
    )
    if not holds:
        discard(directory)
        return None
    return progress


def discard(directory: Path) -> None:
    """Remove a snapshot that was begun; the note first, without which the file is nothing."""
    (directory / NOTE).unlink(missing_ok=True)
    (directory / PART).unlink(missing_ok=True)


def differing(staging: Staging, current: Iterator[tuple[int, bytes]]) -> array[int]:
    """The pages whose content is another than in `current`, which gives the database's own pages
    in order; page 1 always, which carries the position."""
    held = next(current, None)
    if held is None:
        return array("I", page_numbers(staging.commit))
    numbers = array("I")
    for first, data in staging.runs():
        for index in range(len(data) // PAGE_SIZE):
            pgno = first + index
            while held is not None and held[0] < pgno:
                held = next(current, None)
            page = data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
            if pgno == 1 or held is None or held != (pgno, page):
                numbers.append(pgno)
    return numbers
