"""Applying when somebody else may be reading the database.

Guarantees: each try runs on the helper thread and gives up after a few milliseconds, so that other
readers are let in between; after a second a warning names who is in the way. It never gives up by
itself: the log has the transactions, and the node says how old its answers are.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import structlog

from petsem.replication.drivers.apply import Applied, Busy
from petsem.replication.drivers.holders import lock_holders
from petsem.replication.drivers.locks import NAME_HOLDERS_AFTER_S, wait_s
from petsem.server.replica.offload import offload

log = structlog.get_logger(__name__)


async def until_free(
    attempt: Callable[[], Applied | Busy], helper: Executor, database: Path
) -> Applied:
    """Repeat `attempt`, which may wait `locks.PENDING_MAX_S`, until nobody is in its way."""
    loop = asyncio.get_running_loop()
    began_s, count, named = loop.time(), 0, False
    while True:
        outcome = await offload(helper, attempt)
        if isinstance(outcome, Applied):
            if named:
                log.warning("apply_goes_on", waited_s=round(loop.time() - began_s, 1))
            return outcome
        if not named and loop.time() - began_s >= NAME_HOLDERS_AFTER_S:
            named = True
            holders = [pid for pid in lock_holders(database) if pid != os.getpid()]
            log.warning(
                "apply_waits",
                pids=holders,
                message="another process holds a lock on the database, so it cannot be brought up"
                " to date; answers say how old they are",
            )
        await asyncio.sleep(wait_s(count, random.random()))  # noqa: S311 - spreads tries
        count += 1
