"""A TCP proxy that is as bad as networks are: slow, cut in one direction, reset in mid-frame.

It moves bytes and knows nothing of what they are, so it works under TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Final, Self

_READ_BYTES: Final = 64 * 1024
_BUFFER_BYTES: Final = 32 * 1024
_SEGMENT_BYTES: Final = 1_400
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass
class Way:
    """One direction of every connection. `bytes_per_s` None: as fast as it goes. `cut`: what comes
    is taken and lost, and the sender learns nothing of it. `reset_after`: so many bytes later both
    ends are reset."""

    bytes_per_s: float | None = None
    cut: bool = False
    reset_after: int | None = None
    moved: int = 0


class Proxy:
    """Listens on `port`; `up` is the way to the server, `down` the way back."""

    def __init__(self, port: int, to_port: int) -> None:
        self.port = port
        self.to_port = to_port
        self.up = Way()
        self.down = Way()
        self.connections = 0
        self.resets = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    def start(self) -> Self:
        """Listen, on a thread of its own."""
        self._thread.start()
        assert self._ready.wait(10), "the proxy's port is taken"
        return self

    def close(self) -> None:
        """Reset what is left, and listen no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def heal(self) -> None:
        """Both directions as they should be; connections that were cut are reset, since what was
        lost of them is lost."""
        broken = self.up.cut or self.down.cut
        for way in (self.up, self.down):
            way.bytes_per_s, way.cut, way.reset_after = None, False, None
        if broken:
            self.reset()

    def reset(self) -> None:
        """RST on every connection."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = socket.socket()
        _shrink(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._reset_all()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = socket.socket()
        _shrink(link)
        link.setblocking(False)
        try:
            await self._loop.sock_connect(link, ("127.0.0.1", self.to_port))
            far = await asyncio.open_connection(sock=link)
        except OSError:
            link.close()
            writer.transport.abort()
            return
        self.connections += 1
        pair = {writer, far[1]}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._move(self.up, reader, far[1]))
                group.create_task(self._move(self.down, far[0], writer))
        except* OSError:
            pass
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _move(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            rate = way.bytes_per_s
            # Small pieces when it is slow, so that it is slow evenly.
            size = _READ_BYTES if rate is None else max(256, min(_READ_BYTES, int(rate / 50)))
            if not (data := await reader.read(size)):
                break
            if way.cut:
                continue
            if way.reset_after is not None:
                data = data[: way.reset_after]
                way.reset_after -= len(data)
            way.moved += len(data)
            writer.write(data)
            await writer.drain()
            if way.reset_after == 0:
                way.reset_after = None
                self._reset_all()
                return
            if rate is not None:
                await asyncio.sleep(len(data) / rate)
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _reset_all(self) -> None:
        self.resets += 1
        for writer in list(self._writers):
            link: socket.socket | None = writer.get_extra_info("socket")
            if link is not None:
                with contextlib.suppress(OSError):
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


def _shrink(link: socket.socket) -> None:
    """Little on its way, so that a slow link is slow and not only late. The kernel takes buffers in
    proportion to segments, and those of loopback are of 64 KiB."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
