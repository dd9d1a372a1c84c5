"""`kill -9` of the leader under load, with replicas that follow it.

The seed is printed on failure; `PETSEM_KILL_SEED` runs with another one and `PETSEM_KILLS` kills
that often.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Final

from tests.support.doors import values_of
from tests.support.fleet import fleet
from tests.support.offline import Disk
from tests.support.write_load import writing

SEED: Final = int(os.environ.get("PETSEM_KILL_SEED", "20260105"))
KILLS: Final = int(os.environ.get("PETSEM_KILLS", "3"))
RUN_S: Final = (0.0, 0.8)


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Every write that was acknowledged is on the leader and on both replicas in the end, no TXID
    was given twice, each start has an epoch of its own, and nobody needed a snapshot."""
    print(f"PETSEM_KILL_SEED={SEED} PETSEM_KILLS={KILLS}")
    chance = random.Random(SEED)
    with fleet(tmp_path, 2) as cluster:
        leader = cluster.leader
        before = Disk(leader.directory).rows("SELECT max(epoch) FROM epochs")[0][0]
        async with writing(leader, seed=SEED) as load:
            for _ in range(KILLS):
                await load.more(5)
                await asyncio.sleep(chance.uniform(*RUN_S))
                await asyncio.to_thread(leader.daemon.kill)
                await asyncio.to_thread(leader.daemon.start)
            await load.more(5)
        assert load.answers > 10 * KILLS
        assert load.retried > 0
        cluster.converged()
        expected = {name: value.encode() for name, value in load.values.items()}
        for node in cluster.nodes:
            with node.doors() as doors:
                fetched = doors.fetch("acme/web")
                assert values_of(fetched) == {"FIRST": b"1", **expected}
                # The one before the load was the first.
                assert sorted(load.keys) == list(range(2, fetched.message.version + 1))
        epochs = Disk(leader.directory).rows(
            "SELECT epoch, first_txid FROM epochs WHERE epoch > ? ORDER BY epoch", before
        )
        assert [epoch for epoch, _ in epochs] == list(range(before + 1, before + 1 + KILLS))
        for txid, epoch in load.epochs.items():
            begun = [number for number, first in epochs if first <= txid]
            assert epoch == (begun[-1] if begun else before)
        for replica in cluster.replicas:
            told = replica.daemon.log.read_text()
            assert "needs_snapshot" not in told
            assert "snapshot_begins" not in told
