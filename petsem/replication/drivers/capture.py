"""Capturing the leader's transactions: from the WAL into the log.

Guarantees: each committed transaction is logged once, in order, under the position that its writer
gave it; a log that cannot be written keeps what is not in it, and says so until it can. A WAL that
was lost, or a log that lost what was appended and not synced, is answered with a snapshot of the
whole database in the log, so that the log is never without a transaction that the database has. A
log whose files were deleted begins anew where it ended: the database and its WAL have the rest.

Transactions that wait to be logged become one LTX file if the caller lets them: each page once. On
the thread that commits. It does not sync (`before_checkpoint` does) or commit, and all it tells is
that the log begins anew, and why.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from petsem.model import Position
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogDeleted, LogGap
from petsem.replication.drivers.page_checksums import save
from petsem.replication.drivers.wal_tail import WalLost, WalTail
from petsem.replication.drivers.whole_database import (
    Pages,
    all_hold,
    chunks,
    log_snapshot,
    scanning,
)
from petsem.replication.image import PAGE_SIZE, canonical_pages, normalise
from petsem.replication.ltx import Header, encode, page_checksum
from petsem.replication.rolling import ChecksumTableError, PageChecksums
from petsem.replication.steps import CAPTURE, Reached, nothing
from petsem.replication.wal import WalCommit, WalError

_HELD_PAGES: Final = 4_096
"""A transaction of more pages is read twice and streamed into the log."""

Anew = Callable[[str], None]
"""Told why the log begins anew, which costs every follower a snapshot that lacks what it had."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A committed transaction that is not in the log yet."""

    commit: WalCommit
    position: Position
    at_ms: int


class _Unread(NamedTuple):
    """A committed transaction whose frames are still to be read, up to this one."""

    frames: int
    position: Position
    at_ms: int


