"""Load at a fixed rate, whatever the answers do, and what each answer took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import cast

import grpc.aio


class _Connection(asyncio.Protocol):
    """A keep-alive HTTP/1.1 connection: one request, one answer."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        if len(self._buffer) < head_end + 4 + int(head[at:].split(b"\r\n", 1)[0]):
            return
        self._buffer = b""
        assert self._answer is not None
        self._answer.set_result(int(head[9:12]))

    async def ask(self, request: bytes) -> int:
        """The status of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


async def http(
    port: int, requests: Iterator[bytes], per_s: float, *, connections: int = 16
) -> list[float]:
    """Send the requests one by one, so many a second; how many seconds each took from when its
    time had come. All must succeed."""
    loop = asyncio.get_running_loop()
    idle: asyncio.Queue[_Connection] = asyncio.Queue()
    for _ in range(connections):
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        idle.put_nowait(connection)
    took: list[float] = []

    async def one(request: bytes) -> None:
        due_s = time.perf_counter()
        connection = await idle.get()
        status = await connection.ask(request)
        took.append(time.perf_counter() - due_s)
        assert status < 300, status
        idle.put_nowait(connection)

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(requests):
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
            group.create_task(one(request))
    while not idle.empty():
        idle.get_nowait().transport.close()
    return took


async def hops(port: int, count: int) -> list[float]:
    """Receive so many messages of the bare stream; how many seconds each was on its way."""
    took = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream("/bare", None, None)(count.to_bytes(4, "big"))
        while isinstance(message := await call.read(), bytes):
            took.append((time.monotonic_ns() - int.from_bytes(message[:8], "big")) / 1e9)
    assert len(took) == count
    return took
