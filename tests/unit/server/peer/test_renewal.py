"""A certificate that is renewed in time, late, and never."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from petsem.crypto import ca
from petsem.errors import unavailable
from petsem.server.keys import Keys
from petsem.server.peer.certificates import Authority, open_authority
from petsem.server.peer.identity import OwnCertificate
from petsem.server.peer.renewal import LOOK_AGAIN_S, PAUSE_FIRST_S, Renewal
from tests.unit.server.cluster import Cluster

DAY_S = 86_400
LIFE_S = 90 * DAY_S + 3600


class World:
    """A node's certificate, and a leader that answers, fails or lies."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.own = OwnCertificate(cluster.datadir, cluster.datadir.read_identity())
        with cluster.stopped() as db:
            self.authority: Authority = open_authority(db, Keys(cluster.keyring))
        self.asked = 0
        self.answer: Callable[[bytes], Awaitable[bytes]] = self.issue
        self.renewal = Renewal(self.own, cluster.clock, self._ask)

    async def _ask(self, csr: bytes) -> bytes:
        self.asked += 1
        return await self.answer(csr)

    async def issue(self, csr: bytes) -> bytes:
        return self.authority.node(self.own.node_id, csr, self.cluster.clock.unix_ms())


@pytest.fixture
def world(cluster: Cluster) -> World:
    return World(cluster)


async def test_in_time(world: World) -> None:
    """Nothing happens for two thirds of its life; then one call, and all begins anew."""
    assert await world.renewal.step() == LOOK_AGAIN_S
    due_s = LIFE_S * 2 // 3 - 3600
    world.cluster.clock.advance(due_s - 10)
    assert await world.renewal.step() == 10
    assert world.asked == 0
    world.cluster.clock.advance(10)
    before = world.own.tls.certificate
    await world.renewal.step()
    assert (world.asked, world.own.generation) == (1, 1)
    assert world.own.tls.certificate != before
    now_ms = world.cluster.clock.unix_ms()
    assert world.own.validity[1] == now_ms + 90 * DAY_S * 1000
    assert await world.renewal.step() == LOOK_AGAIN_S
    assert world.renewal.warning is None


async def silent(_: bytes) -> bytes:
    """A leader that cannot be reached."""
    raise unavailable("no leader")


async def test_a_leader_that_does_not_answer(world: World) -> None:
    """It is asked again after growing pauses, an operator is told, and at last it answers."""
    world.answer = silent
    world.cluster.clock.advance(70 * DAY_S)
    pauses = [await world.renewal.step() for _ in range(9)]
    assert pauses[:3] == [PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, 4 * PAUSE_FIRST_S]
    assert pauses[-1] == LOOK_AGAIN_S
    assert world.renewal.warning == (
        "the node's certificate ends on 2027-04-15T08:00:00Z and could not be renewed: no leader"
    )
    world.answer = world.issue
    await world.renewal.step()
    assert (world.renewal.warning, world.own.generation) == (None, 1)


@pytest.mark.parametrize("lie", ["another node", "another key", "nonsense", "a fault"])
async def test_an_answer_that_is_none(world: World, lie: str) -> None:
    """What is not this node's certificate is not taken, and what it had stays."""

    async def lying(csr: bytes) -> bytes:
        now_ms = world.cluster.clock.unix_ms()
        match lie:
            case "another node":
                return world.authority.node("fra-1", csr, now_ms)
            case "another key":
                csr = ca.node_csr(ca.new_node_key())
                return world.authority.node(world.own.node_id, csr, now_ms)
            case "nonsense":
                return b"hunter2"
        raise RuntimeError("hunter2")

    world.answer = lying
    world.cluster.clock.advance(70 * DAY_S)
    before = world.own.tls
    assert await world.renewal.step() == PAUSE_FIRST_S
    assert (world.own.tls, world.own.generation) == (before, 0)
    assert world.renewal.warning is not None
    assert "hunter2" not in world.renewal.warning


async def test_too_late(world: World) -> None:
    """Once it has ended, the warning says what is left to do."""
    world.cluster.clock.advance(90 * DAY_S)
    assert world.renewal.warning == (
        "the node's certificate has ended on 2027-04-15T08:00:00Z, so the other nodes refuse it; "
        "unless it leads, remove it with 'petsem node remove' and join it again in a new directory"
    )
    world.answer = silent
    await world.renewal.step()
    assert world.renewal.warning == (
        "the node's certificate has ended on 2027-04-15T08:00:00Z, so the other nodes refuse it "
        "(no leader); unless it leads, remove it with 'petsem node remove' and join it again in a "
        "new directory"
    )


async def test_start_and_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with a look, and ends when it is told to, also if it never began."""
    await Renewal(world.own, world.cluster.clock, world.issue).stop()
    world.cluster.clock.advance(70 * DAY_S)
    replaced = asyncio.Event()
    loop, replace = asyncio.get_running_loop(), world.own.replace

    def noticed(certificate: bytes) -> None:
        replace(certificate)
        loop.call_soon_threadsafe(replaced.set)

    monkeypatch.setattr(world.own, "replace", noticed)
    world.renewal.start()
    await replaced.wait()
    await world.renewal.stop()
    assert (world.asked, world.own.generation) == (1, 1)
