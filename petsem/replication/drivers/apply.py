"""Writes the pages of a transaction into a replica's database, under SQLite's own locks.

Guarantees: every reader, in this process, another one or the stock shell, sees the database as it
was before the transaction or as it is after, also if this process is killed in between; pages are
written only where page 1 has the stamp that the caller expects; an error leaves the database as it
was, or a journal from which SQLite restores it. A reader waits for the writing itself and for at
most `locks.PENDING_MAX_S` before it.
It does not guarantee durability (`sync`, and the transaction log before it), nor that the pages
make a database: whoever decoded and chained them has verified that.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from petsem.errors import Code, PetsemError
from petsem.replication import steps
from petsem.replication.drivers import locks, rollback
from petsem.replication.drivers.database_file import RUN_PAGES, VFS, open_file, runs
from petsem.replication.image import PAGE_SIZE
from petsem.replication.page_set import NotApplicable, added, cut_off, in_order, stamp_of


@dataclass(frozen=True, slots=True)
class Applied:
    """The transaction is in the database, with this many pages written."""

    pages: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody holds a lock; nothing was written and no lock is held. Try again in a while."""


class PositionMismatch(PetsemError):  # noqa: N818 - it says what was found
    """The database is not where the transaction starts; nothing was written."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            Code.CONFLICT,
            f"the database carries stamp {found:08x} where {expected:08x} was expected: "
            "somebody else wrote to it, or it was replaced",
        )
        self.expected = expected
        self.found = found


class ApplyFailed(PetsemError):  # noqa: N818 - it says what became of it
    """The disk refused. The transaction is rolled back, now or by whoever reads next."""

    def __init__(self, *, disk_full: bool) -> None:
        what = "its disk is full" if disk_full else "its disk fails"
        super().__init__(Code.UNAVAILABLE, f"the node cannot write what it has replicated: {what}")
        self.disk_full = disk_full


class Applier:
    """Holds one descriptor of the database for as long as the node is a replica.

    Used from the loop and from the helper thread, by one caller at a time; a second is told that
    it is busy.
    """

    def __init__(
        self, path: Path, *, vfs: str = VFS, reached: steps.Reached = steps.nothing
    ) -> None:
        self.path = path
        self.vfs = vfs
        self._reached = reached
        self._journal = rollback.journal_path(path)
        self._file = open_file(path, vfs)
        self._turn = threading.Lock()

    def try_apply(
        self,
        pages: Iterable[tuple[int, bytes]],
        commit: int,
        *,
        before: int | None,
        after: int,
        patience_s: float = 0.0,
    ) -> Applied | Busy:
        """Write `pages` and make the database `commit` pages long, as one transaction.

        `pages` are (page number, content) in ascending order, page 1 first; they are read only
        once the lock is held, and a few at a time, so that a snapshot may be an iterator. Page 1
        must carry the stamp `after`, and the page 1 that is there the stamp `before` (0 in an
        empty file); with None it may be anything, for repairs and for replaying a log.
        `patience_s` is how long to block for readers that are inside: 0 on the event loop, up to
        `locks.PENDING_MAX_S` on the helper thread.

        Raises `PositionMismatch`, `NotApplicable`, `ApplyFailed`, and what `pages` raises.
        """
        if not self._turn.acquire(blocking=False):
            return Busy()
        try:
            return self._try_apply(pages, commit, before, after, patience_s)
        except (apsw.Error, OSError) as e:
            raise _failed(e) from e
        finally:
            self._turn.release()

    def sync(self) -> None:
        """Make everything that was applied before the call survive a loss of power.

        Blocks for the disk, so it is for the helper thread; an apply may go on meanwhile. Raises
        `ApplyFailed`, and then nothing is known to have been synced.
        """
        self._reached(steps.SYNC_DATABASE)
        try:
            self._file.xSync(apsw.SQLITE_SYNC_NORMAL)
            _sync_directory(self._journal.parent)
        except (apsw.Error, OSError) as e:
            raise _failed(e) from e

    def size_pages(self) -> int:
        """How long the database is; for who knows that nothing is being applied."""
        return self._file.xFileSize() // PAGE_SIZE

    def close(self) -> None:
        """Give the descriptor back to SQLite."""
        self._file.xClose()

    def _try_apply(
        self,
        pages: Iterable[tuple[int, bytes]],
        commit: int,
        before: int | None,
        after: int,
        patience_s: float,
    ) -> Applied | Busy:
        if not self._lock(patience_s):
            return Busy()
        try:
            size_pages = self._file.xFileSize() // PAGE_SIZE
            if before is not None:
                self._expect(before, size_pages)
            written = self._write(
                in_order(pages, commit, after), commit, size_pages, holes=before is None
            )
        except BaseException:
            self._file.xUnlock(apsw.SQLITE_LOCK_NONE)
            # At once, for readers who may not write. If it fails, the next one to read or to
            # apply does it, and what went wrong first is what there is to say.
            with contextlib.suppress(apsw.Error, OSError):
                if rollback.is_hot(self._journal):
                    rollback.roll_back(self.path, self.vfs)
            raise
        self._file.xUnlock(apsw.SQLITE_LOCK_NONE)
        return Applied(written)

    def _lock(self, patience_s: float) -> bool:
        """EXCLUSIVE, on a database from which nothing is to be rolled back."""
        for _ in range(2):
            if not locks.take_exclusive(self._file, patience_s):
                return False
            hot = True
            try:
                # Under the lock, because a journal in use by another program looks just so.
                hot = rollback.is_hot(self._journal)
            finally:
                if hot:
                    self._file.xUnlock(apsw.SQLITE_LOCK_NONE)
            if not hot:
                return True
            rollback.roll_back(self.path, self.vfs)
        return False

    def _expect(self, before: int, size_pages: int) -> None:
        found = stamp_of(self._file.xRead(PAGE_SIZE, 0)) if size_pages else 0
        if found != before:
            raise PositionMismatch(before, found)

    def _write(
        self, pages: Iterator[tuple[int, bytes]], commit: int, size_pages: int, *, holes: bool
    ) -> int:
        # Before anything is opened, so that what is no transaction at all costs nothing.
        batch = list(itertools.islice(pages, RUN_PAGES))
        written = beyond = 0
        self._reached(steps.APPLY_JOURNAL)
        journal = rollback.Journal(self._journal, self.vfs, size_pages)
        try:
            while batch:
                if written:
                    self._reached(steps.APPLY_JOURNAL)
                inside = [pgno for pgno, _ in batch if pgno <= size_pages]
                journal.keep(self._file, inside)
                self._reached(steps.APPLY_PAGES)
                self._write_batch(batch)
                written += len(batch)
                beyond += len(batch) - len(inside)
                batch = list(itertools.islice(pages, RUN_PAGES))
            if not holes and beyond != added(commit, size_pages):
                raise NotApplicable("pages-missing")
            if commit < size_pages:
                self._reached(steps.APPLY_JOURNAL)
                journal.keep(self._file, cut_off(commit, size_pages))
            if self._file.xFileSize() != commit * PAGE_SIZE:
                self._reached(steps.APPLY_TRUNCATE)
                self._file.xTruncate(commit * PAGE_SIZE)
            self._reached(steps.JOURNAL_REMOVAL)
            journal.remove()
        finally:
            journal.close()
        return written

    def _write_batch(self, batch: Sequence[tuple[int, bytes]]) -> None:
        done = 0
        for first, count in runs(pgno for pgno, _ in batch):
            run = batch[done : done + count]
            content = run[0][1] if count == 1 else b"".join(page for _, page in run)
            self._file.xWrite(content, (first - 1) * PAGE_SIZE)
            done += count


def _failed(error: apsw.Error | OSError) -> ApplyFailed:
    full = isinstance(error, apsw.FullError) or getattr(error, "errno", None) == errno.ENOSPC
    return ApplyFailed(disk_full=full)


def _sync_directory(directory: Path) -> None:
    # A journal whose removal is not on the disk would come back with the power, and roll back a
    # transaction that the node no longer replays.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
