"""A replica's files after whatever ended its last run.

Guarantees: when `recover` returns, either the database is at the end of the log, with everything
durable in it, or `problem` says in a sentence why only a snapshot helps; nothing was deleted that
the snapshot does not replace. The log decides: what is in it is replayed, from where the database
file is known to be on the disk, as one transaction of whole pages.
It does not read the whole database: a page that was damaged is found by the scan, or when it is
read.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication import steps
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
from petsem.server.replica import staging as staged_files
from petsem.server.replica.batches import EVERYTHING, read_batch
from petsem.server.replica.errors import BadFrame
from petsem.server.replica.install import install, remember_synced
from petsem.server.replica.offload import offload
from petsem.server.replica.patience import until_free
from petsem.server.replica.staging import Progress, Staging

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


async def recover(
    datadir: DataDir, helper: Executor, reached: steps.Reached, segment_bytes: int
) -> Recovered:
    """Open log and database. Raises OSError, `PetsemError` or `ApplyFailed` if the disk refuses;
    then it may be called again."""
    synced = datadir.read_state().synced_txid
    transactions = await offload(helper, _open_log, datadir, synced, reached, segment_bytes)
    _make_database(datadir)
    applier = Applier(datadir.database, reached=reached)
    try:
        staged = staged_files.found(datadir.path)
        if staged is not None and staged.complete:
            installed = await _finish(staged, applier, transactions, datadir, helper, reached)
            if installed is not None:
                return Recovered(transactions, applier, transactions.end, installed, None)
            staged = None
        found = Recovered(transactions, applier, None, PageChecksums(), staged)
        await _replay(found, synced, datadir, helper)
        return found
    except BaseException:
        applier.close()
        transactions.close()
        raise


def _open_log(
    datadir: DataDir, synced: int | None, reached: steps.Reached, segment_bytes: int
) -> TransactionLog:
    transactions = TransactionLog.open(
        datadir.log, durable_txid=synced or 0, segment_bytes=segment_bytes, reached=reached
    )
    if transactions.report.torn_bytes:
        log.info("log_tail_cut", torn_bytes=transactions.report.torn_bytes)
    for damage in transactions.report.damage:
        log.error("log_damaged", damage=str(damage))
    for gap in transactions.gaps:
        if synced is not None and gap.until.txid <= synced:
            # History that this node needs no more; a follower that does takes a snapshot.
            transactions.drop_before(gap.until.txid)
    return transactions


def _make_database(datadir: DataDir) -> None:
    try:
        # Never one that is there: closing that would drop SQLite's locks on it.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(datadir.database, flags, 0o600))
    except FileExistsError:
        return


async def _finish(
    staged: Progress,
    applier: Applier,
    transactions: TransactionLog,
    datadir: DataDir,
    helper: Executor,
    reached: steps.Reached,
) -> PageChecksums | None:
    """Go on with a snapshot that was being applied; None if it does not hold."""
    staging = await offload(helper, Staging.resume, datadir.path, staged)
    try:
        return await install(staging, applier, transactions, datadir, helper, reached)
    except BadFrame as e:
        # Its journal, if it got as far, takes the database back to where the log ends.
        log.error("snapshot_damaged", reason=e.reason)
        return None


async def _replay(found: Recovered, synced: int | None, datadir: DataDir, helper: Executor) -> None:
    """Bring the database to the end of the log, or say why that cannot be."""
    base, end = found.log.base, found.log.end
    if base is None or end is None or end.txid == 0:
        return
    if synced is None and end != base:
        # Its disk failed when a snapshot had just been applied: what the log has would undo a part.
        found.problem = "the log is of the database that the last snapshot has replaced"
        return
    start = base if synced is None else found.log.position_of(synced)
    if start is None:
        what = "misses" if synced is not None and synced <= end.txid else "ends before"
        found.problem = f"the log {what} transactions that the database needs"
        return
    try:
        if start != end:
            await until_free(lambda: _replay_once(found, start, end), helper, datadir.database)
            await offload(helper, _settle, found, datadir, end)
    except (LogError, LtxError, NotApplicable) as e:
        log.error("replay_failed", after=str(start), error=str(e))
        if isinstance(e, DamagedRecord):
            await offload(helper, found.log.quarantine, e.txid)
        found.problem = "the log is damaged where the database needs it"
        return
    await offload(helper, _take_table, found, datadir, end)


def _replay_once(found: Recovered, start: Position, end: Position) -> Applied | Busy:
    batch = read_batch(found.log, start, EVERYTHING)
    if batch is None or batch.end != end:
        raise NotApplicable("log-gap")
    return found.applier.try_apply(
        batch.pages,
        batch.commit,
        before=None,
        after=stamp(end.epoch, end.txid),
        patience_s=PENDING_MAX_S,
    )


def _settle(found: Recovered, datadir: DataDir, end: Position) -> None:
    found.applier.sync()
    remember_synced(datadir, end.txid)


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
