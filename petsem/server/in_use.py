"""A change of the database file that another process is in the way of, which has it open.

Guarantees: the change is tried again and again for a few seconds, and whoever asked for it is told
then; reads go on between two tries, from the file as it is; `view.waits` names the process for as
long as it is in the way, and the log does every ten seconds. It ends nobody's process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar

import structlog

from petsem.replication.drivers.role_change import DatabaseInUse
from petsem.server.cluster_view import ClusterView
from petsem.server.database import ReadPool

log = structlog.get_logger(__name__)

T = TypeVar("T")

CHANGING: Final = "the node is changing its role; ask another node, or again in a moment"
WAIT_S: Final = 4.0
PAUSE_S: Final = 0.25
SAY_EVERY_S: Final = 10.0


class InUse:
    """Waits for one node's database."""

    def __init__(self, pool: ReadPool, view: ClusterView, helper: Executor) -> None:
        self._pool = pool
        self._view = view
        self._helper = helper
        self._said_s = -math.inf

    async def until_free(self, change: Callable[[], T]) -> T:
        """The result of `change`, on the helper thread with the pool's connections closed, which
        they are when this returns. Raises `DatabaseInUse` after `WAIT_S`; then the pool reads."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WAIT_S
        while True:
            self._pool.pause(CHANGING)
            try:
                result = await loop.run_in_executor(self._helper, change)
            except DatabaseInUse as e:
                self._say(e, loop.time())
                self._pool.resume()
                if loop.time() >= until_s:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                self._view.waits, self._said_s = None, -math.inf
                return result

    def _say(self, error: DatabaseInUse, now_s: float) -> None:
        waits = self._view.waits = f"{error.message}; end that"
        if now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            log.warning("role_change_waits", message=waits)
