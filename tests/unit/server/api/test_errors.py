"""The table of errors, and the one shape of an answer that is one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from petsem.errors import Code, Detail, PetsemError, invalid
from petsem.model import Position
from petsem.server.api.errors import STATUS, error_reply, status_of

NOW_MS = 1_795_167_000_000


def _body(error: PetsemError) -> Any:
    return msgspec.json.decode(error_reply(error, NOW_MS).body)


def test_the_table_covers_every_code() -> None:
    """Each code has the status of the published table."""
    assert {
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
    } == STATUS
    assert STATUS.keys() == set(Code)


def test_too_large() -> None:
    """`invalid` is 413 when the reason is size."""
    assert status_of(invalid("x")) == 400
    assert status_of(invalid("x", reason="TOO_LARGE")) == 413


@pytest.mark.parametrize("code", Code)
def test_one_shape(code: Code) -> None:
    """Every error has code, message and details, and what is unknown is absent."""
    body = _body(PetsemError(code, "what to do"))
    details = body.pop("details")
    assert body == {"code": code.value, "message": "what to do"}
    assert details == {
        Code.UNAUTHENTICATED: {"server_time_ms": NOW_MS},
        Code.LIMIT: {"retry_after_s": 1},
        Code.UNAVAILABLE: {"retry_after_s": 1},
    }.get(code, {})


def test_details() -> None:
    """Everything that is known is there, positions as text."""
    detail = Detail(
        reason="LOST",
        caveat="app = web",
        have=Position(1, 2),
        need=Position(3, 4, 5),
        have_version=6,
        need_version=7,
        retry_after_s=8,
    )
    assert _body(PetsemError(Code.CONFLICT, "m", detail))["details"] == {
        "reason": "LOST",
        "caveat": "app = web",
        "have": "00000001-0000000000000002",
        "need": "00000003-0000000000000004-0000000000000005",
        "have_version": 6,
        "need_version": 7,
        "retry_after_s": 8,
    }


def test_headers() -> None:
    """401 says how to authenticate, 429 and 503 when to come back."""
    bare = dict(error_reply(PetsemError(Code.UNAUTHENTICATED, "m"), NOW_MS).headers)
    assert bare[b"www-authenticate"] == b'Bearer realm="petsem"'
    expired = PetsemError(Code.UNAUTHENTICATED, "m", Detail(reason="EXPIRED"))
    found = dict(error_reply(expired, NOW_MS).headers)
    assert found[b"www-authenticate"] == b'Bearer realm="petsem", error="invalid_token"'
    for code in (Code.LIMIT, Code.UNAVAILABLE):
        error = PetsemError(code, "m", Detail(retry_after_s=7))
        assert dict(error_reply(error, NOW_MS).headers)[b"retry-after"] == b"7"
    assert b"retry-after" not in dict(error_reply(PetsemError(Code.STALE, "m"), NOW_MS).headers)
