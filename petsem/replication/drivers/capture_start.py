"""Beginning to capture: what is in the WAL and not in the log comes first.

Guarantees: when it returns, the log ends where the database stands, whatever ended the last run:
nothing that is in the database is missing from the log, and what is in the log beyond the database
(after a restore from an older copy) was saved before it was cut. It raises no epoch and writes
nothing to the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from petsem.model import Position
from petsem.replication.drivers.capture import Anew, Capture, Captured
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError
from petsem.replication.drivers.page_checksums import load
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.drivers.whole_database import all_hold, log_snapshot, overlaid
from petsem.replication.image import normalise
from petsem.replication.ltx import HEADER_BYTES, Header, LtxError, page_checksum
from petsem.replication.rolling import PageChecksums
from petsem.replication.steps import Reached, nothing
from petsem.replication.wal import WalCommit

Epochs = Sequence[tuple[int, int]]
"""(epoch, its first TXID), ascending: the database's own list."""


def begin_capture(
    database: Path,
    directory: Path,
    log: TransactionLog,
    position: Position,
    epochs: Epochs,
    *,
    frames: int,
    at_ms: int,
    save_lost: Callable[[Position], None],
    anew: Anew,
    reached: Reached = nothing,
) -> Capture:
    """Log what the WAL has beyond the log, and go on from there.

    `position` is the database's, `frames` SQLite's count of its WAL after recovery. `directory`
    may hold the saved table of checksums. `save_lost(fork)` is called before what the log has
    beyond `fork` is cut, `anew(why)` after a log that was there began anew, now or later. Raises
    OSError if the log cannot be written.
    """
    tail = WalTail(Path(f"{database}-wal"))
    file = PageReader(database)
    try:
        commits = tail.read(frames)
        first = position.txid - len(commits) + 1
        cut_what_is_beyond(log, position, epochs, save_lost)
        end = log.end
        logged = 0 if end is None or not end.txid else end.txid - first + 1
        found = None
        if end is not None and end.txid and logged >= 0:
            found = _table_at(log, end, directory, database, commits[:logged], file)
        if found is None:
            logged = len(commits)
            found = log_snapshot(log, commits, file, position, at_ms)
            if end is not None and end.txid:
                anew(
                    f"the database was changed behind {end}, and not as the log and the WAL have it"
                )
        capture = Capture(database, log, *found, tail, anew=anew, reached=reached)
    except BaseException:
        tail.close()
        raise
    finally:
        file.close()
    try:
        capture.adopt(
            [
                Captured(commit, Position(_epoch_of(txid, epochs), txid), at_ms)
                for txid, commit in enumerate(commits[logged:], first + logged)
            ]
        )
        capture.write(merged=False)
        capture.before_checkpoint(frames)
    except BaseException:
        capture.release()
        raise
    return capture


def cut_what_is_beyond(
    log: TransactionLog,
    position: Position,
    epochs: Epochs,
    save_lost: Callable[[Position], None],
) -> None:
    """A log that is ahead of its database, or ends in another epoch than the database was in then,
    is of a branch that the database was taken back from."""
    end = log.end
    if end is None or not end.txid:
        return
    if end.txid <= position.txid and end.epoch == _epoch_of(end.txid, epochs):
        return
    known = log.position_of(position.txid)
    if known is not None and known.epoch == position.epoch:
        save_lost(known)
        log.cut_after(known)
    else:
        save_lost(log.base or Position(0, 0))
        log.reset()


def _epoch_of(txid: int, epochs: Epochs) -> int:
    return max((epoch for epoch, first in epochs if first <= txid), default=0)


def _table_at(
    log: TransactionLog,
    end: Position,
    directory: Path,
    database: Path,
    logged: Sequence[WalCommit],
    file: PageReader,
) -> tuple[PageChecksums, bytes] | None:
    """The table at the end of the log, and page 1 there; None if the pages are not those of the
    log. `logged` are the transactions of the WAL up to that place; a page that none of them has is
    in the file as it was, unless somebody else copied more of the WAL into it."""
    assert end.checksum is not None
    size, page = overlaid(logged, file)
    table = load(directory, end, database)
    logged_size = _size_at(log, end)
    if logged_size not in (None, size) or (table is not None and table.commit != size):
        return None
    page1 = page(1)
    saved = table is not None
    if table is None:
        table = PageChecksums.all_unknown(size, end.checksum)
    for pgno in sorted({pgno for commit in logged for pgno in commit.found if pgno <= size}):
        found = normalise(page1, end.epoch, end.txid) if pgno == 1 else page(pgno)
        checksum = page_checksum(pgno, found)
        if saved and table.checksum(pgno) != checksum:
            # Somebody else wrote to the database after it was saved.
            return None
        table.fill(pgno, checksum)
    if logged_size is None and not all_hold(table, file, end):
        return None
    return table, page1


def _size_at(log: TransactionLog, end: Position) -> int | None:
    """The size of the database at the end of the log, in pages; None if the transaction that left
    it so is no longer in the log, which keeps none for ever."""
    try:
        return Header.parse(next(log.chunks(end.txid))[:HEADER_BYTES]).commit
    except (LogError, LtxError):
        return None
