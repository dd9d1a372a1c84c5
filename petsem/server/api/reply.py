"""An HTTP answer, ready to be sent.

Guarantees: every answer forbids caching and carries the headers that keep a browser from doing
anything with it. Encoding is msgspec's, straight from the wire types; Litestar sends what it gets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from litestar.types import Receive, Scope, Send

JSON: Final = b"application/json"
PROMETHEUS: Final = b"text/plain; version=1.0.0; charset=utf-8; escaping=underscores"

Header = tuple[bytes, bytes]

SECURITY_HEADERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
"""No answer of the API is a page; these say so to whatever treats it as one."""

_encode = msgspec.json.Encoder().encode


class Reply:
    """A whole answer, which sends itself."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        *,
        media_type: bytes = JSON,
        headers: Iterable[Header] = (),
    ) -> None:
        self.status = status
        self.body = body
        self.headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            *SECURITY_HEADERS,
            *headers,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; to a HEAD all but the body, whose length is said."""
        body = b"" if scope.get("method") == "HEAD" else self.body
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def json_reply(status: int, content: Any, headers: Iterable[Header] = ()) -> Reply:
    """`content`, a wire type, as JSON."""
    return Reply(status, _encode(content), headers=headers)
