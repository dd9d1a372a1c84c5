"""`kill -9` at random moments of a cluster that is written to: of a replica, and of the leader.

The tests run a few kills with a fixed seed, `python -m tests.faults` as many as are asked for. A
campaign returns what it has seen to hold, in sentences, and raises AssertionError if it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.image import PAGE_SIZE
from tests.support.doors import values_of
from tests.support.fleet import Fleet, Member, fleet
from tests.support.offline import Disk
from tests.support.write_load import WriteLoad, writing

Tell = Callable[[str], None]

REPLICA_RUN_S: Final = (0.0, 0.6)
"""How long a replica that serves goes on before it is killed."""
REPLICA_START_S: Final = (0.2, 1.2)
"""When one is killed that has only begun to start: every third."""
LEADER_RUN_S: Final = (0.0, 0.8)
TOLD_EVERY: Final = 10


async def of_a_replica(root: Path, kills: int, seed: int, tell: Tell = print) -> list[str]:
    """Whenever it is killed, its start included: it ends with the leader's canonical image, nothing
    by snapshot that the log has, and every write that the leader acknowledged."""
    chance = random.Random(seed)
    with fleet(root, 1) as cluster:
        (replica,) = cluster.replicas
        async with writing(cluster.leader, seed=seed) as load:
            for number in range(1, kills + 1):
                await load.more(5)
                await asyncio.sleep(chance.uniform(*REPLICA_RUN_S))
                await asyncio.to_thread(replica.daemon.kill)
                if number % 3 == 0:
                    after_s = chance.uniform(*REPLICA_START_S)
                    await asyncio.to_thread(_start_and_kill, replica, after_s)
                await asyncio.to_thread(replica.daemon.start)
                _progress(tell, number, kills, load)
        assert load.retried == 0
        checked = _settled(cluster, load, kills)
        assert _snapshots(cluster) == 0
        assert replica.daemon.stop() == 0
    return [
        f"a replica was killed {kills + kills // 3} times, and needed no snapshot",
        *checked,
    ]


async def of_the_leader(root: Path, kills: int, seed: int, tell: Tell = print) -> list[str]:
    """Every write that was acknowledged is on the leader and on both replicas in the end, no TXID
    was given twice, each start has an epoch of its own, and goes on with the log that there is.

    A replica may take a snapshot: while the leader is gone one follows the other, which then gets
    in one file what the first one has a part of."""
    chance = random.Random(seed)
    with fleet(root, 2) as cluster:
        leader = cluster.leader
        began = cluster.position()
        before = Disk(leader.directory).rows("SELECT max(epoch) FROM epochs")[0][0]
        async with writing(leader, seed=seed) as load:
            for number in range(1, kills + 1):
                await load.more(5)
                await asyncio.sleep(chance.uniform(*LEADER_RUN_S))
                await asyncio.to_thread(leader.daemon.kill)
                await asyncio.to_thread(leader.daemon.start)
                _progress(tell, number, kills, load)
            await load.more(5)
        # Without these the campaign would have shown little.
        assert load.retried > 0
        checked = _settled(cluster, load, kills)
        epochs = Disk(leader.directory).rows(
            "SELECT epoch, first_txid FROM epochs WHERE epoch > ? ORDER BY epoch", before
        )
        assert [epoch for epoch, _ in epochs] == list(range(before + 1, before + 1 + kills))
        for txid, epoch in load.epochs.items():
            begun = [number for number, first in epochs if first <= txid]
            assert epoch == (begun[-1] if begun else before)
        oldest = next(iter(LogReader.open_read_only(leader.directory / "ltx").infos()))
        assert oldest.min_txid > 1 or oldest.max_txid <= began.txid, "the log began anew"
        snapshots = _snapshots(cluster)
    return [
        f"the leader was killed {kills} times, and {load.retried:,} requests were asked again",
        *checked,
        f"{kills} epochs, one a start, each with TXIDs of its own",
        f"the leader's log never began anew; replicas took {snapshots} snapshots",
    ]


def _settled(cluster: Fleet, load: WriteLoad, kills: int) -> list[str]:
    """Nobody writes any more: what must hold of any such cluster, and what of this load."""
    assert load.answers > 10 * kills
    at = cluster.converged()
    expected = {name: value.encode() for name, value in load.values.items()}
    for node in cluster.nodes:
        with node.doors() as doors:
            fetched = doors.fetch("acme/web")
            assert values_of(fetched) == {"FIRST": b"1", **expected}
            # The one before the load was the first.
            assert sorted(load.keys) == list(range(2, fetched.message.version + 1))
    pages = cluster.leader.database.stat().st_size // PAGE_SIZE
    return [
        f"byte-identical with the leader's canonical image at {at}, about {pages:,} pages: "
        f"{len(cluster.replicas)} of {len(cluster.replicas)} replicas",
        f"none of {load.answers:,} acknowledged writes is missing on any of "
        f"{len(cluster.nodes)} nodes, and none is there twice",
        f"none of {len(load.epochs):,} TXIDs was used twice",
    ]


def _snapshots(cluster: Fleet) -> int:
    """How many the replicas took, over all of their runs."""
    told = [replica.daemon.log.read_text() for replica in cluster.replicas]
    assert not any("needs_snapshot" in each for each in told)
    return sum(each.count('"snapshot_begins"') for each in told)


def _progress(tell: Tell, number: int, kills: int, load: WriteLoad) -> None:
    if number % TOLD_EVERY == 0 or number == kills:
        tell(f"{number} of {kills} kills, {load.answers:,} writes acknowledged")


def _start_and_kill(replica: Member, after_s: float) -> None:
    """Kill it while it starts, or soon after."""
    timer = threading.Timer(after_s, lambda: replica.daemon.signal(signal.SIGKILL))
    timer.start()
    # It may serve before.
    with contextlib.suppress(AssertionError):
        replica.daemon.start()
    timer.join()
    assert replica.daemon.wait() == -signal.SIGKILL
