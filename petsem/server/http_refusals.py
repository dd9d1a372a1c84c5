"""What the HTTP guard answers by itself, before any application code has seen the request.

Guarantees: the same JSON as every other error (`{"code", "message", "details"}`) under the same
security headers, nothing of the request in it, and `Connection: close`. It does not decide when to
refuse; `http_protocol` does.
"""

from __future__ import annotations

import http
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from petsem.errors import Code
from petsem.server.api import reply
from petsem.wire.http import ErrorBody


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer. `reason` goes into the details; `retry_after_s` into a header as well."""

    status: int
    code: Code
    message: str
    reason: str | None = None
    retry_after_s: int | None = None

    def encode(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The whole HTTP/1.1 response, with the server's `default_headers` in it."""
        details: dict[str, Any] = {}
        if self.reason is not None:
            details["reason"] = self.reason
        if self.retry_after_s is not None:
            details["retry_after_s"] = self.retry_after_s
        body = msgspec.json.encode(ErrorBody(self.code.value, self.message, details))
        phrase = http.HTTPStatus(self.status).phrase
        head = [f"HTTP/1.1 {self.status} {phrase}\r\n".encode("ascii")]
        for name, value in default_headers:
            head += [name, b": ", value, b"\r\n"]
        if self.retry_after_s is not None:
            head.append(b"retry-after: %d\r\n" % self.retry_after_s)
        for name, value in reply.SECURITY_HEADERS:
            head += [name, b": ", value, b"\r\n"]
        head.append(b"content-type: application/json\r\n")
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        return b"".join(head) + body


def _invalid(message: str) -> Refusal:
    return Refusal(400, Code.INVALID, message)


def _too_large(status: int, message: str) -> Refusal:
    return Refusal(status, Code.INVALID, message, reason="TOO_LARGE")


MALFORMED: Final = _invalid("the request is not valid HTTP/1.1")
VERSION: Final = _invalid("only HTTP/1.0 and HTTP/1.1 are spoken here")
HOST: Final = _invalid("an HTTP/1.1 request needs exactly one Host header")
TRANSFER_ENCODING: Final = _invalid("the only Transfer-Encoding is chunked, in HTTP/1.1")
CONTENT_ENCODING: Final = _invalid("compressed requests are not accepted; send the body as it is")
CONNECT: Final = _invalid("CONNECT is not offered here")
WEBSOCKET: Final = _invalid("WebSocket is not offered here")
FRAMING: Final = _invalid("the chunked body carries too much besides its content")
HEADER_TIMEOUT: Final = Refusal(
    408, Code.UNAVAILABLE, "the request's header was not complete in time; send it again"
)
BODY_TIMEOUT: Final = Refusal(
    408, Code.UNAVAILABLE, "the request's body was not complete in time; send it again"
)
CONNECTIONS: Final = Refusal(
    503,
    Code.UNAVAILABLE,
    "the node has as many connections as it takes; try again, or another node",
    retry_after_s=1,
)


def url_too_long(most: int) -> Refusal:
    """The request target is over `most` bytes."""
    return _too_large(414, f"the URL is longer than {most:,} bytes")


def headers_too_large(most: int) -> Refusal:
    """Request line and headers together are over `most` bytes."""
    return _too_large(431, f"the request's headers are larger than {most:,} bytes")


def body_too_large(most: int) -> Refusal:
    """The body is over `most` bytes, as declared or as counted."""
    return _too_large(413, f"the request's body is larger than {most:,} bytes")
