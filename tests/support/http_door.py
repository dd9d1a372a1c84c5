"""The HTTP door alone: a real uvicorn with our protocol on loopback, a small application behind it,
and raw sockets that misbehave before it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
import uvloop

from petsem.server.http_protocol import HttpLimits, protocol_class
from petsem.server.http_server import HttpServer

FAILSAFE_S = 10.0
"""No test waits this long unless the door forgot a deadline."""

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
HASTY = HttpLimits(
    headers_max_bytes=2_048,
    url_max_bytes=512,
    body_max_bytes=4_096,
    header_deadline_s=0.2,
    body_deadline_s=0.2,
    write_deadline_s=0.2,
)
SMALL = HttpLimits(headers_max_bytes=2_048, url_max_bytes=512, body_max_bytes=4_096)


@dataclass
class App:
    """A small ASGI application that notes what reaches it."""

    seen: list[str] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    disconnects: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.seen.append(path)
        self.headers.append(scope["headers"])
        if path == "/early":
            await self._answer(send, b"early")
            return
        if path == "/started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if path == "/unread":
            await self.go_on.wait()
        if path == "/big":
            await self._answer(send, b"x" * (16 * 1024 * 1024))
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                # The application may answer all the same; nobody must see it.
                await self._answer(send, b"too late")
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        if path == "/slow":
            await self.go_on.wait()
        await self._answer(send, b"%d bytes" % len(body))

    async def _answer(self, send: Any, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Door:
    """A listening server and ways to knock."""

    app: App
    port: int
    server: HttpServer

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=64 * 1024 * 1024)

    async def say(self, *parts: bytes) -> bytes:
        """Send `parts`, each in a packet of its own, and return all that comes until the end."""
        reader, writer = await self.connect()
        async with asyncio.timeout(FAILSAFE_S):
            for part in parts:
                writer.write(part)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionResetError):
                return await read_to_end(reader, writer)
        return b""


async def read_to_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """All that still comes; then this end is closed too."""
    try:
        return await reader.read(-1)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def eventually(condition: Callable[[], Any]) -> None:
    """Look until it holds."""
    async with asyncio.timeout(FAILSAFE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def open_door(
    limits: HttpLimits = SMALL,
    *,
    keep_alive_s: int = 30,
    context: ssl.SSLContext | None = None,
    handshake_s: float = FAILSAFE_S,
) -> AsyncIterator[Door]:
    """A door that is open; nobody is behind it any more when it is left."""
    app = App()
    config = uvicorn.Config(
        app,
        http=protocol_class(limits),
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_s,
        ssl_context_factory=(lambda *_: context) if context else None,
    )
    config.load()
    server = HttpServer(config)
    server.handshake_s = handshake_s
    server.lifespan = config.lifespan_class(config)
    await server.startup([socket.create_server(("127.0.0.1", 0))])
    try:
        yield Door(app, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        app.go_on.set()
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await eventually(
            lambda: not server.server_state.connections and not server.server_state.tasks
        )


def refusal(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of a response that is the only one in `raw`, and closes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines
    assert b"content-type: application/json" in lines
    assert b"content-length: %d" % len(body) in lines
    found = json.loads(body)
    assert set(found) == {"code", "message", "details"}
    return int(head.split(b" ")[1]), found


def post(headers: bytes, body: bytes = b"", path: bytes = b"/") -> bytes:
    """A request as it is sent."""
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run `test` on asyncio's loop and on uvloop: their transports close in different ways."""

    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**fixtures))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    asked = inspect.signature(test).parameters.values()
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*asked, new_loop])  # type: ignore[attr-defined]
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    marked: Callable[..., None] = pytest.mark.parametrize(
        "new_loop", loops, ids=["asyncio", "uvloop"]
    )(run)
    return marked
