"""What the HTTP guard answers by itself, before any application code has seen the request.

Guarantees: the same JSON as every other error of the door that was asked, HTTP's or Connect's, with
the same security headers, nothing of the request, and `Connection: close`. It does not decide when
to refuse; `http_protocol` does.
"""

from __future__ import annotations

import http
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from petsem.errors import Code, Detail, PetsemError
from petsem.server.api import reply
from petsem.server.api.reply import Header
from petsem.server.rpc.errors import connect_error
from petsem.wire.http import ErrorBody


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer. `reason` goes into the details; `retry_after_s` into a header as well."""

    status: int
    code: Code
    message: str
    reason: str | None = None
    retry_after_s: int | None = None

    def encode(self, default_headers: Iterable[Header], *, connect: bool = False) -> bytes:
        """The whole HTTP/1.1 response, with the server's `default_headers` in it; `connect`: to a
        call of Connect's."""
        body, more = self._for_connect() if connect else self._for_http()
        phrase = http.HTTPStatus(self.status).phrase
        head = [f"HTTP/1.1 {self.status} {phrase}\r\n".encode("ascii")]
        for name, value in (*default_headers, *more, *reply.SECURITY_HEADERS):
            head += [name, b": ", value, b"\r\n"]
        head.append(b"content-type: application/json\r\n")
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        return b"".join(head) + body

    def _for_http(self) -> tuple[bytes, list[Header]]:
        details: dict[str, Any] = {}
        headers: list[Header] = []
        if self.reason is not None:
            details["reason"] = self.reason
        if self.retry_after_s is not None:
            details["retry_after_s"] = self.retry_after_s
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        return msgspec.json.encode(ErrorBody(self.code.value, self.message, details)), headers

    def _for_connect(self) -> tuple[bytes, list[Header]]:
        detail = Detail(reason=self.reason, retry_after_s=self.retry_after_s)
        # The guard has no clock; whoever wants the node's time asks for something that it answers.
        _, body, headers = connect_error(PetsemError(self.code, self.message, detail), 0)
        return body, headers


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
