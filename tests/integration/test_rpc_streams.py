"""Watch and WatchRevocations over a real gRPC port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from petsem.server.service import boot, verify
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.cluster import call
from tests.unit.server.rpc.world import (
    WATCH,
    WATCH_REVOCATIONS,
    Client,
    Failed,
    World,
    connected,
    narrowed,
    served,
    until,
    world_in,
)

WEB = pb.WatchRequest(org="acme", app="web")
ACME = pb.WatchRevocationsRequest(org="acme")


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


async def test_a_watch_tells_the_version_now_and_each_new_one(world: World, client: Client) -> None:
    """With its freshness; several changes in a row may be told as the last of them."""
    stream = client.stream(WATCH, WEB, await world.token())
    first = await stream.next(pb.AppChanged)
    assert (first.version, first.freshness.role) == (1, pb.LEADER)
    await world.cluster.set("acme", "web", A="new")
    assert (await stream.next(pb.AppChanged)).version == 2
    stream.call.cancel()


async def test_a_watch_that_is_up_to_date_waits(world: World, client: Client) -> None:
    """Nothing is said about the version that the client has."""
    wanted = pb.WatchRequest(org="acme", app="web", after_version=1)
    stream = client.stream(WATCH, wanted, await world.token())
    await until(lambda: world.node.changes.waited_for)
    await world.cluster.set("acme", "web", A="new")
    assert (await stream.next(pb.AppChanged)).version == 2
    stream.call.cancel()


@pytest.mark.parametrize(
    ("caveat", "app", "wanted"),
    [
        ("app = api", "web", (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")),
        ("app in web, api", "api", (grpc.StatusCode.NOT_FOUND, "not_found", "")),
        ("app in web, api", "API", (grpc.StatusCode.INVALID_ARGUMENT, "invalid", "")),
    ],
)
async def test_a_watch_that_is_refused(
    world: World, client: Client, caveat: str, app: str, wanted: tuple[object, ...]
) -> None:
    """As a fetch would be."""
    token = await world.token(caveat)
    stream = client.stream(WATCH, pb.WatchRequest(org="acme", app=app), token)
    assert (await stream.failure()).what == wanted


async def test_a_watch_ends_with_its_token(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked token is noticed without any change to the app."""
    monkeypatch.setattr(boot, "RECHECK_S", 0.01)
    token = await world.token()
    stream = client.stream(WATCH, WEB, token)
    await stream.next(pb.AppChanged)
    await world.revoke(token)
    failed = await stream.failure()
    assert failed.what == (grpc.StatusCode.PERMISSION_DENIED, "denied", "REVOKED")


