"""Streams: their number, and their end."""

from __future__ import annotations

import asyncio

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.rpc.streams import Streams


async def test_one_more_than_fits_is_told_so() -> None:
    """And fits once another has gone."""
    streams = Streams(1)
    async with streams.opened():
        with pytest.raises(PetsemError) as refused:
            async with streams.opened():
                pass
        assert refused.value.code is Code.LIMIT
    async with streams.opened():
        pass


async def test_the_end_reaches_a_stream_that_waits() -> None:
    """It is told that the node stops, and what it holds is let go."""
    streams, let_go = Streams(), asyncio.Event()

    async def stream() -> None:
        async with streams.opened():
            try:
                await asyncio.Event().wait()
            finally:
                let_go.set()

    task = asyncio.create_task(stream())
    await asyncio.sleep(0)
    streams.end()
    with pytest.raises(PetsemError) as ended:
        await task
    assert ended.value.code is Code.UNAVAILABLE
    assert let_go.is_set()


async def test_none_opens_after_the_end() -> None:
    """A drain would never be over."""
    streams = Streams()
    streams.end()
    with pytest.raises(PetsemError) as refused:
        async with streams.opened():
            pass
    assert refused.value.code is Code.UNAVAILABLE


async def test_a_timeout_of_its_own_is_not_the_end() -> None:
    """Only `end` makes it `unavailable`."""
    streams = Streams()
    with pytest.raises(TimeoutError):
        async with streams.opened():
            raise TimeoutError


async def test_a_cancelled_stream_is_counted_no_more() -> None:
    """A client that hangs up frees its place."""
    streams = Streams(1)

    async def stream() -> None:
        async with streams.opened():
            await asyncio.Event().wait()

    task = asyncio.create_task(stream())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with streams.opened():
        pass
