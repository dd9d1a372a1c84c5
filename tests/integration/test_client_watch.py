"""Watching over real streams: changes, ends, moves to another node, and the end of the watch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from petsem.errors import Code, PetsemError
from petsem.wire import petsem_pb2 as pb
from petsem_client import AppChanged, SecretReader, SyncSecretReader
from tests.integration.client_node import Node, black_hole, nodes
from tests.support.patience import PATIENCE_S
from tests.unit.client.far_end import token


class Watcher:
    """One watch by either reader, as a queue of what it tells."""

    def __init__(self, blocking: bool, *endpoints: Node | str) -> None:
        addresses = [each if isinstance(each, str) else each.address for each in endpoints]
        self.told: asyncio.Queue[AppChanged | PetsemError | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._aio: SecretReader | None = None
        self._sync: SyncSecretReader | None = None
        if blocking:
            self._sync = SyncSecretReader(addresses, token=token())
            self._thread = threading.Thread(target=self._block)
            self._thread.start()
        else:
            self._aio = SecretReader(addresses, token=token())
            self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        assert self._aio is not None
        try:
            async for changed in self._aio.watch("acme/web", after_version=3):
                self.told.put_nowait(changed)
        except PetsemError as error:
            self.told.put_nowait(error)
        self.told.put_nowait(None)

    def _block(self) -> None:
        def tell(what: AppChanged | PetsemError | None) -> None:
            self._loop.call_soon_threadsafe(self.told.put_nowait, what)

        assert self._sync is not None
        try:
            for changed in self._sync.watch("acme/web", after_version=3):
                tell(changed)
        except PetsemError as error:
            tell(error)
        tell(None)

    async def next(self) -> AppChanged | PetsemError | None:
        return await asyncio.wait_for(self.told.get(), PATIENCE_S)

    async def version(self) -> int:
        changed = await self.next()
        assert isinstance(changed, AppChanged)
        return changed.version

    async def close(self) -> None:
        if self._aio is not None:
            await self._aio.close()
            await self._task
        if self._sync is not None:
            await asyncio.to_thread(self._sync.close)
            await asyncio.to_thread(self._thread.join, PATIENCE_S)


@pytest.fixture(params=[False, True], ids=["asyncio", "blocking"])
async def watch(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    made: list[Watcher] = []

    def make(*endpoints: Node | str) -> Watcher:
        made.append(Watcher(request.param, *endpoints))
        return made[-1]

    yield make
    for watcher in made:
        await watcher.close()


async def watched(node: Node) -> pb.WatchRequest:
    """The next stream that is opened at `node`."""
    return await asyncio.wait_for(node.watching.get(), PATIENCE_S)


async def test_changes_as_they_come(watch: Any) -> None:
    """Each new version is told once, with its node's freshness."""
    async with nodes(1) as (node,):
        watcher = watch(node)
        for version in (4, 5, 5, 7):
            node.change(version)
        assert [await watcher.version() for _ in range(3)] == [4, 5, 7]


async def test_a_node_that_goes_away(watch: Any) -> None:
    """The watch goes on at the next node, from the last version that was seen."""
    async with nodes(2) as (first, second):
        watcher = watch(first, second)
        first.change(4)
        assert await watcher.version() == 4
        await first.stop()
        assert (await watched(second)).after_version == 4
        second.change(6)
        assert await watcher.version() == 6


async def test_a_first_node_that_is_silent(watch: Any) -> None:
    """A node that takes connections and says nothing is left for the next within 3 s or so."""
    async with nodes(1) as (node,), black_hole() as silent:
        watcher = watch(silent, node)
        assert (await watched(node)).after_version == 3
        node.change(4)
        assert await watcher.version() == 4


async def test_a_stream_that_is_closed_in_order(watch: Any) -> None:
    """The node ends the stream; the watch opens another."""
    async with nodes(1) as (node,):
        watcher = watch(node)
        node.messages.put_nowait(None)
        await watched(node)
        await watched(node)
        node.change(4)
        assert await watcher.version() == 4


async def test_a_deleted_app_ends_it(watch: Any) -> None:
    """A final refusal is raised out of the iteration."""
    async with nodes(1) as (node,):
        watcher = watch(node)
        node.messages.put_nowait(
            node.far_end.refused(grpc.StatusCode.NOT_FOUND, "not_found", message="gone")
        )
        error = await watcher.next()
        assert isinstance(error, PetsemError)
        assert (error.code, error.message) == (Code.NOT_FOUND, "gone")
        assert await watcher.next() is None


async def test_closing_the_reader_ends_it(watch: Any) -> None:
    """The iteration ends without an error, on an open stream and between streams."""
    async with nodes(1) as (node,):
        watcher = watch(node)
        await watched(node)
        await watcher.close()
        assert await watcher.next() is None
    watcher = watch(node)
    await asyncio.sleep(0.3)
    await watcher.close()
    assert await watcher.next() is None


async def test_leaving_the_loop_ends_the_stream() -> None:
    """A caller that has heard enough leaves nothing open at the node."""
    async with nodes(1) as (node,), SecretReader([node.address], token=token()) as reader:
        changes: AsyncGenerator[AppChanged, None] = reader.watch("acme/web", after_version=3)
        node.change(4)
        async with aclosing(changes):
            async for version, freshness in changes:
                assert (version, freshness.node) == (4, "n0")
                break
        await reader.fetch("acme/web")


async def test_bad_arguments_are_found_at_once() -> None:
    """Not at the first step of the iteration: the call itself is refused."""
    async with SecretReader(["127.0.0.1:1"], token=token()) as reader:
        with pytest.raises(PetsemError):
            reader.watch("acme")
    reading = SyncSecretReader(["127.0.0.1:1"], token=token())
    with pytest.raises(PetsemError):
        reading.watch("acme/web", after_version=-1)
    reading.close()
    with pytest.raises(PetsemError, match="closed"):
        reading.watch("acme/web")
