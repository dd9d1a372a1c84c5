"""Requests that a replica passes on, over the connection that its stream runs on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem import limits
from petsem.errors import Code, PetsemError, limited, unavailable
from petsem.server.peer.dial import FORWARD
from petsem.server.replica import upstream
from petsem.wire import petsem_pb2 as pb
from tests.support.fake_leader import Talk, World, eventually, following
from tests.support.patience import PATIENCE_S

ASKED = pb.ForwardRequest(method="PUT", path="/v1/x", body=b"b", client_ip="192.0.2.1", hops=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await asyncio.Event().wait()

    async with following(tmp_path, None, script, start=False) as found:
        yield found


async def _connect(world: World) -> None:
    """Until the connection for requests stands as well."""

    async def answer(_: pb.ForwardRequest) -> pb.ForwardResponse:
        return pb.ForwardResponse()

    asked, world.leader.forwarded = world.leader.forwarded, answer
    world.replica.follow.start()
    await eventually(lambda: world.replica.upstream.connected)
    while True:
        # It waits for a connection itself, but not for as long as a busy machine may need.
        with contextlib.suppress(PetsemError):
            await world.replica.upstream.forward(ASKED, PATIENCE_S)
            break
    world.leader.forwarded = asked


async def _refused(
    world: World,
    request: pb.ForwardRequest = ASKED,
    *,
    timeout_s: float = PATIENCE_S,
    changes: bool = True,
) -> Code:
    with pytest.raises(PetsemError) as refused:
        await world.replica.upstream.forward(request, timeout_s, changes=changes)
    return refused.value.code


async def test_a_request_is_passed_on(world: World) -> None:
    """As it is, with one hop more; the caller's own is left alone."""
    seen = []

    async def answer(request: pb.ForwardRequest) -> pb.ForwardResponse:
        seen.append(request)
        return pb.ForwardResponse(status=201, body=b"made")

    world.leader.forwarded = answer
    await _connect(world)
    assert world.replica.upstream.node_id == world.leader.node_id
    reply = await world.replica.upstream.forward(ASKED, PATIENCE_S)
    assert reply == pb.ForwardResponse(status=201, body=b"made")
    passed = pb.ForwardRequest()
    passed.CopyFrom(ASKED)
    passed.hops = 2
    assert (seen, ASKED.hops) == ([passed], 1)


async def test_nobody_to_ask(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has happened, for certain."""
    monkeypatch.setattr(upstream, "RECONNECT_S", 0.05)
    assert await _refused(world) is Code.UNAVAILABLE
    assert await _refused(world, timeout_s=0.01) is Code.UNAVAILABLE


async def test_a_connection_that_is_made_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request waits for it."""
    monkeypatch.setattr(upstream, "RECONNECT_S", PATIENCE_S)

    async def answer(_: pb.ForwardRequest) -> pb.ForwardResponse:
        return pb.ForwardResponse(status=200)

    world.leader.forwarded = answer
    asking = asyncio.create_task(world.replica.upstream.forward(ASKED, PATIENCE_S))
    await asyncio.sleep(0)
    world.replica.follow.start()
    assert (await asking).status == 200


async def test_in_circles(world: World) -> None:
    """A request that has passed as many nodes as it may goes no further."""
    await _connect(world)
    tired = pb.ForwardRequest(hops=limits.FORWARD_HOPS_MAX)
    assert await _refused(world, tired) is Code.UNAVAILABLE


async def test_too_large(world: World) -> None:
    """The caller's fault, and said before anything is sent."""
    await _connect(world)
    large = pb.ForwardRequest(body=bytes(limits.PEER_REQUEST_MAX_BYTES))
    assert await _refused(world, large) is Code.INVALID


async def test_the_upstream_s_own_word(world: World) -> None:
    """What it says itself is passed on, also that it cannot now."""

    async def refuse(_: pb.ForwardRequest) -> pb.ForwardResponse:
        raise errors.pop()

    world.leader.forwarded = refuse
    await _connect(world)
    errors = [unavailable("no leader"), limited("too much")]
    assert [await _refused(world), await _refused(world)] == [Code.LIMIT, Code.UNAVAILABLE]


@pytest.mark.parametrize(
    ("changes", "code"), [(True, Code.INDETERMINATE), (False, Code.UNAVAILABLE)]
)
async def test_an_answer_that_is_late(world: World, changes: bool, code: Code) -> None:
    """A change may have been made; a question is merely not answered."""
    await _connect(world)
    _never_answers(world)
    assert await _refused(world, timeout_s=0.1, changes=changes) is code


@pytest.mark.parametrize(
    ("changes", "code"), [(True, Code.INDETERMINATE), (False, Code.UNAVAILABLE)]
)
@pytest.mark.parametrize("whose", ["leader", "own"])
async def test_an_answer_that_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, whose: str, changes: bool, code: Code
) -> None:
    """The connection ends while the request is under way, at the other end or at this one."""
    monkeypatch.setattr("petsem.server.replica.follow.CLOSE_S", 0.05)
    await _connect(world)
    arrived = _never_answers(world)
    asking = asyncio.create_task(_refused(world, changes=changes))
    await arrived.wait()
    if whose == "leader":
        await world.port.server.stop(0)
    else:
        world.replica.follow.again()
    assert await asking is code


async def test_a_call_of_this_node_s_own_that_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error like any other, and ends nobody's task."""
    monkeypatch.setattr("petsem.server.replica.follow.CLOSE_S", 0.05)
    await _connect(world)
    arrived = _never_answers(world)
    upstream = world.replica.upstream
    asking = asyncio.create_task(upstream.ask(FORWARD, ASKED, pb.ForwardResponse, PATIENCE_S))
    await arrived.wait()
    world.replica.follow.again()
    with pytest.raises(PetsemError) as lost:
        await asking
    assert lost.value.code is Code.UNAVAILABLE


async def test_a_caller_that_leaves(world: World) -> None:
    """Is not kept, and hears nothing of lost answers."""
    await _connect(world)
    arrived = _never_answers(world)
    asking = asyncio.create_task(world.replica.upstream.forward(ASKED, PATIENCE_S))
    await arrived.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


def _never_answers(world: World) -> asyncio.Event:
    """Make the leader take requests and say nothing; the event is set when it has one."""
    arrived = asyncio.Event()

    async def silent(_: pb.ForwardRequest) -> pb.ForwardResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.leader.forwarded = silent
    return arrived
