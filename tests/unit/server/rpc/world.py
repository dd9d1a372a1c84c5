"""A started node with the org acme, its app web and secrets in it, and tokens to ask it with."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from petsem.clock import rfc3339
from petsem.errors import PetsemError
from petsem.server.address import Address
from petsem.server.node import Node
from petsem.server.rpc.connect import connect_app
from petsem.server.rpc.server import GrpcServer, start_grpc
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import attenuate
from petsem.tokens.text import encode_token, parse_token
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import STATUS_KEY, decode_status
from tests.support.patience import PATIENCE_S
from tests.unit.server.cluster import Cluster, call

FETCH = "/petsem.v1.Secrets/Fetch"
WATCH = "/petsem.v1.Secrets/Watch"
VERIFY = "/petsem.v1.Tokens/Verify"
VERIFY_BATCH = "/petsem.v1.Tokens/VerifyBatch"
WATCH_REVOCATIONS = "/petsem.v1.Tokens/WatchRevocations"
PEER = "192.0.2.7"
VALUES = {"A": "alpha", "B": "beta"}

R = TypeVar("R", bound=Message)


class World:
    """A running node and what its clients know."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node: Node = cluster.node
        self.clock = cluster.clock

    async def furnish(self) -> None:
        await self.cluster.org("acme", "web")
        await self.cluster.set("acme", "web", **VALUES)

    async def token(self, *caveats: str, org: str | None = "acme", kind: str = "host") -> str:
        """A token with these caveats; it reads and verifies unless they say otherwise."""
        if not any(caveat.startswith("action ") for caveat in caveats):
            caveats = (*caveats, "action in secrets:read, tokens:verify")
        until = rfc3339(self.clock.unix_ms() + 3_600_000)
        body = http.Mint(org=org, kind=kind, caveats=[*caveats, f"time < {until}"])
        minted = await self.node.tokens.mint(self.cluster.operator, call(), body)
        return minted.token

    async def revoke(self, token: str) -> None:
        nonce = Identifier.parse(parse_token(token).root.identifier).nonce
        await self.node.tokens.revoke(self.cluster.operator, call(), "acme", nonce.hex())


def narrowed(token: str, *caveats: str) -> str:
    """The token with more caveats, as its holder adds them."""
    return encode_token(attenuate(parse_token(token).root, caveats))


def values(reply: pb.FetchResponse) -> dict[str, str]:
    """What a reply to a fetch brings."""
    return {secret.name: secret.value.decode() for secret in reply.secrets}


def asked(org: str = "acme", app: str = "web", **fields: Any) -> pb.FetchRequest:
    """A FetchRequest for acme/web unless it says otherwise."""
    return pb.FetchRequest(org=org, app=app, **fields)


def question(token: str, action: str = "web:deploy", **access: str) -> pb.VerifyRequest:
    """A VerifyRequest about a token of acme unless it says otherwise."""
    return pb.VerifyRequest(token=token, access={"org": "acme", "action": action, **access})


@asynccontextmanager
async def world_in(directory: Path) -> AsyncIterator[World]:
    """A new node in `directory`, running and furnished."""
    cluster = Cluster(directory / "node")
    async with cluster.running():
        world = World(cluster)
        await world.furnish()
        yield world


# gRPC


