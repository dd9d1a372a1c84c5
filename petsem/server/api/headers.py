"""The request headers that the API reads, in one pass.

Guarantees: there is at most one credential, and it is a bearer token; a body says that it is JSON
and is not compressed. What is in a header is never quoted. It does not look at addresses
(`client_ip`) or sizes (`http_protocol`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from petsem.errors import Code, PetsemError, invalid

_ONCE = frozenset({b"authorization", b"content-type", b"content-encoding", b"idempotency-key"})


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """What was sent, not yet judged but for there being one of each."""

    authorization: bytes | None = field(default=None, repr=False)
    content_type: bytes | None = None
    content_encoding: bytes | None = None
    idempotency_key: bytes | None = None

    @property
    def token(self) -> str | None:
        """The bearer token, None without one; whether it is one at all is not looked at here."""
        if self.authorization is None:
            return None
        scheme, _, credentials = self.authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise PetsemError(
                Code.UNAUTHENTICATED, "only the Bearer scheme is known; send 'Bearer TOKEN'"
            )
        return credentials.strip(b" \t").decode("latin-1")

    @property
    def key(self) -> str | None:
        """The Idempotency-Key; the writes check its form."""
        return None if self.idempotency_key is None else self.idempotency_key.decode("latin-1")

    def require_json(self) -> None:
        """Refuse a body that does not say that it is JSON, as it is."""
        if self.content_encoding not in (None, b"identity"):
            raise invalid("compressed requests are not accepted; send the body as it is")
        if self.content_type != b"application/json" and not _is_json(self.content_type):
            raise invalid("the body must be JSON; send Content-Type: application/json")


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
    """The headers of a request, names in lower case; `invalid` if one of ours is there twice."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ONCE:
            if name in found:
                raise invalid(f"there is more than one {name.decode().title()} header; send one")
            found[name] = value
    get = found.get
    return RequestHeaders(
        get(b"authorization"), get(b"content-type"), get(b"content-encoding"),
        get(b"idempotency-key"),
    )  # fmt: skip


def _is_json(content_type: bytes | None) -> bool:
    if content_type is None:
        return False
    media_type, _, parameters = content_type.lower().partition(b";")
    if media_type.strip() != b"application/json":
        return False
    return parameters.strip().replace(b'"', b"") in (b"", b"charset=utf-8")
