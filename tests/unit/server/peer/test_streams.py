"""Streams between nodes: bounds, takeover and end."""

from __future__ import annotations

import asyncio

import pytest

from petsem.crypto.ca import CertRole, Identity
from petsem.errors import Code, PetsemError, unavailable
from petsem.server.peer.identity import Caller
from petsem.server.peer.streams import PeerStreams
from tests.support.patience import PATIENCE_S


def _caller(name: str) -> Caller:
    return Caller(Identity(bytes(16), name, CertRole.NODE), 2**60)


async def _open(streams: PeerStreams, path: str, name: str) -> asyncio.Task[None]:
    """A stream that waits for ever, once it is open."""
    opened = asyncio.Event()

    async def run() -> None:
        async with streams.opened(path, _caller(name)):
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.wait(
        {task, asyncio.create_task(opened.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    return task


async def _code(task: asyncio.Task[None]) -> Code:
    with pytest.raises(PetsemError) as ended:
        await asyncio.wait_for(task, PATIENCE_S)
    return ended.value.code


async def test_a_node_s_second_stream_ends_its_first() -> None:
    """Of the same method; another method, and another node, are left alone."""
    streams = PeerStreams()
    first = await _open(streams, "/a", "fra-1")
    others = [await _open(streams, "/b", "fra-1"), await _open(streams, "/a", "fra-2")]
    second = await _open(streams, "/a", "fra-1")
    assert await _code(first) is Code.CONFLICT
    third = await _open(streams, "/a", "fra-1")
    assert await _code(second) is Code.CONFLICT
    assert not any(task.done() for task in (*others, third))
    streams.stop()
    assert [await _code(task) for task in (*others, third)] == [Code.UNAVAILABLE] * 3


async def test_their_number_is_bounded() -> None:
    """One more than there may be is refused; a takeover is none more; an end makes room."""
    streams = PeerStreams(most=2)
    first, second = await _open(streams, "/a", "n1"), await _open(streams, "/a", "n2")
    assert await _code(await _open(streams, "/a", "n3")) is Code.LIMIT
    again = await _open(streams, "/a", "n1")
    assert await _code(first) is Code.CONFLICT
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    third = await _open(streams, "/a", "n3")
    assert not third.done()
    streams.stop()
    await asyncio.gather(again, third, return_exceptions=True)


async def test_who_is_refused_now_is_ended() -> None:
    """With the refusal itself; where it cannot be told, the stream goes on."""
    streams = PeerStreams()
    tasks = {name: await _open(streams, "/a", name) for name in ("stays", "gone", "unknown")}

    def admit(caller: Caller) -> None:
        match caller.identity.node_id:
            case "gone":
                raise PetsemError(Code.DENIED, "no node")
            case "unknown":
                raise unavailable("no data yet")

    streams.check(admit)
    assert await _code(tasks["gone"]) is Code.DENIED
    assert not tasks["stays"].done()
    assert not tasks["unknown"].done()
    streams.stop()
    await asyncio.gather(tasks["stays"], tasks["unknown"], return_exceptions=True)


async def test_none_opens_once_it_stops() -> None:
    """Whoever comes later is sent elsewhere at once."""
    streams = PeerStreams()
    streams.stop()
    assert await _code(await _open(streams, "/a", "n1")) is Code.UNAVAILABLE


async def test_its_own_error_passes() -> None:
    """A time-out inside a stream is not taken for its end."""
    streams = PeerStreams()
    with pytest.raises(TimeoutError):
        async with streams.opened("/a", _caller("n1")):
            raise TimeoutError
