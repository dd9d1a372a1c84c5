"""Errors as HTTP: one table from code to status, one body.

Guarantees: an answer holds the code, a sentence that is safe to show, and known details; nothing
of the request, and of an unexpected exception only that it happened. `http_refusals` answers in
the same shape for what never gets this far.
"""

from __future__ import annotations

from typing import Any, Final

from petsem.errors import Code, Detail, PetsemError
from petsem.server.api.reply import Header, Reply, json_reply
from petsem.wire.http import ErrorBody

STATUS: Final[dict[Code, int]] = {
    Code.INVALID: 400,
    Code.UNAUTHENTICATED: 401,
    Code.DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.STALE: 412,
    Code.LIMIT: 429,
    Code.UNAVAILABLE: 503,
    Code.INDETERMINATE: 504,
    Code.CORRUPT: 500,
    Code.INTERNAL: 500,
}
"""Every code has exactly one status, but that what is too large is 413."""

TOO_LARGE: Final = "TOO_LARGE"
TOO_LARGE_STATUS: Final = 413
RETRY_AFTER_S: Final = 1
"""What a client is told to wait when whoever raised the error did not say."""

INTERNAL: Final = PetsemError(Code.INTERNAL, "internal error; see the node's log")


def status_of(error: PetsemError) -> int:
    """The HTTP status of an error."""
    if error.code is Code.INVALID and error.detail.reason == TOO_LARGE:
        return TOO_LARGE_STATUS
    return STATUS[error.code]


def error_reply(error: PetsemError, server_time_ms: int, **more: Any) -> Reply:
    """The answer to a request that failed with `error`; `more` goes into its details."""
    details = {**_details(error.detail), **more}
    headers: list[Header] = []
    if error.code is Code.UNAUTHENTICATED:
        # Whoever narrows tokens by our clock learns it here, before any answer was given to it.
        details["server_time_ms"] = server_time_ms
        headers.append((b"www-authenticate", _challenge(error.detail)))
    if error.code in (Code.LIMIT, Code.UNAVAILABLE):
        retry_after_s = details.setdefault("retry_after_s", RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % retry_after_s))
    body = ErrorBody(error.code.value, error.message, details)
    return json_reply(status_of(error), body, headers)


def _details(detail: Detail) -> dict[str, Any]:
    known = {
        "reason": detail.reason,
        "caveat": detail.caveat,
        "have": None if detail.have is None else str(detail.have),
        "need": None if detail.need is None else str(detail.need),
        "have_version": detail.have_version,
        "need_version": detail.need_version,
        "retry_after_s": detail.retry_after_s,
    }
    return {name: value for name, value in known.items() if value is not None}


def _challenge(detail: Detail) -> bytes:
    """RFC 6750, section 3: what is wanted, and whether the token that was sent is the trouble."""
    if detail.reason is None:
        return b'Bearer realm="petsem"'
    return b'Bearer realm="petsem", error="invalid_token"'
