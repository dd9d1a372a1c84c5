"""Verify and VerifyBatch, health and reflection, over a real gRPC port."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from petsem.limits import VERIFY_BATCH_MAX
from petsem.server.rpc import reflection
from petsem.server.rpc.server import OPEN_STREAMS_MAX
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.rpc.world import (
    VERIFY,
    VERIFY_BATCH,
    Client,
    Failed,
    World,
    bearer_metadata,
    connected,
    question,
    served,
    world_in,
)

CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = tuple(f"/{name}/ServerReflectionInfo" for name in reflection.NAMES)
_Health = health_pb2.HealthCheckResponse


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


async def test_a_token_that_may(world: World, client: Client) -> None:
    """Who it is, until when, and how fresh the answer is."""
    asker, token = await world.token(), await world.token("action = web:deploy")
    reply = await client.unary(VERIFY, question(token), pb.VerifyResponse, asker)
    assert (reply.allowed, reply.org, reply.reason) == (True, "acme", "")
    assert reply.subject == f"host:{reply.token_id}"
    assert reply.expires_at_ms == world.clock.unix_ms() + 3_600_000
    assert reply.freshness.role == pb.LEADER


async def test_tokens_that_may_not(world: World, client: Client) -> None:
    """The reason and the caveat; nothing about who was refused."""
    asker, token = await world.token(), await world.token("action = web:deploy")
    for asked, reason, caveat in (
        (question(token, "web:other"), "CAVEAT", "action = web:deploy"),
        (question(token[:-3]), "TRUNCATED", ""),
        (question(""), "MALFORMED", ""),
        (question("x" * 10_000), "MALFORMED", ""),
    ):
        reply = await client.unary(VERIFY, asked, pb.VerifyResponse, asker)
        assert (reply.allowed, reply.reason, reply.caveat) == (False, reason, caveat)
        assert (reply.token_id, reply.subject) == ("", "")
        assert reply.HasField("freshness")


async def test_a_revocation_counts_at_once(world: World, client: Client) -> None:
    """The next answer after it is a refusal."""
    asker, token = await world.token(), await world.token("action = web:deploy")
    assert (await client.unary(VERIFY, question(token), pb.VerifyResponse, asker)).allowed
    await world.revoke(token)
    reply = await client.unary(VERIFY, question(token), pb.VerifyResponse, asker)
    assert (reply.allowed, reply.reason) == (False, "REVOKED")


@pytest.mark.parametrize(
    "access", [{}, {"org": "acme"}, {"action": "x"}, {"org": "A!", "action": "x"}]
)
async def test_an_access_that_cannot_be_judged(
    world: World, client: Client, access: dict[str, str]
) -> None:
    """An error, and neither a permission nor a denial."""
    asked = pb.VerifyRequest(token="x", access=access)
    with pytest.raises(Failed) as failed:
        await client.unary(VERIFY, asked, pb.VerifyResponse, await world.token())
    assert failed.value.what[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid")


async def test_who_asks_needs_the_right_to(world: World, client: Client) -> None:
    """In the org that is asked about."""
    reader = await world.token("action = secrets:read")
    with pytest.raises(Failed) as failed:
        await client.unary(VERIFY, question("x"), pb.VerifyResponse, reader)
    assert failed.value.what == (grpc.StatusCode.PERMISSION_DENIED, "denied", "CAVEAT")
    elsewhere = pb.VerifyRequest(token="x", access={"org": "other", "action": "x"})
    with pytest.raises(Failed) as failed:
        await client.unary(VERIFY, elsewhere, pb.VerifyResponse, await world.token())
    assert failed.value.what == (grpc.StatusCode.PERMISSION_DENIED, "denied", "WRONG_ORG")


async def test_a_batch_is_answered_in_order(world: World, client: Client) -> None:
    """As many as fit, each on its own."""
    asker, token = await world.token(), await world.token("action = web:deploy")
    questions = [question(token if i % 2 else "x") for i in range(VERIFY_BATCH_MAX)]
    batch = pb.VerifyBatchRequest(requests=questions)
    reply = await client.unary(VERIFY_BATCH, batch, pb.VerifyBatchResponse, asker)
    assert [r.allowed for r in reply.responses] == [i % 2 == 1 for i in range(VERIFY_BATCH_MAX)]


async def test_an_empty_batch_and_one_that_is_too_long(world: World, client: Client) -> None:
    """Nothing is answered with nothing, too much not at all."""
    empty = await client.unary(
        VERIFY_BATCH, pb.VerifyBatchRequest(), pb.VerifyBatchResponse, world.cluster.token
    )
    assert list(empty.responses) == []
    long = pb.VerifyBatchRequest(requests=[question("x")] * (VERIFY_BATCH_MAX + 1))
    with pytest.raises(Failed) as failed:
        await client.unary(VERIFY_BATCH, long, pb.VerifyBatchResponse, await world.token())
    assert failed.value.what[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "invalid")


async def test_health_is_open_and_follows_readiness(world: World, client: Client) -> None:
    """Without a token; a node that begins to stop says so before it does."""
    asked = health_pb2.HealthCheckRequest(service="petsem.v1.Secrets")
    assert (await client.unary(CHECK, asked, _Health, None)).status == _Health.SERVING
    world.node.status.draining = True
    assert (await client.unary(CHECK, asked, _Health, None)).status == _Health.NOT_SERVING
    with pytest.raises(Failed) as failed:
        await client.unary(CHECK, health_pb2.HealthCheckRequest(service="x"), _Health, None)
    assert failed.value.status is grpc.StatusCode.NOT_FOUND


async def test_those_without_a_token_cannot_take_all_streams(world: World, client: Client) -> None:
    """Watchers of health have a bound of their own."""
    asked = health_pb2.HealthCheckRequest()
    streams = [client.stream(HEALTH_WATCH, asked, None) for _ in range(OPEN_STREAMS_MAX)]
    for stream in streams:
        assert (await stream.next(_Health)).status == _Health.SERVING
    refused = await client.stream(HEALTH_WATCH, asked, None).failure()
    assert refused.what == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit", "")
    for stream in streams:
        stream.call.cancel()


async def _services(client: Client, path: str, token: str | None) -> set[str]:
    call = client.channel.stream_stream(path)(metadata=bearer_metadata(token))
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    try:
        await call.write(asked.SerializeToString())
        raw = await call.read()
    except grpc.aio.AioRpcError as e:
        raise Failed(e) from None
    call.cancel()
    reply = reflection_pb2.ServerReflectionResponse.FromString(raw)
    return {service.name for service in reply.list_services_response.service}


@pytest.mark.parametrize("path", REFLECT)
async def test_reflection_names_the_services(client: Client, path: str) -> None:
    """Under both of its names."""
    assert await _services(client, path, None) == {
        "petsem.v1.Secrets",
        "petsem.v1.Tokens",
        "grpc.health.v1.Health",
        *reflection.NAMES,
    }


async def test_reflection_can_be_closed(world: World) -> None:
    """Then any valid token opens it, whatever it may do."""
    config = world.node.config
    closed = dataclasses.replace(config.http, open_schema=False)
    world.node.config = dataclasses.replace(config, http=closed)
    async with served(world) as server, connected(server) as client:
        for token in (None, "x"):
            with pytest.raises(Failed) as failed:
                await _services(client, REFLECT[0], token)
            assert failed.value.status is grpc.StatusCode.UNAUTHENTICATED
        token = await world.token("action = secrets:list")
        assert "petsem.v1.Secrets" in await _services(client, REFLECT[0], token)


async def test_malformed_reflection_requests(client: Client) -> None:
    """Refused like any other."""
    call = client.channel.stream_stream(REFLECT[0])()
    await call.write(b"\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
