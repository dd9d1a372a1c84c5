"""The door that a browser on this machine comes back to when the person has signed in.

Guarantees: it listens on 127.0.0.1 alone, on a port that the system picks, while a sign-in is under
way, and takes one `GET /done?ticket=…` that a browser made by going there: one that names another
host (a page that had its name point here), or that a page made from within, is refused and changes
nothing. A request has five seconds and 16 KiB, and there are not many of them. The answer repeats
nothing of the request.

What the browser brings is half of what collects the discharge; the other half never leaves the
process until then.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from types import TracebackType
from typing import Final

from petsem.errors import unavailable

HOST: Final = "127.0.0.1"
REQUEST_MAX_BYTES: Final = 16 * 1024
REQUEST_S: Final = 5.0
REQUESTS_MAX: Final = 64

_LINE: Final = re.compile(rb"GET ([!-~]+) HTTP/1\.[01]")
_DONE: Final = re.compile(rb"/done\?ticket=([A-Za-z0-9_-]{1,512})")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*?)[ \t]*")
_WENT_THERE: Final = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}
"""What browsers say of a page that the person goes to, as opposed to one that a page loads."""


class Loopback:
    """The open door. Used as a context, it is closed at the end of it."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=8)
        self._requests = 0
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Loopback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    def wait(self, seconds: float) -> str | None:
        """What the browser brought, or None if it has not come for that long."""
        until = time.monotonic() + seconds
        while select.select([self._listener], [], [], max(0.0, until - time.monotonic()))[0]:
            self._requests += 1
            if self._requests > REQUESTS_MAX:
                raise unavailable(
                    "too many strangers came to the port that waits for the browser; sign in "
                    "again with --no-browser"
                )
            connection, _ = self._listener.accept()
            with connection:
                release = self._serve(connection)
            if release is not None:
                self._listener.close()
                return release
        return None

    def _serve(self, connection: socket.socket) -> str | None:
        release = None
        # Whoever came may be gone before the answer; what was brought counts all the same.
        with contextlib.suppress(OSError):
            head = _head(connection)
            release = None if head is None else _release(head, self.port)
            connection.settimeout(REQUEST_S)
            connection.sendall(_REFUSED if release is None else _TAKEN)
        return release


def _head(connection: socket.socket) -> bytes | None:
    """The request up to its empty line; None if that does not come."""
    until = time.monotonic() + REQUEST_S
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        left = until - time.monotonic()
        if left <= 0 or len(data) > REQUEST_MAX_BYTES:
            return None
        connection.settimeout(left)
        chunk = connection.recv(4096)
        if not chunk:
            return None
        data += chunk
    return bytes(data[:end])


def _release(head: bytes, port: int) -> str | None:
    """What a request brings that a browser made for the person; None for every other one."""
    first, *rest = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    done = None if line is None else _DONE.fullmatch(line[1])
    fields = [_FIELD.fullmatch(each) for each in rest]
    if done is None or None in fields:
        return None
    said = [(each[1].lower(), each[2]) for each in fields if each is not None]
    if [value for name, value in said if name == b"host"] != [f"{HOST}:{port}".encode()]:
        return None
    if any(value != _WENT_THERE.get(name, value) for name, value in said):
        return None
    return done[1].decode("ascii")


def _page(status: str, title: str, text: str) -> bytes:
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
        f'content="width=device-width"><title>{title}</title><h1>{title}</h1><p>{text}</p></html>\n'
    ).encode()
    head = (
        f"HTTP/1.1 {status}\r\n"
        "content-type: text/html; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\n"
        "cache-control: no-store\r\n"
        "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
        "referrer-policy: no-referrer\r\n"
        "x-content-type-options: nosniff\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


_TAKEN: Final = _page(
    "200 OK", "Back to the terminal", "This page has done its part. You can close it."
)
_REFUSED: Final = _page(
    "404 Not Found", "Nothing here", "This port waits for one answer of a sign-in, and no other."
)
