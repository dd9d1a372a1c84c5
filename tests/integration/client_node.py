"""A node on loopback for the client's tests: a real grpc.aio server with a scripted mind.

What it answers is decided by `FarEnd`; this puts it on a socket, with Watch beside Fetch. The real
server is tested elsewhere: here the far end must be able to lie, hang and break.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from petsem.clock import Clock, SystemClock
from petsem.wire import petsem_pb2 as pb
from petsem_client.transport import FETCH, WATCH
from tests.unit.client.far_end import FarEnd, Refused


class Node:
    """A `FarEnd` on a port. `hang` makes fetches wait for ever; `stop` is a shutdown."""

    def __init__(self, clock: Clock | None = None, **far_end: Any) -> None:
        self.far_end = FarEnd(clock or SystemClock(), **far_end)
        self.hang = False
        self.metadata: list[dict[str, str | bytes]] = []
        self.peers: list[str] = []
        self.messages: asyncio.Queue[bytes | Refused | None] = asyncio.Queue()
        self.watching: asyncio.Queue[pb.WatchRequest] = asyncio.Queue()
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, *, port: int = 0, tls: grpc.ServerCredentials | None = None) -> None:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        server.add_generic_rpc_handlers((_Handlers(self),))
        bind = f"127.0.0.1:{port}"
        bound = server.add_secure_port(bind, tls) if tls else server.add_insecure_port(bind)
        await server.start()
        self._server = server
        self.address = f"127.0.0.1:{bound}"

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def change(self, version: int) -> None:
        """Tell a watcher of a new version."""
        self.far_end.version = version
        message = pb.AppChanged(version=version, freshness=self.far_end.freshness())
        self.messages.put_nowait(message.SerializeToString())

    async def fetch(self, body: bytes, context: Any) -> bytes:
        text = self._heard(context)
        if self.hang:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        try:
            return self.far_end.fetch(body, text)
        except Refused as refused:
            await _abort(context, refused)
            raise

    async def watch(self, body: bytes, context: Any) -> AsyncIterator[bytes]:
        request = pb.WatchRequest.FromString(body)
        text = self._heard(context)
        try:
            self.far_end.authorize(text, request.org, request.app, request.machine)
            self.watching.put_nowait(request)
            while (message := await self.messages.get()) is not None:
                if isinstance(message, Refused):
                    raise message
                yield message
        except Refused as refused:
            await _abort(context, refused)

    def _heard(self, context: Any) -> str:
        metadata = dict(context.invocation_metadata())
        self.metadata.append(metadata)
        self.peers.append(context.peer())
        self.reached.set()
        bearer = metadata["authorization"]
        assert isinstance(bearer, str)
        return bearer.removeprefix("Bearer ")


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, node: Node) -> None:
        self._node = node

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == FETCH:
            return grpc.unary_unary_rpc_method_handler(self._node.fetch)
        if details.method == WATCH:
            return grpc.unary_stream_rpc_method_handler(self._node.watch)
        return None


async def _abort(context: Any, refused: Refused) -> None:
    trailing = refused.trailing if refused.detail.code else ()
    await context.abort(refused.status, refused.message, trailing)


@asynccontextmanager
async def nodes(count: int, **far_end: Any) -> AsyncIterator[list[Node]]:
    """That many nodes, each named by its place in the list."""
    made = [Node(name=f"n{at}", **far_end) for at in range(count)]
    for node in made:
        await node.start()
    try:
        yield made
    finally:
        for node in made:
            await node.stop()


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """An address that takes connections and never says a word: a node that is stopped."""
    held: list[asyncio.StreamWriter] = []

    async def swallow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
        await server.wait_closed()
