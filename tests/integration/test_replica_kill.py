"""`kill -9` of a replica at any moment, its start included, while its leader is written to.

The seed is printed on failure; `PETSEM_KILL_SEED` runs with another one and `PETSEM_KILLS` kills
that often.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
from pathlib import Path
from typing import Final

from tests.support.doors import values_of
from tests.support.fleet import Member, fleet
from tests.support.write_load import writing

SEED: Final = int(os.environ.get("PETSEM_KILL_SEED", "20260104"))
KILLS: Final = int(os.environ.get("PETSEM_KILLS", "6"))
RUN_S: Final = (0.0, 0.6)
"""How long a replica that serves goes on before it is killed."""
START_S: Final = (0.2, 1.2)
"""When one is killed that has only begun to start: every third."""


async def test_it_ends_byte_identical(tmp_path: Path) -> None:
    """However often and whenever it was killed: the leader's canonical image, nothing by snapshot
    that the log has, and every write that the leader acknowledged."""
    print(f"PETSEM_KILL_SEED={SEED} PETSEM_KILLS={KILLS}")
    chance = random.Random(SEED)
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        async with writing(cluster.leader, seed=SEED) as load:
            for number in range(KILLS):
                await load.more(5)
                await asyncio.sleep(chance.uniform(*RUN_S))
                await asyncio.to_thread(replica.daemon.kill)
                if number % 3 == 2:
                    await asyncio.to_thread(_start_and_kill, replica, chance.uniform(*START_S))
                await asyncio.to_thread(replica.daemon.start)
        assert load.retried == 0
        assert load.answers > 10 * KILLS
        cluster.converged()
        with replica.doors() as doors:
            stored = values_of(doors.fetch("acme/web"))
        expected = {name: value.encode() for name, value in load.values.items()}
        assert stored == {"FIRST": b"1", **expected}
        told = replica.daemon.log.read_text()
        assert "needs_snapshot" not in told
        assert "snapshot_begins" not in told
        assert replica.daemon.stop() == 0


def _start_and_kill(replica: Member, after_s: float) -> None:
    """Kill it while it starts, or soon after."""
    timer = threading.Timer(after_s, lambda: replica.daemon.signal(signal.SIGKILL))
    timer.start()
    # It may serve before.
    with contextlib.suppress(AssertionError):
        replica.daemon.start()
    timer.join()
    assert replica.daemon.wait() == -signal.SIGKILL
