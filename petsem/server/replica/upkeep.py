"""What a replica's files need from time to time: syncs of the database, and a shorter log.

Guarantees: the log is never cut behind what recovery needs, which is everything since the database
was last known to be on the disk; `state.json` names that transaction only after the sync. All of it
runs on the helper thread. A disk that refuses is tried again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import structlog

from petsem import limits
from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication.drivers.apply import Applier
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.image import PAGE_SIZE
from petsem.replication.retention import DEFAULT, Retention, droppable
from petsem.server.datadir import DataDir
from petsem.server.replica.install import remember_synced
from petsem.server.replica.offload import offload

log = structlog.get_logger(__name__)

_SEGMENT_MS: Final = 24 * 3600 * 1000
_SEGMENTS_OF_AGE: Final = 7
"""Only whole segments go, so one takes in no more than this part of the age that is allowed."""


class Upkeep:
    """Counts what was applied; `applied` asks where the database is."""

    def __init__(
        self,
        datadir: DataDir,
        applier: Applier,
        helper: Executor,
        applied: Callable[[], Position],
        *,
        after_s: float = limits.SYNC_DATABASE_S,
        after_bytes: int = limits.SYNC_DATABASE_BYTES,
    ) -> None:
        self._datadir = datadir
        self._applier = applier
        self._helper = helper
        self._applied = applied
        self._after_s = after_s
        self._after_bytes = after_bytes
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def wrote(self, pages: int) -> None:
        """So many pages were applied."""
        self._bytes += pages * PAGE_SIZE
        if self._bytes >= self._after_bytes:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._after_s, self._begin)

    async def sync(self) -> None:
        """Make what is applied survive a loss of power. Raises `ApplyFailed`, `PetsemError`."""
        await offload(self._helper, self._sync, self._applied().txid)

    async def stop(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self._cancel_timer()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._cancel_timer()

    def _begin(self) -> None:
        self._cancel_timer()
        if self._task is None:
            self._bytes = 0
            self._task = asyncio.create_task(self._run(), name="sync-database")

    async def _run(self) -> None:
        try:
            await self.sync()
        except PetsemError as e:
            log.error("database_not_synced", message=e.message)
            # What was applied is in the log, so the next time will do.
            self._timer = asyncio.get_running_loop().call_later(self._after_s, self._begin)
        finally:
            self._task = None

    def _sync(self, txid: int) -> None:
        self._applier.sync()
        remember_synced(self._datadir, txid)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def trim(
    transactions: TransactionLog,
    needed_txid: int,
    floor_txid: int | None,
    now_ms: int,
    bounds: Retention = DEFAULT,
) -> None:
    """Drop whole segments that nobody needs: followers have everything up to `floor_txid` (None:
    there are none), recovery needs what follows `needed_txid`. Beyond the bounds the oldest go
    though a follower needs them; it takes a snapshot then."""
    acknowledged = needed_txid if floor_txid is None else min(floor_txid, needed_txid)
    txid = droppable(transactions.segments, acknowledged, now_ms, bounds)
    if txid is not None:
        transactions.drop_before(min(txid, needed_txid))
    last = transactions.segments[-1:]
    segment_ms = min(_SEGMENT_MS, bounds.most_age_s * 1000 / _SEGMENTS_OF_AGE)
    if last and last[0].oldest_ms is not None and now_ms - last[0].oldest_ms > segment_ms:
        # Else what was destroyed would stay in a segment that a quiet cluster never fills.
        transactions.roll()
