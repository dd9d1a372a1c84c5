"""Fetch over a real gRPC port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from petsem.limits import GRPC_MESSAGE_MAX_BYTES, GRPC_METADATA_MAX_BYTES, VALUE_MAX_BYTES
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.rpc.world import (
    FETCH,
    VALUES,
    Client,
    Failed,
    World,
    asked,
    connected,
    narrowed,
    raises,
    served,
    until,
    values,
    world_in,
)

BODY = asked().SerializeToString()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A node with the org acme, its app web, and one version of two secrets."""
    async with world_in(tmp_path) as found:
        yield found


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """A client of that node's gRPC port."""
    async with served(world) as server, connected(server) as found:
        yield found


async def test_all_secrets_of_an_app(world: World, client: Client) -> None:
    """Values, version and how fresh they are."""
    reply = await client.fetch(await world.token("app = web", "machine = m1"), machine="m1")
    assert (values(reply), reply.version, reply.filtered) == (VALUES, 1, False)
    freshness = reply.freshness
    assert (freshness.node, freshness.region) == (world.node.identity.node_id, "ams")
    assert (freshness.role, freshness.source) == (pb.LEADER, pb.DISK)
    assert freshness.server_time_ms == world.clock.unix_ms()
    assert freshness.position.txid == world.node.writer.position.txid


async def test_some_names_and_an_earlier_version(world: World, client: Client) -> None:
    """What was asked for, and what the token's caveats leave of it."""
    await world.cluster.set("acme", "web", A="new")
    token = await world.token()
    assert values(await client.fetch(token, names=["A"])) == {"A": "new"}
    assert values(await client.fetch(token, version=1)) == VALUES
    some = await client.fetch(narrowed(token, "secret in B*"))
    assert (values(some), some.filtered) == ({"B": "beta"}, True)


async def test_a_known_etag(world: World, client: Client) -> None:
    """Nothing is sent again until something changed."""
    token = await world.token()
    first = await client.fetch(token)
    again = await client.fetch(token, known_etag=first.etag)
    assert (again.not_modified, again.version, values(again)) == (True, 1, {})
    await world.cluster.set("acme", "web", A="new")
    changed = await client.fetch(token, known_etag=first.etag)
    assert (changed.not_modified, changed.version) == (False, 2)


async def test_a_fence_is_waited_for(world: World, client: Client) -> None:
    """A fetch that is ahead of the node is answered once the node got there."""
    token = await world.token()
    fetching = asyncio.create_task(client.fetch(token, min_version=2))
    await until(lambda: world.node.changes.waited_for)
    await world.cluster.set("acme", "web", A="new")
    assert values(await fetching)["A"] == "new"