class Failed(Exception):  # noqa: N818 - an answer
    """What a failed RPC said: status, message and detail, None if there was no detail."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.status = error.code()
        self.message = error.details() or ""
        trailing = dict(error.trailing_metadata() or ())
        self.detail = decode_status(trailing[STATUS_KEY]) if STATUS_KEY in trailing else None

    @property
    def what(self) -> tuple[grpc.StatusCode, str, str]:
        """(status, code, reason)."""
        assert self.detail is not None, self.message
        return self.status, self.detail.code, self.detail.reason


class Client:
    """A channel to a world's gRPC port; a token for each call, the one given or none."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def raw(
        self,
        path: str,
        body: bytes,
        *,
        metadata: tuple[tuple[str, str], ...] = (),
        timeout_s: float | None = PATIENCE_S,
    ) -> bytes:
        """The serialised reply; raises `Failed`."""
        try:
            answer = self.channel.unary_unary(path)(body, metadata=metadata, timeout=timeout_s)
            return await answer  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as e:
            raise Failed(e) from None

    async def unary(
        self, path: str, message: Message, reply: type[R], token: str | None, **more: Any
    ) -> R:
        """One call."""
        body = await self.raw(
            path, message.SerializeToString(), metadata=bearer_metadata(token), **more
        )
        return reply.FromString(body)

    async def fetch(self, token: str | None, **fields: Any) -> pb.FetchResponse:
        return await self.unary(FETCH, asked(**fields), pb.FetchResponse, token)

    def stream(self, path: str, message: Message, token: str | None) -> Stream:
        """An open stream."""
        opened = self.channel.unary_stream(path)
        return Stream(opened(message.SerializeToString(), metadata=bearer_metadata(token)))


class Stream:
    """The replies of an open stream, one at a time."""

    def __init__(self, opened: Any) -> None:
        self.call = opened

    async def next(self, kind: type[R]) -> R:
        """The next reply; raises `Failed` when the stream ends with an error."""
        try:
            raw = await self.call.read()
        except grpc.aio.AioRpcError as e:
            raise Failed(e) from None
        assert raw is not grpc.aio.EOF, "the stream ended in order"
        return kind.FromString(raw)

    async def failure(self) -> Failed:
        """How the stream ends; what else it still says is left out."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as e:
            return Failed(e)
        raise AssertionError("the stream ended in order")


async def until(holds: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def bearer_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


@asynccontextmanager
async def served(world: World, **limits: int) -> AsyncIterator[GrpcServer]:
    """The world's gRPC port, on a free port of loopback, with some limits changed."""
    config = world.node.config
    world.node.config = dataclasses.replace(
        config,
        grpc=dataclasses.replace(config.grpc, bind=Address("127.0.0.1", 0)),
        limits=dataclasses.replace(config.limits, **limits),
    )
    server = await start_grpc(world.node)
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def connected(server: GrpcServer, *options: tuple[str, int | str]) -> AsyncIterator[Client]:
    """A client of a server, with room for large answers."""
    roomy = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{server.port}", options=[*roomy, *options]
    ) as channel:
        yield Client(channel)


# Connect


class Answer:
    """What a Connect call was answered with."""

    def __init__(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


async def post(
    world: World,
    path: str,
    body: bytes,
    *,
    token: str | None = None,
    media_type: str = "application/proto",
    method: str = "POST",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    parts: int = 1,
) -> Answer:
    """One request to the world's Connect door, in ASGI."""
    sent = [(b"content-type", media_type.encode()), *headers]
    if token is not None:
        sent.append((b"authorization", f"Bearer {token}".encode()))
    scope = {
        "type": "http", "method": method, "path": path, "headers": sent, "client": (PEER, 50_000),
    }  # fmt: skip
    size = -(-len(body) // parts) or 1
    events = [
        {"type": "http.request", "body": body[at : at + size], "more_body": True}
        for at in range(0, len(body), size)
    ] or [{"type": "http.request", "body": b""}]
    events[-1]["more_body"] = False
    events.append({"type": "http.disconnect"})
    out: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        return events.pop(0)

    async def send(event: Mapping[str, Any]) -> None:
        out.append(event)

    await connect_app(world.node)(scope, receive, send)
    start, content = out
    assert (start["type"], content["type"]) == ("http.response.start", "http.response.body")
    names = dict(start["headers"])
    assert int(names[b"content-length"]) == len(content["body"])
    return Answer(start["status"], names, content["body"])


def raises(error: PetsemError) -> Any:
    """An async function that raises `error` whatever it is given."""

    async def fail(*_: object, **__: object) -> Any:
        raise error

    return fail
