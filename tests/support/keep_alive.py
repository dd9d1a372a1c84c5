"""One HTTP connection of a client that must know whether its request was answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, NamedTuple


class Unanswered(Exception):  # noqa: N818 - a state of affairs, and the test's to judge
    """The connection ended before a whole answer had come, or none could be made."""


class Answered(NamedTuple):
    """One answer."""

    status: int
    body: Any


class KeepAlive:
    """A connection that is made when it is needed, and made again after it was lost."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self._token = token
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: object = None, key: str = "") -> Answered:
        """Send one request and wait for its answer; `Unanswered` if there is none."""
        content = b"" if body is None else json.dumps(body).encode()
        head = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {self._token}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        ]
        if key:
            head.append(f"Idempotency-Key: {key}")
        try:
            return await self._exchange("\r\n".join((*head, "", "")).encode() + content)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.drop()
            raise Unanswered from error

    async def _exchange(self, request: bytes) -> Answered:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._open
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        body = await reader.readexactly(int(head[at:].split(b"\r\n", 1)[0]))
        if b"connection: close" in head:
            self.drop()
        return Answered(int(head[9:12]), json.loads(body))

    def drop(self) -> None:
        """End the connection, if there is one."""
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open[1].transport.abort()
            self._open = None
