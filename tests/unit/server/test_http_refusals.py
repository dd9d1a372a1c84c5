"""What the HTTP door answers by itself."""

from __future__ import annotations

import json

import pytest

from petsem.errors import Code
from petsem.server import http_refusals
from petsem.server.http_refusals import Refusal

EVERY = [
    *(value for value in vars(http_refusals).values() if isinstance(value, Refusal)),
    http_refusals.url_too_long(1_024),
    http_refusals.headers_too_large(1_024),
    http_refusals.body_too_large(1_024),
]
ALLOWED = {
    400: Code.INVALID,
    408: Code.UNAVAILABLE,
    413: Code.INVALID,
    414: Code.INVALID,
    431: Code.INVALID,
    503: Code.UNAVAILABLE,
}


def test_every_constant_is_a_refusal() -> None:
    """So that the test below sees each."""
    names = [name for name in vars(http_refusals) if name.isupper()]
    assert names
    assert all(isinstance(getattr(http_refusals, name), Refusal) for name in names)


@pytest.mark.parametrize("refusal", EVERY, ids=lambda refusal: refusal.message)
def test_every_refusal_is_a_whole_response(refusal: Refusal) -> None:
    """Status and code go together, the length is right, and the connection closes."""
    assert ALLOWED[refusal.status] is refusal.code
    head, _, body = refusal.encode([(b"x-default", b"1")]).partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    assert status_line.startswith(b"HTTP/1.1 %d " % refusal.status)
    assert {
        b"x-default: 1",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        b"cache-control: no-store",
        b"x-content-type-options: nosniff",
    } <= set(lines)
    assert len(lines) == len({line.partition(b":")[0] for line in lines})
    found = json.loads(body)
    assert (found["code"], found["message"]) == (refusal.code.value, refusal.message)
    assert set(found) == {"code", "message", "details"}


@pytest.mark.parametrize("refusal", EVERY, ids=lambda refusal: refusal.message)
def test_every_refusal_has_the_form_of_connect_too(refusal: Refusal) -> None:
    """Connect's name of the code, and the detail that every error there carries."""
    head, _, body = refusal.encode([(b"x-default", b"1")], connect=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % refusal.status)
    assert b"\r\nx-default: 1\r\n" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    assert (b"\r\nretry-after: 1\r\n" in head) == (refusal.code is Code.UNAVAILABLE)
    found = json.loads(body)
    name = {Code.INVALID: "invalid_argument", Code.UNAVAILABLE: "unavailable"}[refusal.code]
    assert (found["code"], found["message"]) == (name, refusal.message)
    (packed,) = found["details"]
    assert packed["type"] == "petsem.v1.ErrorDetail"
    assert packed["debug"]["code"] == refusal.code.value
    assert packed["debug"].get("reason") == refusal.reason
    assert "serverTimeMs" not in packed["debug"]


def test_details_say_what_a_program_may_act_on() -> None:
    """What is too large has a reason, and what may be tried again a time."""
    too_large = http_refusals.body_too_large(2_097_152).encode([])
    assert json.loads(too_large.split(b"\r\n\r\n")[1]) == {
        "code": "invalid",
        "message": "the request's body is larger than 2,097,152 bytes",
        "details": {"reason": "TOO_LARGE"},
    }
    full = http_refusals.CONNECTIONS.encode([])
    assert b"retry-after: 1\r\n" in full
    assert json.loads(full.split(b"\r\n\r\n")[1])["details"] == {"retry_after_s": 1}