@pytest.mark.parametrize(
    ("caveats", "change", "wanted"),
    [
        ((), {"app": "api"}, (grpc.StatusCode.NOT_FOUND, "not_found", "")),
        (("app = api",), {}, (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")),
        ((), {"org": "other"}, (grpc.StatusCode.PERMISSION_DENIED, "denied", "WRONG_ORG")),
        (("machine = m1",), {}, (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")),
        (("ip in 10.0.0.0/8",), {}, (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")),
        (("action = secrets:list",), {}, (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")),
        ((), {"org": "Acme"}, (grpc.StatusCode.INVALID_ARGUMENT, "invalid", "")),
        ((), {"version": 7}, (grpc.StatusCode.NOT_FOUND, "not_found", "")),
    ],
)
async def test_refusals(
    world: World,
    client: Client,
    caveats: tuple[str, ...],
    change: dict[str, object],
    wanted: tuple[grpc.StatusCode, str, str],
) -> None:
    """Status, code and reason, and the node's time with each."""
    with pytest.raises(Failed) as failed:
        await client.fetch(await world.token(*caveats), **change)
    assert failed.value.what == wanted
    assert failed.value.detail is not None
    assert failed.value.detail.server_time_ms == world.clock.unix_ms()


async def test_the_address_is_the_connection_s(world: World, client: Client) -> None:
    """A caveat on it holds for who is at that address."""
    token = await world.token("ip in 127.0.0.0/8")
    assert values(await client.fetch(token)) == VALUES


async def test_tokens_that_are_none(world: World, client: Client) -> None:
    """Absent, cut short, expired, revoked, of another scheme."""
    token = await world.token()
    cut, late = token[:-9], narrowed(token, "time < 2026-01-01T00:00:00Z")
    for sent, reason in ((None, ""), ("", ""), (cut, "TRUNCATED"), (late, "EXPIRED")):
        with pytest.raises(Failed) as failed:
            await client.fetch(sent)
        assert failed.value.what == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", reason)
    await world.revoke(token)
    with pytest.raises(Failed) as failed:
        await client.fetch(token)
    assert failed.value.what == (grpc.StatusCode.PERMISSION_DENIED, "denied", "REVOKED")


async def test_a_token_counts_only_if_it_is_sent_once(world: World, client: Client) -> None:
    """Twice the same is refused too, and so is a scheme that is not Bearer."""
    metadata = ("authorization", f"Bearer {await world.token()}")
    with pytest.raises(Failed) as failed:
        await client.raw(FETCH, BODY, metadata=(metadata, metadata))
    assert failed.value.what[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid")
    with pytest.raises(Failed) as failed:
        await client.raw(FETCH, BODY, metadata=(("authorization", "Basic eDp5"),))
    assert failed.value.what[:2] == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"CANARY" * 1000])
async def test_malformed_protobuf(world: World, client: Client, body: bytes) -> None:
    """INVALID_ARGUMENT with a detail like any other error, and nothing quoted."""
    with pytest.raises(Failed) as failed:
        await client.raw(FETCH, body, metadata=(("authorization", "Bearer x"),))
    assert failed.value.what == (grpc.StatusCode.INVALID_ARGUMENT, "invalid", "")
    assert "CANARY" not in failed.value.message


async def test_an_absurdly_large_request(client: Client) -> None:
    """Refused by gRPC itself before it is read whole; the connection stays good."""
    with pytest.raises(Failed) as failed:
        await client.raw(FETCH, bytes(GRPC_MESSAGE_MAX_BYTES + 1))
    assert failed.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(Failed) as failed:
        await client.fetch(None)
    assert failed.value.status is grpc.StatusCode.UNAUTHENTICATED


async def test_the_largest_app_fits(world: World, client: Client) -> None:
    """One MiB of values goes through."""
    large = {f"S{i}": "v" * (VALUE_MAX_BYTES - 16) for i in range(15)}
    await world.cluster.set("acme", "web", **large)
    assert values(await client.fetch(await world.token())) == VALUES | large


@pytest.mark.parametrize("size", [8 * 1024, 12 * 1024, 15 * 1024])
async def test_large_metadata_within_the_bound_never_fails(
    world: World, client: Client, size: int
) -> None:
    """Not even sometimes, as it would with gRPC's defaults."""
    metadata = (("authorization", f"Bearer {await world.token()}"), ("x-filler", "f" * size))
    for _ in range(20):
        await client.raw(FETCH, BODY, metadata=metadata)


@pytest.mark.parametrize("size", [GRPC_METADATA_MAX_BYTES, 20 * 1024, 100 * 1024])
async def test_metadata_over_the_bound_always_fails(
    world: World, client: Client, size: int
) -> None:
    """And the connection serves the next call."""
    token = ("authorization", f"Bearer {await world.token()}")
    for _ in range(5):
        with pytest.raises(Failed) as failed:
            await client.raw(FETCH, BODY, metadata=(token, ("x-filler", "f" * size)))
        assert failed.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.raw(FETCH, BODY, metadata=(token,))


async def test_compressed_requests_are_refused(world: World) -> None:
    """A few bytes that would become many are not unpacked."""
    async with served(world) as server:
        gzip = ("grpc.default_compression_algorithm", 2)
        async with connected(server, gzip) as client:
            with pytest.raises(Failed) as failed:
                await client.raw(FETCH, bytes(100_000))
    assert failed.value.status in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)


async def test_an_unknown_method(client: Client) -> None:
    """gRPC's own answer."""
    with pytest.raises(Failed) as failed:
        await client.raw("/petsem.v1.Secrets/Peek", b"")
    assert failed.value.status is grpc.StatusCode.UNIMPLEMENTED


async def test_an_unexpected_exception_is_an_internal_error(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it says stays here, even from a log."""
    monkeypatch.setattr(world.node.boot, "fetch", raises(ValueError("CANARY")))  # type: ignore[arg-type]
    async with served(world) as server, connected(server) as client:
        with pytest.raises(Failed) as failed:
            await client.fetch("x")
    assert failed.value.what == (grpc.StatusCode.INTERNAL, "internal", "")
    assert "CANARY" not in failed.value.message + caplog.text


async def test_a_client_that_gives_up_leaves_no_trace(
    world: World, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Its call is cancelled here too, without a word in the log."""
    token = await world.token()
    with caplog.at_level(logging.INFO):
        fetching = asyncio.create_task(client.fetch(token, min_version=2))
        await until(lambda: world.node.changes.waited_for)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await until(lambda: not world.node.changes.waited_for)
        assert values(await client.fetch(token)) == VALUES
    assert caplog.text == ""


async def test_too_many_calls_at_once_are_told_so(world: World) -> None:
    """Those under way are not disturbed."""
    token = await world.token()
    async with served(world, grpc_concurrent_rpcs=1) as server, connected(server) as client:
        first = asyncio.create_task(client.fetch(token, min_version=2))
        await until(lambda: world.node.changes.waited_for)
        with pytest.raises(Failed) as failed:
            await client.fetch(token)
        assert failed.value.what == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit", "")
        await world.cluster.set("acme", "web", A="new")
        assert (await first).version == 2
