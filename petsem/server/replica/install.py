"""Putting a verified snapshot in the place of the database's content.

Guarantees: readers, those of other processes too, see the old content or the new; only pages that
differ are written, into the same file, as one transaction. A crash at any moment is gone on with
at the next start, from the staged file, which is thrown away last. Then log and `state.json` begin
at the snapshot's position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Executor

from petsem.replication import steps
from petsem.replication.drivers import rollback
from petsem.replication.drivers.apply import Applied, Applier, Busy
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.locks import PENDING_MAX_S
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.image import stamp
from petsem.replication.rolling import PageChecksums
from petsem.server.datadir import DataDir
from petsem.server.replica import staging as staged_files
from petsem.server.replica.errors import BadFrame
from petsem.server.replica.offload import offload
from petsem.server.replica.patience import until_free
from petsem.server.replica.staging import Staging, differing
from petsem.server.replica.whole import remember_whole, this_boot


async def install(
    staging: Staging,
    applier: Applier,
    transactions: TransactionLog,
    datadir: DataDir,
    helper: Executor,
    reached: steps.Reached,
) -> PageChecksums:
    """Make the database what `staging` is; nothing else may be applying. Closes and removes it.

    Raises `BadFrame` if it does not hold, and then it is gone and the database as it was;
    `ApplyFailed`, OSError and `PetsemError` if the disk refuses, and then it may be called again.
    """
    try:
        table = await offload(helper, staging.table)
        reached(steps.SNAPSHOT_STAGE)
        await offload(helper, staging.complete)
        reached(steps.SNAPSHOT_APPLY)
        await until_free(_attempt(staging, applier), helper, applier.path)
    except BadFrame:
        staging.close()
        staged_files.discard(datadir.path)
        raise
    await offload(helper, _settle, staging, applier, transactions, datadir)
    staging.close()
    return table


def _attempt(staging: Staging, applier: Applier) -> Callable[[], Applied | Busy]:
    at = staging.at

    def attempt() -> Applied | Busy:
        # A rollback behind our back would change what was compared.
        journal = rollback.journal_path(applier.path)
        if rollback.is_hot(journal):
            rollback.roll_back(applier.path, applier.vfs)
            if rollback.is_hot(journal):
                return Busy()
        reader = PageReader(applier.path, vfs=applier.vfs)
        try:
            numbers = differing(staging, reader.pages(1, reader.size_pages()))
        finally:
            reader.close()
        return applier.try_apply(
            staging.pages(numbers),
            staging.commit,
            before=None,
            after=stamp(at.epoch, at.txid),
            patience_s=PENDING_MAX_S,
        )

    return attempt


def _settle(
    staging: Staging, applier: Applier, transactions: TransactionLog, datadir: DataDir
) -> None:
    """Let log and state begin where the database is now."""
    applier.sync()
    # In between the state names no transaction: those of the old log are not this database's.
    remember_synced(datadir, None)
    transactions.reset(staging.at)
    remember_synced(datadir, staging.at.txid)
    remember_whole(datadir, this_boot(datadir))
    staged_files.discard(datadir.path)


def remember_synced(datadir: DataDir, txid: int | None) -> None:
    """How far the database file is on the disk, in `state.json`; on the helper thread."""
    state = datadir.read_state()
    if state.synced_txid != txid:
        datadir.write_state(dataclasses.replace(state, synced_txid=txid))
