"""Requests checked on their way in, replies built on their way out."""

from __future__ import annotations

import pytest

from petsem.clock import ManualClock
from petsem.errors import Code, PetsemError
from petsem.limits import APP_MAX_SECRETS
from petsem.model import Position
from petsem.server.freshness import FreshnessSource
from petsem.server.rpc.messages import (
    fetch_asked,
    fetch_reply,
    parse,
    revocation,
    verify_batch_reply,
    verify_item,
    verify_reply,
    watched_app,
)
from petsem.server.service.boot import Fetch, Fetched
from petsem.server.service.verify import Verdict
from petsem.server.store.tokens import RevocationRow
from petsem.wire import petsem_pb2 as pb

AT = Position(3, 2**40)
FRESHNESS = FreshnessSource("ams-1", "ams", ManualClock())
SECRETS = [pb.Secret(name="A", value=b"CANARY", version=2)]
BODY = pb.FetchResponse(version=2, secrets=SECRETS).SerializeToString()


def test_a_fetch_is_taken_over_field_by_field() -> None:
    """Every field of the request has its place; an absent position is None."""
    message = pb.FetchRequest(
        org="acme", app="web", machine="m1", version=2, min_version=1, known_etag=b"e",
        min_position=pb.Position(epoch=1, txid=2, checksum=3), names=["A", "B"],
    )  # fmt: skip
    assert fetch_asked(message) == Fetch("acme", "web", 2, 1, Position(1, 2, 3), ("A", "B"), b"e")
    assert fetch_asked(pb.FetchRequest(org="acme", app="web")) == Fetch("acme", "web")


@pytest.mark.parametrize(
    "fields",
    [
        {"org": "", "app": "web"},
        {"org": "acme", "app": ""},
        {"org": "Acme", "app": "web"},
        {"org": "acme", "app": "web/x"},
        {"org": "a" * 64, "app": "web"},
        {"org": "acme", "app": "web", "machine": "a b"},
        {"org": "acme", "app": "web", "machine": "a," * 200},
        {"org": "acme", "app": "web", "machine": "é"},
        {"org": "acme", "app": "web", "names": ["A-!"]},
        {"org": "acme", "app": "web", "names": ["A"] * (APP_MAX_SECRETS + 1)},
    ],
)
def test_names_out_of_bounds_are_invalid(fields: dict[str, object]) -> None:
    """They are refused before anything is looked up by them."""
    with pytest.raises(PetsemError) as refused:
        fetch_asked(pb.FetchRequest(**fields))  # type: ignore[arg-type]
    assert refused.value.code is Code.INVALID


def test_a_watch_has_the_same_bounds() -> None:
    """Org, app and machine."""
    assert watched_app(pb.WatchRequest(org="acme", app="web", machine="m1")) == ("acme", "web")
    for fields in ({"org": "acme"}, {"org": "acme", "app": "web", "machine": "a b"}):
        with pytest.raises(PetsemError):
            watched_app(pb.WatchRequest(**fields))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("not_modified", [False, True])
def test_a_reply_is_what_the_schema_says(filtered: bool, not_modified: bool) -> None:
    """The bytes put together by hand are one FetchResponse, whatever is in them."""
    body = b"" if not_modified else BODY
    fetched = Fetched(2, b"e" * 16, body, AT, filtered, not_modified)
    reply = pb.FetchResponse.FromString(fetch_reply(fetched, FRESHNESS.encoded(AT)))
    assert reply == pb.FetchResponse(
        version=2,
        not_modified=not_modified,
        secrets=[] if not_modified else SECRETS,
        freshness=FRESHNESS.protobuf(AT),
        etag=b"e" * 16,
        filtered=filtered,
    )


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 300, 16_000])
def test_a_long_node_name_does_not_break_the_reply(size: int) -> None:
    """The length before a field is one byte or two."""
    freshness = pb.Freshness(node="n" * size)
    fetched = Fetched(2, b"e" * 16, BODY, AT, False, False)
    raw = fetch_reply(fetched, freshness.SerializeToString())
    assert pb.FetchResponse.FromString(raw).freshness == freshness


def test_what_was_fetched_does_not_show_its_values() -> None:
    """A reply in memory holds secrets."""
    assert "CANARY" not in repr(Fetched(2, b"", BODY, AT, False, False))


def test_verify_keeps_what_is_unknown_absent() -> None:
    """No staleness asked for is not a staleness of 0."""
    bare = pb.VerifyRequest(token="t", access={"org": "acme"})
    assert verify_item(bare).max_staleness_s is None
    bare.max_staleness_s = 0
    assert verify_item(bare).max_staleness_s == 0
    assert verify_item(bare).access == {"org": "acme"}


def test_a_refusal_is_a_reply_that_does_not_allow() -> None:
    """With the reason and the caveat, and nothing of the token."""
    freshness = FRESHNESS.protobuf(AT)
    verdict = Verdict(False, AT, reason="CAVEAT", caveat="app = api", message="no")
    reply = pb.VerifyResponse.FromString(verify_reply(verdict, freshness.SerializeToString()))
    assert reply == pb.VerifyResponse(
        reason="CAVEAT", caveat="app = api", message="no", freshness=freshness
    )


def test_a_batch_is_its_verdicts_in_order() -> None:
    """Each with the freshness of the one position that all were read at."""
    freshness = FRESHNESS.protobuf(AT)
    verdicts = [
        Verdict(True, AT, "ab" * 16, "acme", "person:a@example.com", 77, discharges=(b"s" * 32,)),
        Verdict(False, AT, reason="REVOKED", message="m" * 300),
    ]
    raw = verify_batch_reply(verdicts, freshness.SerializeToString())
    assert pb.VerifyBatchResponse.FromString(raw).responses == [
        pb.VerifyResponse(
            allowed=True,
            token_id="ab" * 16,
            org="acme",
            subject="person:a@example.com",
            expires_at_ms=77,
            discharge_signatures=[b"s" * 32],
            freshness=freshness,
        ),
        pb.VerifyResponse(reason="REVOKED", message="m" * 300, freshness=freshness),
    ]


def test_a_heartbeat_has_a_position_and_no_token() -> None:
    """Its position is where a client goes on after a lost stream."""
    freshness = FRESHNESS.protobuf(AT)
    at = pb.Position(epoch=3, txid=2**40)
    assert revocation(None, AT, freshness) == pb.Revocation(position=at, freshness=freshness)
    row = RevocationRow(b"\xab" * 16, "acme", 77, 3, 2**40)
    assert revocation(row, AT, freshness) == pb.Revocation(
        token_id="ab" * 16, org="acme", position=at, revoked_at_ms=77, freshness=freshness
    )


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x07", b"CANARY" * 99])
def test_malformed_protobuf_is_invalid_and_not_quoted(raw: bytes) -> None:
    """Cut short, not UTF-8, of a wire type that does not exist."""
    with pytest.raises(PetsemError) as refused:
        parse(pb.FetchRequest, raw)
    assert refused.value.code is Code.INVALID
    assert "CANARY" not in refused.value.message