async def test_a_watch_ends_when_its_token_expires(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a caveat that the client added, too."""
    monkeypatch.setattr(boot, "RECHECK_S", 0.01)
    stream = client.stream(WATCH, WEB, await world.token())
    await stream.next(pb.AppChanged)
    world.clock.advance(7_200)
    failed = await stream.failure()
    assert failed.what == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", "EXPIRED")


async def test_a_watch_ends_with_its_app(world: World, client: Client) -> None:
    """A deleted app has no next version."""
    stream = client.stream(WATCH, WEB, await world.token())
    await stream.next(pb.AppChanged)
    await world.node.orgs.delete_app(world.cluster.operator, call(), "acme", "web", now=False)
    await world.cluster.org("other", "web")
    world.node.changes.publish_all()
    assert (await stream.failure()).what[:2] == (grpc.StatusCode.NOT_FOUND, "not_found")


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """One more than the node takes is told so, and fits once another has gone."""
    async with world_in(tmp_path) as world:
        world.node.boot._streams_max = 2
        token = await world.token()
        async with served(world) as server, connected(server) as client:
            streams = [client.stream(WATCH, WEB, token) for _ in range(2)]
            for stream in streams:
                await stream.next(pb.AppChanged)
            refused = await client.stream(WATCH, WEB, token).failure()
            assert refused.what == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit", "")
            streams[0].call.cancel()
            await until(lambda: world.node.boot._streams < 2)
            another = client.stream(WATCH, WEB, token)
            assert (await another.next(pb.AppChanged)).version == 1


async def test_a_watcher_that_hangs_up_leaves_no_trace(
    world: World, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the count of streams nor in the log."""
    with caplog.at_level(logging.INFO):
        stream = client.stream(WATCH, WEB, await world.token())
        await stream.next(pb.AppChanged)
        stream.call.cancel()
        await until(lambda: not (world.node.boot._streams or world.node.changes.waited_for))
    assert caplog.text == ""


async def test_a_stop_ends_the_streams_and_lets_calls_finish(world: World) -> None:
    """A drain does not wait for watchers, and tells them to go elsewhere."""
    token = await world.token()
    async with served(world) as server, connected(server) as client:
        watching = client.stream(WATCH, WEB, token)
        await watching.next(pb.AppChanged)
        fetching = asyncio.create_task(client.fetch(token, min_version=2))
        await until(lambda: len(world.node.changes.waited_for) == 2)
        stopping = asyncio.create_task(server.stop(30))
        failed = await watching.failure()
        assert failed.what == (grpc.StatusCode.UNAVAILABLE, "unavailable", "")
        await world.cluster.set("acme", "web", A="new")
        assert (await fetching).version == 2
        await stopping
        with pytest.raises(Failed) as refused:
            await client.fetch(token)
        assert refused.value.status is grpc.StatusCode.UNAVAILABLE


async def test_the_feed_tells_each_revocation(world: World, client: Client) -> None:
    """A heartbeat at once, which says where the feed begins, then each revocation."""
    asker, victim = await world.token(), await world.token("app = web")
    stream = client.stream(WATCH_REVOCATIONS, ACME, asker)
    first = await stream.next(pb.Revocation)
    assert (first.token_id, first.HasField("position")) == ("", True)
    await world.revoke(victim)
    told = await stream.next(pb.Revocation)
    while not told.token_id:
        told = await stream.next(pb.Revocation)
    assert (told.org, told.revoked_at_ms) == ("acme", world.clock.unix_ms())
    assert told.position.txid > first.position.txid
    stream.call.cancel()


async def test_the_feed_goes_on_where_it_was_left(world: World, client: Client) -> None:
    """What happened while nobody listened is told first, in order."""
    asker = await world.token()
    stream = client.stream(WATCH_REVOCATIONS, ACME, asker)
    left = (await stream.next(pb.Revocation)).position
    stream.call.cancel()
    for _ in range(3):
        await world.revoke(await world.token("app = web"))
    again = pb.WatchRevocationsRequest(org="acme", after=left)
    stream = client.stream(WATCH_REVOCATIONS, again, asker)
    told = [await stream.next(pb.Revocation) for _ in range(3)]
    assert all(each.token_id for each in told)
    assert [each.position.txid for each in told] == sorted(each.position.txid for each in told)
    stream.call.cancel()


async def test_the_feed_shows_that_it_is_alive(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats come although nothing happens, and they stop with the token."""
    monkeypatch.setattr(verify, "HEARTBEAT_S", 0.01)
    asker = await world.token()
    stream = client.stream(WATCH_REVOCATIONS, ACME, asker)
    for _ in range(3):
        assert (await stream.next(pb.Revocation)).token_id == ""
    world.clock.advance(7_200)
    failed = await stream.failure()
    assert failed.what == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", "EXPIRED")


async def test_who_may_read_the_feed(world: World, client: Client) -> None:
    """Of all orgs only tokens of the cluster key; of one, those that may verify in it."""
    everything = pb.WatchRevocationsRequest()
    asker = await world.token()
    failed = await client.stream(WATCH_REVOCATIONS, everything, asker).failure()
    assert failed.what == (grpc.StatusCode.PERMISSION_DENIED, "denied", "WRONG_ORG")
    reader = narrowed(asker, "action = secrets:read")
    failed = await client.stream(WATCH_REVOCATIONS, ACME, reader).failure()
    assert failed.what == (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")
    operator = client.stream(WATCH_REVOCATIONS, everything, world.cluster.token)
    assert (await operator.next(pb.Revocation)).HasField("position")
    operator.call.cancel()
