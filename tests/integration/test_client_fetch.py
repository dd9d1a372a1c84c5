"""Both readers against real gRPC servers on loopback: the same stories, over sockets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from petsem.errors import Code, PetsemError
from petsem.limits import VALUE_MAX_BYTES
from petsem.wire import petsem_pb2 as pb
from petsem_client import Bundle, Position, SecretReader, SyncSecretReader
from tests.integration.client_node import Node, black_hole, nodes
from tests.support.patience import PATIENCE_S
from tests.unit.client.far_end import OTHER_CLUSTER, ROOT_SECRET, says, token

CAVEATS = ("org = acme", "time < 2100-01-01T00:00:00Z")
STATUS = grpc.StatusCode


class Either:
    """One way to call both readers: the blocking one runs on a thread."""

    def __init__(self, blocking: bool, endpoints: list[str], text: str = "", **kw: Any) -> None:
        deadlines = {"attempt_timeout_s": PATIENCE_S / 2, "timeout_s": PATIENCE_S}
        kw = {"token": text or token(*CAVEATS), **deadlines, **kw}
        self.aio = None if blocking else SecretReader(endpoints, **kw)
        self.sync = SyncSecretReader(endpoints, **kw) if blocking else None

    async def fetch(self, app: str = "acme/web", **kw: Any) -> Bundle:
        if self.aio is not None:
            return await self.aio.fetch(app, **kw)
        assert self.sync is not None
        return await asyncio.to_thread(self.sync.fetch, app, **kw)

    async def close(self) -> None:
        if self.aio is not None:
            await self.aio.close()
        if self.sync is not None:
            await asyncio.to_thread(self.sync.close)

    async def error(self, app: str = "acme/web", **kw: Any) -> PetsemError:
        with pytest.raises(PetsemError) as caught:
            await self.fetch(app, **kw)
        return caught.value


class Readers:
    """Makes readers of one kind and closes them."""

    def __init__(self, blocking: bool) -> None:
        self.blocking = blocking
        self.made: list[Either] = []

    def __call__(self, *endpoints: str | Node, text: str = "", **kw: Any) -> Either:
        addresses = [each.address if isinstance(each, Node) else each for each in endpoints]
        self.made.append(Either(self.blocking, addresses, text, **kw))
        return self.made[-1]


@pytest.fixture(params=[False, True], ids=["asyncio", "blocking"])
async def reader(request: pytest.FixtureRequest) -> AsyncIterator[Readers]:
    made = Readers(request.param)
    yield made
    for each in made.made:
        await each.close()


async def test_every_byte(reader: Readers) -> None:
    """Values of every sort come back as they are, with version, etag and freshness."""
    values = {
        "EMPTY": b"",
        "BYTES": bytes(range(256)),
        "PEM": b"-----BEGIN X-----\nabc\n-----END X-----\n",
        "TEXT": "ключ=#'\"".encode(),
        "LARGE": bytes(VALUE_MAX_BYTES),
    }
    async with nodes(1, values=values) as (node,):
        bundle = await reader(node).fetch(machine="3d8d9014")
        assert dict(bundle) == values
        assert (bundle.version, bundle.filtered) == (3, False)
        assert bundle.freshness.position == Position(1, 30)
        (metadata,) = node.metadata
        assert str(metadata["authorization"]).startswith("Bearer petsem_")
        assert str(metadata["user-agent"]).startswith("petsem-client/")


async def test_known_and_names_and_the_fence(reader: Readers) -> None:
    """Arguments reach the node and its answers come back."""
    async with nodes(1, values={"A": b"1", "B": b"2"}) as (node,):
        our = reader(node)
        first = await our.fetch()
        assert await our.fetch(known=first) == first
        assert dict(await our.fetch(names=["B"])) == {"B": b"2"}
        assert (await our.error(min_version=9, timeout_s=2.0)).code is Code.STALE


async def test_a_closed_port(reader: Readers) -> None:
    """A node that is down costs next to nothing, and not an attempt."""
    async with nodes(2) as (first, second):
        await first.stop()
        our = reader(first, second)
        started = time.monotonic()
        assert (await our.fetch()).freshness.node == "n1"
        assert time.monotonic() - started < PATIENCE_S / 4


async def test_a_black_hole(reader: Readers) -> None:
    """A node that takes the connection and is silent costs one attempt, then nothing."""
    async with nodes(1) as (node,), black_hole() as silent:
        attempt_s = 2.0
        our = reader(silent, node, attempt_timeout_s=attempt_s)
        started = time.monotonic()
        await our.fetch()
        assert attempt_s <= time.monotonic() - started < 2 * attempt_s
        started = time.monotonic()
        await our.fetch()
        assert time.monotonic() - started < attempt_s


async def test_a_node_that_hangs_in_the_call(reader: Readers) -> None:
    """A request that is taken and never answered is cancelled at the node and tried elsewhere."""
    async with nodes(2) as (first, second):
        first.hang = True
        our = reader(first, second, attempt_timeout_s=2.0)
        assert (await our.fetch()).freshness.node == "n1"
        await asyncio.wait_for(first.cancelled.wait(), PATIENCE_S)


async def test_all_silent(reader: Readers) -> None:
    """The deadline holds, and the error names every endpoint."""
    async with black_hole() as one, black_hole() as two:
        our = reader(one, two, attempt_timeout_s=0.5)
        started = time.monotonic()
        error = await our.error(timeout_s=2.0)
        assert time.monotonic() - started < PATIENCE_S / 4
        assert error.code is Code.UNAVAILABLE
        assert one in error.message
        assert two in error.message


async def test_a_node_that_comes_up_late(reader: Readers) -> None:
    """A fetch that starts before its only node does is answered when it is up."""
    node = Node()
    await node.start()
    port = int(node.address.rpartition(":")[2])
    await node.stop()
    our = reader(node)
    fetching = asyncio.create_task(our.fetch())
    await asyncio.sleep(0.3)
    await node.start(port=port)
    try:
        assert (await fetching).version == 3
    finally:
        await node.stop()


async def test_stale_then_fresh_and_damaged_then_whole(reader: Readers) -> None:
    """`stale` and DATA_LOSS at the first node are answered by the second."""
    async with nodes(2) as (first, second):
        first.far_end.version = 2
        assert (await reader(first, second).fetch(min_version=3)).freshness.node == "n1"
        first.far_end.faults.append(says(STATUS.DATA_LOSS, "corrupt"))
        assert (await reader(first, second).fetch()).freshness.node == "n1"


async def test_a_refusal_carries_the_node_s_detail(reader: Readers) -> None:
    """Code, reason and sentence cross the wire; the second node is not asked."""
    async with nodes(2) as (first, second):
        our = reader(first, second, text=token(*CAVEATS, cluster=OTHER_CLUSTER))
        error = await our.error()
        assert (error.code, error.detail.reason) == (Code.UNAUTHENTICATED, "WRONG_CLUSTER")
        assert error.message == "refused"
        assert second.far_end.heard == []
        assert error.__cause__ is None


async def test_a_clock_off_by_ninety_minutes(reader: Readers) -> None:
    """The node's EXPIRED teaches the time, and the second narrowing is taken."""
    async with nodes(1) as (node,):
        node.far_end.skew_s = 90 * 60
        assert (await reader(node).fetch()).version == 3
        assert len(set(node.far_end.heard)) == 2


