"""A replica's log, replayed into its database after an unclean stop.

Guarantees: where the log holds from what is known to be on the disk to its end, and reaches as far
as the database says of itself, the database is at the end of the log afterwards, durably; else it
is as it was, and `problem` says in a sentence what is wrong. It does not read the whole database.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication.drivers import page_checksums, rollback
from petsem.replication.drivers.apply import Applied, Applier, Busy
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.locks import PENDING_MAX_S
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import DamagedRecord, LogError
from petsem.replication.image import stamp
from petsem.replication.ltx import LtxError
from petsem.replication.page_set import NotApplicable, commit_of, stamp_of
from petsem.replication.rolling import PageChecksums
from petsem.server.datadir import DataDir
from petsem.server.replica.batches import EVERYTHING, read_batch
from petsem.server.replica.install import remember_synced
from petsem.server.replica.offload import offload
from petsem.server.replica.patience import until_free
from petsem.server.replica.staging import Progress

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Recovered:
    """`at` is None for a node without data, or with a `problem`."""

    log: TransactionLog
    applier: Applier
    at: Position | None
    table: PageChecksums
    staged: Progress | None
    problem: str | None = None


async def replay(
    found: Recovered, synced: int, place: Position | None, datadir: DataDir, helper: Executor
) -> None:
    """Bring the database, which is on the disk up to `synced` and says that it is at `place`, to
    the end of the log."""
    start, end = await offload(helper, known_at, found.log, synced), found.log.end
    assert end is not None
    if start is None:
        what = "misses" if synced <= end.txid else "ends before"
        found.problem = f"the log {what} transactions that the database needs"
        return
    if place is not None and place.txid > end.txid:
        # Replayed, it would be a mixture of two positions.
        found.problem = "the log ends before transactions that the database has"
        return
    try:
        if start != end:
            await replay_to(found, start, end, datadir, helper)
            await offload(helper, settle, found, datadir, end)
    except (LogError, LtxError, NotApplicable) as e:
        log.error("replay_failed", after=str(start), error=str(e))
        if isinstance(e, DamagedRecord):
            await offload(helper, found.log.quarantine, e.txid)
        found.problem = "the log is damaged where the database needs it"
        return
    await offload(helper, _take_table, found, datadir, end)


async def replay_to(
    found: Recovered, start: Position, end: Position, datadir: DataDir, helper: Executor
) -> None:
    """The pages of all transactions after `start` and up to `end`, as one transaction. Raises what
    keeps it from that, and then the database is as it was."""

    def once() -> Applied | Busy:
        batch = read_batch(found.log, start, EVERYTHING, until=end)
        if batch is None or batch.end != end:
            raise NotApplicable("log-gap")
        return found.applier.try_apply(
            batch.pages,
            batch.commit,
            before=None,
            after=stamp(end.epoch, end.txid),
            patience_s=PENDING_MAX_S,
        )

    await until_free(once, helper, datadir.database)


def settle(found: Recovered, datadir: DataDir, at: Position) -> None:
    """Note that the database is on the disk up to `at`."""
    found.applier.sync()
    remember_synced(datadir, at.txid)


def known_at(transactions: TransactionLog, txid: int) -> Position | None:
    """Where the database stood after `txid`, if the log has that and it can be read."""
    with contextlib.suppress(LogError):
        return transactions.position_of(txid)
    return None


def _take_table(found: Recovered, datadir: DataDir, end: Position) -> None:
    """The checksums that a clean stop has left, or the beginning of a table."""
    if rollback.is_hot(rollback.journal_path(datadir.database)):
        rollback.roll_back(datadir.database, found.applier.vfs)
    reader = PageReader(datadir.database, vfs=found.applier.vfs)
    try:
        page1, held_pages = reader.read(1), reader.size_pages()
    except PetsemError:
        page1, held_pages = None, 0
    finally:
        reader.close()
    assert end.checksum is not None
    if page1 is None or stamp_of(page1) != stamp(end.epoch, end.txid):
        found.problem = "the database is not where the log ends: something else has written to it"
    elif held_pages != commit_of(page1):
        found.problem = "the database file has not the length that its first page gives"
    else:
        table = page_checksums.load(datadir.path, end, datadir.database)
        found.table = table or PageChecksums.all_unknown(held_pages, end.checksum)
        found.at = end