class Capture:
    """The leader's WAL, table of page checksums and log, kept in step.

    `page1` is the last page 1 that was logged, or the database's own.
    """

    def __init__(
        self,
        database: Path,
        log: TransactionLog,
        table: PageChecksums,
        page1: bytes,
        tail: WalTail,
        *,
        anew: Anew,
        reached: Reached = nothing,
    ) -> None:
        self.log = log
        self.table = table
        self._database = database
        self._tail = tail
        self._file = PageReader(database)
        self._page1 = page1
        self._anew = anew
        self._reached = reached
        self._unread: list[_Unread] = []
        self._waiting: list[Captured] = []
        self._waiting_pages = 0
        self._logged = log.end
        self._last = (log.end or Position(0, 0), 0)
        self._lost: str | None = None

    @property
    def waiting_pages(self) -> int:
        """Pages of transactions that are not in the log yet."""
        return self._waiting_pages + self._unread_frames()

    def disturbed(self) -> None:
        """Somebody else has changed the database, and may have copied and restarted the WAL since:
        only a snapshot is whole. Call it before `committed`."""
        self._lose("another process changed the database")

    def committed(self, frames: int, position: Position, at_ms: int) -> None:
        """The transaction at `position` was committed, and SQLite counts `frames` in the WAL. Its
        frames are read when they are written to the log, or sooner if there are many."""
        before, self._last = self._last[0], (position, at_ms)
        if position.txid != before.txid + 1:
            # Something else than that one transaction is in the WAL: only a snapshot is whole.
            self._lose(f"{position} was committed behind {before}")
        if self._lost is None:
            self._unread.append(_Unread(frames, position, at_ms))

    def reopened(self, frames: int, position: Position, at_ms: int) -> None:
        """The database was opened again and is at `position`: what was committed last, or what was
        being committed. Raises OSError, after which it may be called again."""
        if position.txid != self._last[0].txid:
            self.committed(frames, position, at_ms)
        # What the WAL holds is certain only now, and the next transaction may write over the rest.
        self._read(frames)

    def adopt(self, found: Sequence[Captured]) -> None:
        """Transactions that were in the WAL already when this began."""
        self._wait_for(found)
        if found:
            self._last = (found[-1].position, found[-1].at_ms)

    def write(self, *, merged: bool) -> None:
        """Bring the log up to the last commit; with `merged` in as few files as may be.

        Raises OSError if the disk does not take it; what is not logged is kept.
        """
        if self._unread:
            self._read(self._unread[-1].frames)
        if self.log.is_deleted():
            self.renew()
        if self.log.end != self._logged:
            # A sync failed, and nobody knows what the disk has of what came after the one before.
            self._lose("the log lost what a failed sync had taken")
        try:
            while self._waiting:
                group = self._group() if merged else self._waiting[:1]
                self._write_group(group)
                del self._waiting[: len(group)]
                self._waiting_pages -= sum(len(each.commit.found) for each in group)
        except (WalLost, LogGap, ChecksumTableError) as e:
            self._lose(str(e))
        if self._lost is not None:
            self._write_snapshot(*self._last)

    def before_checkpoint(self, frames: int) -> bool:
        """Have all that a checkpoint may take from the WAL in the log, on the disk; whether the
        WAL, of `frames` frames by SQLite's count now, may be copied. Raises OSError."""
        self.write(merged=True)
        if frames != self._tail.frames and self._has_more(frames):
            self._lose("the WAL has what no transaction told of")
            self.write(merged=True)
        self._sync()
        return self._tail.allow_restart(frames)

    def renew(self) -> None:
        """Begin a log whose files were deleted anew where it ended. Raises OSError."""
        self.log.reset(self.log.end)
        self._anew("its files were deleted")

    def finish(self) -> None:
        """At a clean stop: log and sync what waits, and save the table for the next start. Raises
        OSError if the disk does not take it."""
        self.write(merged=True)
        self._sync()
        end = self.log.end
        if end is not None and self.table.complete:
            save(self._database.parent, self.table, end, self._database)

    def scan(self) -> Iterator[int]:
        """Fill in what the table does not know yet, some pages a step; at the end, ValueError if a
        page is not what it was when it was logged. Raises OSError as `write` does."""
        table = self.table
        steps = scanning(table, self._file, self._end())
        while True:
            # A page that waits could be in the file already, if somebody else copied the WAL.
            self.write(merged=True)
            if self.table is not table:
                # Made anew from the pages themselves, so there is nothing to compare.
                return
            step = next(steps, None)
            if step is None:
                break
            yield step
        if not table.verify():
            raise ValueError("the pages of the database do not have the checksum of the log")

    def close(self) -> None:
        """Let go of the files, and of the log. OSError if what waits to be synced cannot be."""
        self.release()
        self.log.close()

    def release(self) -> None:
        """Let go of the files, but not of the log."""
        self._tail.close()
        self._file.close()

    def _sync(self) -> None:
        try:
            self.log.sync()
        except LogDeleted:
            self.renew()

    def _has_more(self, frames: int) -> bool:
        """Whether the WAL has what nobody told of, or has lost something."""
        try:
            return bool(self._tail.read(frames))
        except (WalLost, WalError):
            return True

    def _lose(self, why: str) -> None:
        """What waits cannot be logged one by one any more."""
        if self._lost is None:
            self._lost = why
        self._unread.clear()
        self._waiting.clear()
        self._waiting_pages = 0

    def _unread_frames(self) -> int:
        if not self._unread:
            return 0
        frames, read = self._unread[-1].frames, self._tail.frames
        return frames - read if frames > read else frames

    def _read(self, frames: int) -> None:
        """Take what was committed from the WAL, which holds `frames` frames. Raises OSError."""
        self._reached(CAPTURE)
        if self._lost is not None:
            return
        try:
            commits = self._tail.read(frames)
        except (WalLost, WalError) as e:
            self._lose(str(e))
            return
        if [each.end.frames for each in commits] != [each.frames for each in self._unread]:
            self._lose("the WAL has other transactions than were committed")
            return
        unread, self._unread = self._unread, []
        self._wait_for(
            Captured(commit, each.position, each.at_ms)
            for commit, each in zip(commits, unread, strict=True)
        )

    def _wait_for(self, found: Iterable[Captured]) -> None:
        for each in found:
            self._waiting.append(each)
            self._waiting_pages += len(each.commit.found)

    def _group(self) -> list[Captured]:
        """The transactions from the first that may be one file: of one epoch, and of a database
        that does not shrink, since what grew again would be missing its pages."""
        first = self._waiting[0]
        group, size, pages = [first], first.commit.size, len(first.commit.found)
        for each in self._waiting[1:]:
            pages += len(each.commit.found)
            if each.position.epoch != first.position.epoch or each.commit.size < size:
                break
            if pages > _HELD_PAGES:
                break
            group.append(each)
            size = each.commit.size
        return group

    def _write_group(self, group: Sequence[Captured]) -> None:
        last = group[-1]
        latest: dict[int, WalCommit] = {}
        for each in group:
            latest.update(dict.fromkeys(each.commit.found, each.commit))
        size, position = last.commit.size, last.position
        numbers = sorted(pgno for pgno in latest if pgno <= size)

        def pages() -> Pages:
            found = ((pgno, latest[pgno].page(pgno)) for pgno in numbers)
            return canonical_pages(found, self._page1, position.epoch, position.txid)

        self._fill(numbers, size)
        if len(numbers) <= _HELD_PAGES:
            held = list(pages())
            source: Callable[[], Pages] = lambda: iter(held)  # noqa: E731
        else:
            source = pages
        change = self.table.plan(source(), size)
        header = Header(
            flags=0,
            page_size=PAGE_SIZE,
            commit=size,
            min_txid=group[0].position.txid,
            max_txid=position.txid,
            timestamp_ms=last.at_ms,
            pre_apply_checksum=self.table.rolling,
        )
        if len(numbers) <= _HELD_PAGES:
            self.log.append(position.epoch, encode(header, source(), change.rolling))
        else:
            pieces = chunks(header, source(), lambda: change.rolling)
            self.log.append_stream(position.epoch, header, pieces)
        self.table.accept(change)
        self._page1 = next(source())[1]
        self._logged = self.log.end

    def _fill(self, numbers: Sequence[int], size: int) -> None:
        """Enter what the table does not know of the pages that change, from the database file: a
        page that was in the WAL before is known. WalLost if somebody else has copied the change
        into the file before it was logged."""
        for pgno in self.table.unknown({1, *numbers}, size):
            page = self._file.read(pgno)
            if page is None:
                raise WalLost(f"the database file ends before page {pgno}")
            if self._waits(pgno, page) and self._may_be_copied():
                self._fill_all()
                return
            if pgno == 1:
                page = normalise(page, self._end().epoch, self._end().txid)
            self.table.fill(pgno, page_checksum(pgno, page))

    def _waits(self, pgno: int, page: bytes) -> bool:
        """Whether one of the transactions that wait left this in the page."""
        return any(
            each.commit.page(pgno) == page for each in self._waiting if pgno in each.commit.found
        )

    def _may_be_copied(self) -> bool:
        """Whether somebody may have copied what waits into the file. SQLite copies what the
        transactions up to some one left, in the order of the pages, so the lowest page of those is
        there before any other."""
        lowest = sys.maxsize
        for each in self._waiting:
            first = min(each.commit.found)
            if first < lowest:
                lowest = first
                page = self._file.read(lowest)
                if page is not None and self._waits(lowest, page):
                    return True
        return False

    def _fill_all(self) -> None:
        """Enter everything that the table does not know. A page that is in the file as one of the
        transactions that wait left it may have been copied there, or be again what it was, as page
        1 is once the list of free pages has grown and shrunk: only all pages together tell."""
        if not all_hold(self.table, self._file, self._end()):
            raise WalLost("another process copied what was not logged into the database file")

    def _end(self) -> Position:
        end = self.log.end
        assert end is not None
        return end

    def _write_snapshot(self, position: Position, at_ms: int) -> None:
        assert self._lost is not None
        tail = WalTail(Path(f"{self._database}-wal"))
        try:
            frames = _count_frames(self._database)
            commits = tail.read(frames)
            self.table, self._page1 = log_snapshot(self.log, commits, self._file, position, at_ms)
            tail.allow_restart(frames)
        except WalLost as e:
            tail.close()
            raise OSError(errno.EAGAIN, "the WAL changed while it was read") from e
        except BaseException:
            tail.close()
            raise
        self._tail.close()
        self._tail = tail
        self._logged = self.log.end
        why, self._lost = self._lost, None
        self._anew(why)


def _count_frames(database: Path) -> int:
    """How many frames SQLite counts in the WAL now. What it counted at the last commit may be gone:
    whoever else has the database open may have copied and cut it."""
    try:
        db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.execute("PRAGMA query_only = on")
            db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            frames: int = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)[0]
            return max(0, frames)
        finally:
            db.close(True)
    except apsw.Error as e:
        raise OSError(errno.EIO, "the WAL cannot be counted") from e
