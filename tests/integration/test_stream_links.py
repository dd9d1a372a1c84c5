"""Links that are slow, cut in one direction or reset in mid-frame, and a replica that is stopped.

The leader is held to its write latency when nobody follows it, as a ratio, and to its memory.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

from petsem import limits
from tests.support.daemon import until
from tests.support.fleet import Fleet, Member, fleet
from tests.support.keep_alive import KeepAlive
from tests.support.patience import PATIENCE_S
from tests.support.write_load import PATH, median, writing

RATIO_MAX: Final = 8.0
"""Of two medians on a machine that does other things as well. Whoever waits for a replica that does
not answer is slower by orders of magnitude."""
HELD_RATIO_MAX: Final = 4.0
"""Of the best medians with a stopped replica and before, with the same load on the machine."""
WITHIN_S: Final = 60
WRITES: Final = 60
TRIES: Final = 5
"""What the machine does besides comes and goes; a leader that waits does so each time."""
_LARGE: Final = 48 * 1024
_MIB: Final = 2**20
STOPPED_MIB: Final = 4 * limits.STREAM_WINDOW_BYTES // _MIB
"""Written while a replica is stopped: much more than may be on its way to it."""
GROWTH_MAX_MIB: Final = 24
"""Of the leader meanwhile: the window, what gRPC holds of it, and its own caches."""


async def latency_s(leader: Member) -> float:
    """The median latency of so many small writes, one after the other."""
    async with writing(leader, writers=1, pause_s=0.002) as load:
        await load.more(WRITES)
    return median(load.latencies_s)


async def best_s(leader: Member) -> float:
    """The best of some medians: what the machine does besides is in none of all of them."""
    return min([await latency_s(leader) for _ in range(TRIES)])


async def as_fast(leader: Member, alone_s: float) -> float:
    """The same of a leader that is as fast as it was alone, at least in one of some tries."""
    for _ in range(TRIES):
        found_s = await latency_s(leader)
        if found_s < RATIO_MAX * alone_s:
            return found_s
    raise AssertionError(f"{found_s * 1e3:.2f} ms a write, {alone_s * 1e3:.2f} when alone")


async def alone(cluster: Fleet) -> float:
    """The same of a leader that nobody follows yet; then start the others."""
    await asyncio.to_thread(cluster.leader.daemon.start)
    found_s = await latency_s(cluster.leader)
    for replica in cluster.replicas:
        await asyncio.to_thread(replica.daemon.start)
    await asyncio.to_thread(cluster.converged)
    return found_s


async def write_mib(leader: Member, mib: int) -> None:
    """As much that cannot be compressed, half a MiB a write."""
    line = KeepAlive(leader.ports.http, leader.operator)
    for _ in range(2 * mib):
        values = {f"L{number}": os.urandom(_LARGE // 2).hex() for number in range(10)}
        answer = await line.ask("PATCH", PATH, {"set": values})
        assert answer.status == 200, answer
    line.drop()


@contextmanager
def stays_itself(cluster: Fleet) -> Iterator[None]:
    """Through all of it no replica took a snapshot, and no node ended."""
    yield
    assert all(node.daemon.alive for node in cluster.nodes)
    for replica in cluster.replicas:
        told = replica.daemon.log.read_text()
        assert "needs_snapshot" not in told
        assert "snapshot_begins" not in told


async def test_a_stopped_replica(tmp_path: Path) -> None:
    """SIGSTOP: writes are as fast as before, also when no more is on its way to it than
    may be; the leader keeps no more than the window for it, the other replica is served, and the
    stopped one catches up when it goes on."""
    with fleet(tmp_path, 2) as cluster, stays_itself(cluster):
        leader, (stopped, other) = cluster.leader, cluster.replicas
        # Caches fill with the first large writes, whoever follows.
        await write_mib(leader, STOPPED_MIB // 2)
        await asyncio.to_thread(cluster.converged)
        before_mib = leader.resident_mib()
        before_s = await best_s(leader)
        with stopped.held():
            begun_s = await best_s(leader)
            async with asyncio.timeout(WITHIN_S):
                await write_mib(leader, STOPPED_MIB)
            # From here on nothing more can be sent to it: whoever waits for it waits now.
            held_s = await best_s(leader)
            grown_mib = leader.resident_mib() - before_mib
            await asyncio.to_thread(cluster.converged, other)
            left = [each["node"] for each in leader.logged("follower_left")]
            assert stopped.node_id not in left, "it was given up, so nobody could wait for it"
        print([f"{each * 1e3:.2f} ms" for each in (before_s, begun_s, held_s)], grown_mib)
        assert max(begun_s, held_s) < HELD_RATIO_MAX * before_s
        assert grown_mib < GROWTH_MAX_MIB
        await asyncio.to_thread(cluster.converged, stopped)


async def test_slow_and_cut_links(tmp_path: Path) -> None:
    """Over a slow link, and one that loses everything in one direction, in silence, the leader
    writes as before; the replica says what is wrong and how old its answers may be, goes on
    answering, and has everything soon after the link is good again."""
    with fleet(tmp_path, 1, proxied=True, start=False) as cluster, stays_itself(cluster):
        leader, (replica,), link = cluster.leader, cluster.replicas, cluster.link
        alone_s = await alone(cluster)

        link.down.bytes_per_s = 20_000
        await write_mib(leader, 1)
        slow_s = await as_fast(leader, alone_s)
        at = cluster.position()
        behind = await asyncio.to_thread(replica.position)
        assert behind is not None
        assert behind.txid < at.txid, "the link was not slow"
        link.heal()
        await asyncio.to_thread(cluster.converged)

        link.down.cut = True
        cut_s = await as_fast(leader, alone_s)
        connected = link.connections

        def complains() -> bool:
            own = replica.own()
            return bool(own["last_error"]) and own["lag_ms"] > 3_000

        await asyncio.to_thread(until, complains, "complaint")
        with replica.doors() as doors:
            assert doors.fetch("acme/web").message.secrets
        link.heal()
        await asyncio.to_thread(cluster.converged)
        assert link.connections > connected
        await asyncio.to_thread(until, lambda: replica.own()["last_error"] is None, "recovery")

        link.up.cut = True
        deaf_s = await as_fast(leader, alone_s)
        link.heal()
        await asyncio.to_thread(cluster.converged)
        print([f"{each * 1e3:.2f} ms" for each in (alone_s, slow_s, cut_s, deaf_s)])


async def test_resets_in_mid_frame(tmp_path: Path) -> None:
    """A link that is reset again and again, a few bytes into whatever is on it, costs repeated
    connections and nothing else."""
    dice = random.Random(20260106)
    with fleet(tmp_path, 1, proxied=True) as cluster, stays_itself(cluster):
        (replica,), link = cluster.replicas, cluster.link
        for number in range(1, 4):
            link.down.reset_after = dice.randrange(20_000, 400_000)
            began_s = perf_counter()
            while link.resets < number:
                assert perf_counter() - began_s < PATIENCE_S
                await write_mib(cluster.leader, 1)
            # Connected again, so that the next one is in the middle of something too.
            await asyncio.to_thread(replica.has, cluster.position())
        await asyncio.to_thread(cluster.converged)
        assert link.resets == 3
