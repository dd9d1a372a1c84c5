"""Clients that put load on a port of this machine, as cheaply as Python can."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import grpc.aio


class _Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection that sends the next request when an answer is whole."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._buffer = b""
        self.statuses: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < head_end + 4 + length:
            return
        status = int(head[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._buffer = self._buffer[head_end + 4 + length :]
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed a connection"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            if not self._done.done():
                self._done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)


async def http(port: int, requests: Iterator[bytes], connections: int) -> dict[int, int]:
    """Send all requests over so many connections; how often each status was answered."""
    loop = asyncio.get_running_loop()
    opened: list[_Connection] = []
    ends: list[asyncio.Future[None]] = []
    for _ in range(connections):
        end: asyncio.Future[None] = loop.create_future()
        connection = _Connection(requests, end)
        await loop.create_connection(lambda c=connection: c, "127.0.0.1", port)  # type: ignore[misc]
        opened.append(connection)
        ends.append(end)
    await asyncio.gather(*ends)
    total: dict[int, int] = {}
    for connection in opened:
        for status, count in connection.statuses.items():
            total[status] = total.get(status, 0) + count
    return total


async def unary(
    port: int,
    method: str,
    requests: Iterator[bytes],
    metadata: tuple[tuple[str, str], ...],
    concurrency: int,
) -> int:
    """Call a unary method with each request, so many at a time; how many bytes came back."""
    received = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(method, None, None)

        async def worker() -> None:
            nonlocal received
            for request in requests:
                received += len(await call(request, metadata=metadata))

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return received


def post(path: str, token: str, content_type: str, body: bytes) -> bytes:
    """A whole HTTP request."""
    return request("POST", path, token, content_type, body)


def request(method: str, path: str, token: str, content_type: str, body: bytes) -> bytes:
    """A whole HTTP request of any method."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
