"""A replica's files after whatever ended its last run.

Guarantees: when `recover` returns, either the database is at the end of the log, with everything
durable in it, or `problem` says in a sentence why only a snapshot helps; nothing was deleted that
the snapshot does not replace. The log decides: what is in it is replayed, from where the database
file is known to be on the disk, as one transaction of whole pages. Where it is damaged or gone, a
database that can be shown to be whole is where the log ends from then on.
It does not read the whole of a database whose log holds: a page that was damaged is found by the
scan, or when it is read.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor

import structlog

from petsem.replication import steps
from petsem.replication.drivers.apply import Applier
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.rolling import PageChecksums
from petsem.server.datadir import DOUBTED, DataDir, NodeState
from petsem.server.replica import staging as staged_files
from petsem.server.replica.errors import BadFrame
from petsem.server.replica.install import install
from petsem.server.replica.offload import offload
from petsem.server.replica.replaying import Recovered, replay
from petsem.server.replica.staging import Progress, Staging
from petsem.server.replica.standing import stand
from petsem.server.replica.whole import place_of, remember_whole, this_boot, untorn

log = structlog.get_logger(__name__)


async def recover(
    datadir: DataDir, helper: Executor, reached: steps.Reached, segment_bytes: int
) -> Recovered:
    """Open log and database. Raises OSError, `PetsemError` or `ApplyFailed` if the disk refuses;
    then it may be called again."""
    state, trusted = datadir.read_state(), untorn(datadir)
    if not trusted:
        # Before the log is set right: a start that finds it so must not think that it was.
        await offload(helper, remember_whole, datadir, DOUBTED)
    transactions = await offload(
        helper, _open_log, datadir, state.synced_txid, reached, segment_bytes
    )
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
        await _settle_database(found, state, trusted, datadir, helper)
        if found.at is not None:
            await offload(helper, remember_whole, datadir, this_boot(datadir))
        return found
    except BaseException:
        applier.close()
        transactions.close()
        raise


def _open_log(
    datadir: DataDir, synced: int | None, reached: steps.Reached, segment_bytes: int
) -> TransactionLog:
    # Whoever deleted the log gets a new one.
    datadir.log.mkdir(mode=0o700, exist_ok=True)
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


async def _settle_database(
    found: Recovered, state: NodeState, trusted: bool, datadir: DataDir, helper: Executor
) -> None:
    """Bring the database to the end of the log, or have the log go on where the database is.
    `trusted`: no page of it is torn."""
    base, end, synced = found.log.base, found.log.end, state.synced_txid
    lost_its_end = any(damage.until_txid is None for damage in found.log.report.damage)
    if datadir.database.stat().st_size == 0:
        if synced is not None:
            found.problem = "the database file was deleted or emptied"
        return
    place = await offload(helper, place_of, datadir.database, found.applier.vfs)
    if base is None or end is None or end.txid == 0:
        found.problem = "the transaction log was deleted or emptied"
    elif state.whole_in == DOUBTED:
        found.problem = "nothing has shown it to be whole since an earlier start"
    elif lost_its_end and not (trusted and place):
        found.problem = "the end of the transaction log is damaged"
    elif synced is not None or end == base:
        start_txid = base.txid if synced is None else synced
        await replay(found, start_txid, place, datadir, helper)
    else:
        # Its disk failed when a snapshot had just been applied: what the log has would undo a part.
        found.problem = "the log is of the database that the last snapshot has replaced"
    if found.problem is not None:
        await stand(found, synced, place, trusted, datadir, helper)