async def test_a_reply_over_four_mebibytes(reader: Readers) -> None:
    """gRPC refuses it before it is held, and the next node is asked."""
    async with nodes(2) as (first, second):
        huge = pb.FetchResponse(etag=bytes(5 * 1024 * 1024)).SerializeToString()
        first.far_end.faults.append(lambda _: huge)
        assert (await reader(first, second).fetch()).freshness.node == "n1"


async def test_proxies_of_the_environment_see_nothing(
    reader: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`http_proxy` does not lead a token anywhere."""
    async with nodes(1) as (node,), black_hole() as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
        monkeypatch.delenv("no_proxy", raising=False)
        port = node.address.rpartition(":")[2]
        assert (await reader(f"localhost:{port}").fetch()).version == 3


async def test_many_at_once_share_a_token_and_a_connection(reader: Readers) -> None:
    """Concurrent fetches for one machine send one narrowed token over one connection."""
    async with nodes(1) as (node,):
        our = reader(node)
        await our.fetch(machine="m")
        bundles = await asyncio.gather(*(our.fetch(machine="m") for _ in range(20)))
        assert {bundle.version for bundle in bundles} == {3}
        assert len(set(node.far_end.heard)) == 1
        assert len(set(node.peers)) == 1


async def test_close_is_idempotent_and_ends_what_is_under_way(reader: Readers) -> None:
    """Closing twice is fine; a fetch under way fails at once, a later one is refused."""
    async with nodes(1) as (node,):
        node.hang = True
        our = reader(node)
        fetching = asyncio.create_task(our.error())
        await node.reached.wait()
        await our.close()
        await our.close()
        error = await asyncio.wait_for(fetching, PATIENCE_S)
        assert (error.code, error.message) == (Code.UNAVAILABLE, "the reader was closed")
        assert (await our.error()).message == "this reader is closed"


async def test_no_log_has_a_token_or_a_value(
    reader: Readers, caplog: pytest.LogCaptureFixture
) -> None:
    """At the most talkative level, with failures on the way, nothing secret is written."""
    caplog.set_level(logging.DEBUG)
    async with nodes(2, values={"CANARY": b"canary-7f3a"}) as (first, second):
        first.far_end.faults.append(says(STATUS.UNAVAILABLE, "unavailable", message=token()))
        our = reader(first, second)
        bundle = await our.fetch()
        log = caplog.text + repr(our.aio or our.sync) + repr(bundle)
        assert f"{first.address}: unavailable" in caplog.text
        assert "canary" not in log
        assert "petsem_" not in log.replace("petsem_client", "")
        assert ROOT_SECRET.decode() not in log


async def test_cancelling_a_fetch_cancels_the_call() -> None:
    """A task's own cancellation goes through, and the node hears of it."""
    async with nodes(1) as (node,), SecretReader([node.address], token=token()) as our:
        node.hang = True
        fetching = asyncio.create_task(our.fetch("acme/web"))
        await node.reached.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await asyncio.wait_for(node.cancelled.wait(), PATIENCE_S)


async def test_context_managers() -> None:
    """Both close when the block ends."""
    async with nodes(1) as (node,):
        async with SecretReader([node.address], token=token()) as our:
            await our.fetch("acme/web")
        with pytest.raises(PetsemError):
            await our.fetch("acme/web")

        def blocking() -> None:
            with SyncSecretReader([node.address], token=token()) as reading:
                reading.fetch("acme/web")
            with pytest.raises(PetsemError):
                reading.fetch("acme/web")

        await asyncio.to_thread(blocking)
