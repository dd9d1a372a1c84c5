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
from petsem.replication.drivers.capture import Capture, Captured, log_snapshot, overlaid
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.page_checksums import load
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.image import normalise
from petsem.replication.ltx import page_checksum
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
    reached: Reached = nothing,
) -> Capture:
    """Log what the WAL has beyond the log, and go on from there.

    `position` is the database's, `frames` SQLite's count of its WAL after recovery. `directory`
    may hold the saved table of checksums. `save_lost(fork)` is called before what the log has
    beyond `fork` is cut. Raises OSError if the log cannot be written.
    """
    tail = WalTail(Path(f"{database}-wal"))
    commits = tail.read(frames)
    file = PageReader(database)
    try:
        first = position.txid - len(commits) + 1
        cut_what_is_beyond(log, position, save_lost)
        end = log.end
        if not end or not end.txid or not first - 1 <= end.txid or _forked(end, epochs):
            table, page1 = log_snapshot(log, commits, file, position, at_ms)
            capture = Capture(database, log, table, tail, page1, reached=reached)
        else:
            logged = end.txid - first + 1
            table, page1 = _table_at(end, directory, database, commits[:logged], file)
            capture = Capture(database, log, table, tail, page1, reached=reached)
            capture.adopt(
                [
                    Captured(commit, Position(_epoch_of(txid, epochs), txid), at_ms)
                    for txid, commit in enumerate(commits[logged:], end.txid + 1)
                ]
            )
            capture.write(merged=False)
        log.sync()
        tail.allow_restart(frames)
        return capture
    finally:
        file.close()


def cut_what_is_beyond(
    log: TransactionLog, position: Position, save_lost: Callable[[Position], None]
) -> None:
    """A log that is ahead of its database is of a branch that the database was taken back from."""
    end = log.end
    if end is None or end.txid <= position.txid:
        return
    known = log.position_of(position.txid)
    if known is not None and known.epoch == position.epoch:
        save_lost(known)
        log.cut_after(known)
    else:
        save_lost(log.base or Position(0, 0))
        log.reset()


def _forked(end: Position, epochs: Epochs) -> bool:
    """Whether the log ends on a branch that is not the database's."""
    return end.txid > 0 and end.epoch != _epoch_of(end.txid, epochs)


def _epoch_of(txid: int, epochs: Epochs) -> int:
    return max((epoch for epoch, first in epochs if first <= txid), default=0)


def _table_at(
    end: Position,
    directory: Path,
    database: Path,
    logged: Sequence[WalCommit],
    file: PageReader,
) -> tuple[PageChecksums, bytes]:
    """The table at the end of the log, and page 1 there. `logged` are the transactions of the WAL
    up to that place; a page that none of them has is in the file as it was."""
    size, page = overlaid(logged, file)
    page1 = page(1)
    assert end.checksum is not None
    table = load(directory, end, database)
    if table is None:
        table = PageChecksums.all_unknown(size, end.checksum)
        for pgno in sorted({pgno for commit in logged for pgno in commit.found}):
            if pgno <= size:
                found = normalise(page1, end.epoch, end.txid) if pgno == 1 else page(pgno)
                table.fill(pgno, page_checksum(pgno, found))
    return table, page1
