"""Requests that a replica passes on, to whom it follows and, if it follows nobody, to others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem import limits
from petsem.errors import Code, PetsemError, limited, unavailable
from petsem.server.forward import NO_LEADER_HEADER, NoLeader
from petsem.server.peer.dial import FORWARD
from petsem.server.replica import upstream
from petsem.server.replica.candidates import Askable, Candidate
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
async def test_an_answer_that_is_lost(world: World, whose: str, changes: bool, code: Code) -> None:
    """The connection ends while the request is under way, at the other end or at this one."""
    await _connect(world)
    arrived = _never_answers(world)
    asking = asyncio.create_task(_refused(world, changes=changes))
    await arrived.wait()
    if whose == "leader":
        await world.port.server.stop(0)
    else:
        await world.replica.upstream.close()
    assert await asking is code


async def test_a_call_of_this_node_s_own_that_is_lost(world: World) -> None:
    """It is an error like any other, and ends nobody's task."""
    await _connect(world)
    arrived = _never_answers(world)
    upstream = world.replica.upstream
    asking = asyncio.create_task(upstream.ask(FORWARD, ASKED, pb.ForwardResponse, PATIENCE_S))
    await arrived.wait()
    await upstream.close()
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


# While nobody is followed


async def _interrupted(world: World) -> None:
    """The connection for asking stands, and the stream is no more and does not come again."""
    await _connect(world)

    def full() -> None:
        raise unavailable("the disk is full")

    async def begins_a_snapshot(talk: Talk) -> None:
        await talk.welcome()
        at = pb.Position(epoch=1, txid=1, checksum=1 << 63)
        await talk.say(snapshot=pb.SnapshotBegin(at=at, pages=3, first_page=1))
        await asyncio.Event().wait()

    world.disk.refuse = full
    world.leader.scripts = [begins_a_snapshot]
    world.replica.follow.again()
    await world.replica.problem("the disk is full")


async def test_a_disk_that_is_full(world: World) -> None:
    """Nothing more is followed, and requests are passed on as before."""
    await _interrupted(world)

    async def answer(_: pb.ForwardRequest) -> pb.ForwardResponse:
        return pb.ForwardResponse(status=201)

    world.leader.forwarded = answer
    await eventually(lambda: world.replica.upstream.node_id is None)
    assert (await world.replica.upstream.forward(ASKED, PATIENCE_S)).status == 201


async def test_nobody_was_ever_followed(world: World) -> None:
    """The leader is asked as this node's own database has it, and by its name."""

    async def answer(_: pb.ForwardRequest) -> pb.ForwardResponse:
        return pb.ForwardResponse(status=201)

    world.leader.forwarded = answer
    world.replica.askable = Askable(Candidate(world.port.address, world.leader.node_id))
    assert world.replica.upstream.connected
    await _answers(world, 201)


async def test_by_way_of_another(world: World) -> None:
    """Where the leader is not reached another member is asked, but only for a request that has
    passed nobody yet."""

    async def answer(request: pb.ForwardRequest) -> pb.ForwardResponse:
        return pb.ForwardResponse(status=201 if request.hops == 1 else 500)

    world.leader.forwarded = answer
    other = Candidate(world.port.address, world.leader.node_id)
    world.replica.askable = Askable(_nowhere(), (other,))
    await _answers(world, 201, pb.ForwardRequest(hops=0))
    with pytest.raises(NoLeader, match=r"the leader ams-gone cannot be reached from this node$"):
        await world.replica.upstream.forward(pb.ForwardRequest(hops=1), PATIENCE_S)


async def test_another_that_knows_no_leader(world: World) -> None:
    """Nothing has happened there: the refusal says who was asked, and that it is for the leader."""

    async def answer(_: pb.ForwardRequest) -> pb.ForwardResponse:
        header = pb.Header(name=NO_LEADER_HEADER.decode(), value="1")
        return pb.ForwardResponse(status=503, headers=[header])

    world.leader.forwarded = answer
    other = Candidate(world.port.address, world.leader.node_id)
    world.replica.askable = Askable(_nowhere(), (other,))
    asked = pb.ForwardRequest(hops=0)
    with pytest.raises(NoLeader) as refused:
        await world.replica.upstream.forward(asked, PATIENCE_S)
    said = "the leader ams-gone cannot be reached from this node"
    assert refused.value.message in (said, f"{said}, nor does {world.leader.node_id} reach it")
    world.replica.askable = Askable(None, (other,))
    with pytest.raises(NoLeader, match="no leader is known on this node"):
        await world.replica.upstream.forward(asked, PATIENCE_S)


async def test_whoever_lets_this_node_not_in(world: World) -> None:
    """It is the node that was refused, and not its client."""
    await _connect(world)
    await world.port.remove("fra-1")
    assert await _refused(world) is Code.UNAVAILABLE


async def test_in_vain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while nobody is thought to be reachable, so that reads are answered at once."""
    monkeypatch.setattr(upstream, "RECONNECT_S", 0.05)
    assert not world.replica.upstream.connected
    world.replica.askable = Askable(_nowhere())
    assert world.replica.upstream.connected
    assert await _refused(world) is Code.UNAVAILABLE
    assert not world.replica.upstream.connected


async def test_a_thief_of_a_certificate_is_asked_nothing(world: World) -> None:
    """Whoever answers at the leader's address without its certificate hears nothing, whatever
    member he may be."""
    heard: list[pb.ForwardRequest] = []

    async def answer(request: pb.ForwardRequest) -> pb.ForwardResponse:
        heard.append(request)
        return pb.ForwardResponse(status=200)

    world.leader.forwarded = answer
    world.replica.askable = Askable(Candidate(world.port.address, "ams-leader"))
    assert await _refused(world) is Code.UNAVAILABLE
    assert heard == []


async def test_a_member_that_is_removed(world: World) -> None:
    """It is asked no more from then on."""
    await _connect(world)
    world.replica.roster.members = {"somebody"}
    world.replica.follow.members_changed()
    assert world.replica.upstream.node_id is None
    assert await _refused(world) is Code.UNAVAILABLE


async def _answers(
    world: World, status: int, request: pb.ForwardRequest = ASKED
) -> pb.ForwardResponse:
    """Ask until it is answered: a busy machine may need longer to connect than a request waits."""
    while True:
        with contextlib.suppress(NoLeader):
            response = await world.replica.upstream.forward(request, PATIENCE_S)
            assert response.status == status
            return response


def _nowhere() -> Candidate:
    """A leader whose machine is off."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return Candidate(f"127.0.0.1:{closed.getsockname()[1]}", "ams-gone")
