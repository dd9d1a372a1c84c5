"""A replica's log that does not hold: a record that was read is damaged, or its files were deleted.

Guarantees: nothing that is applied is lost, because the database is on the disk, and `state.json`
says so, before a record goes or the log begins anew. What was durable and not applied is no longer
said to be here, so that it is sent again. Followers who need what went take a snapshot. It fetches
nothing itself.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor

import structlog

from petsem.model import Position
from petsem.replication.drivers.apply import Applier
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError
from petsem.replication.rolling import PageChecksums
from petsem.server.datadir import DataDir
from petsem.server.replica.install import remember_synced
from petsem.server.replica.offload import offload
from petsem.server.replica.receiving import Receiving

log = structlog.get_logger(__name__)


class Mending:
    """Mends the log, and has `receiving` go on where it ends then."""

    def __init__(
        self,
        datadir: DataDir,
        transactions: TransactionLog,
        applier: Applier,
        receiving: Receiving,
        reader: PageReader,
        helper: Executor,
    ) -> None:
        self._datadir = datadir
        self._log = transactions
        self._applier = applier
        self._receiving = receiving
        self._reader = reader
        self._helper = helper

    async def set_aside(self, txid: int, applied: Position) -> None:
        """The record that holds `txid`, with the database at `applied` and nothing being applied.

        Raises what the disk does.
        """
        await offload(self._helper, self._set_aside, txid, applied)
        self._go_back(applied)

    async def begin_anew(self, applied: Position) -> None:
        """The log's files were deleted: it begins where the database is, with nothing being
        applied. Raises what the disk does."""
        await offload(self._helper, self._begin_anew, applied)
        self._go_back(applied)

    def _go_back(self, applied: Position) -> None:
        if self._receiving.end != applied:
            # The sender has the rest, and the database is where it was before that.
            commit = self._reader.size_pages()
            assert applied.checksum is not None
            self._receiving.move(PageChecksums.all_unknown(commit, applied.checksum))

    def _begin_anew(self, applied: Position) -> None:
        self._sync(applied)
        self._log.reset(applied)

    def _sync(self, applied: Position) -> None:
        """The records that would bring the database back after a loss of power may go."""
        self._applier.sync()
        remember_synced(self._datadir, applied.txid)

    def _set_aside(self, txid: int, applied: Position) -> None:
        self._sync(applied)
        with contextlib.suppress(LogError):
            for damage in self._log.quarantine(txid):
                log.error("log_damaged", damage=str(damage))
        for gap in self._log.gaps:
            if gap.until.txid <= applied.txid:
                self._log.drop_before(gap.until.txid)
        if self._log.gaps or self._log.end != self._receiving.end:
            self._log.reset(applied)
