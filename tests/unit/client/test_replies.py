"""Nothing that a node sends becomes a bundle unchecked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from petsem.clock import ManualClock
from petsem.errors import Code
from petsem.limits import APP_MAX_SECRETS, VALUE_MAX_BYTES
from petsem.model import Freshness, Position, Role, Source
from petsem.wire import petsem_pb2 as pb
from petsem_client.bundle import Bundle
from petsem_client.replies import BrokenReply, parse_changed, parse_fetched, unmet_fence
from tests.unit.client.far_end import ETAG, FarEnd
from tests.unit.client.test_requests import checked


def good() -> pb.FetchResponse:
    return FarEnd(ManualClock(), values={"A": b"1", "B": b"\x00\xff"}).reply()


def parse(reply: pb.FetchResponse, **wanted: Any) -> Bundle:
    return parse_fetched(checked(**wanted), reply.SerializeToString())


def test_a_whole_reply() -> None:
    """Every byte, the version and how fresh it is."""
    bundle = parse(good())
    assert dict(bundle) == {"A": b"1", "B": b"\x00\xff"}
    assert (bundle.app, bundle.version, bundle.etag) == ("acme/web", 3, ETAG)
    assert bundle.freshness == Freshness(
        "n1", "ams", Role.REPLICA, Position(1, 30), ManualClock().unix_ms(), Source.DISK
    )


def test_unknown_is_none_and_newer_enums_are_unknown() -> None:
    """An absent lag is None, a present 0 is 0, and a role from the future is unknown."""
    reply = good()
    reply.freshness.lag_ms = 0
    reply.freshness.role = 77  # type: ignore[assignment]
    freshness = parse(reply).freshness
    assert (freshness.lag_ms, freshness.leader_seen_ms_ago, freshness.replicated) == (0, None, None)
    assert freshness.role is Role.UNKNOWN


def twice(reply: pb.FetchResponse) -> None:
    reply.secrets.add(name="A", value=b"2", version=1)


def bad_name(reply: pb.FetchResponse) -> None:
    reply.secrets.add(name="A B", value=b"2", version=1)


def empty_name(reply: pb.FetchResponse) -> None:
    reply.secrets.add(name="", value=b"2", version=1)


def big_value(reply: pb.FetchResponse) -> None:
    reply.secrets.add(name="C", value=bytes(VALUE_MAX_BYTES + 1), version=1)


def big_app(reply: pb.FetchResponse) -> None:
    for at in range(17):
        reply.secrets.add(name=f"C{at}", value=bytes(VALUE_MAX_BYTES), version=1)


def many(reply: pb.FetchResponse) -> None:
    for at in range(APP_MAX_SECRETS):
        reply.secrets.add(name=f"C{at}", version=1)


def from_the_future(reply: pb.FetchResponse) -> None:
    reply.secrets[0].version = 4


def no_freshness(reply: pb.FetchResponse) -> None:
    reply.ClearField("freshness")


def no_position(reply: pb.FetchResponse) -> None:
    reply.freshness.ClearField("position")


def long_node(reply: pb.FetchResponse) -> None:
    reply.freshness.node = "n" * 256


def no_etag(reply: pb.FetchResponse) -> None:
    reply.etag = b""


def long_etag(reply: pb.FetchResponse) -> None:
    reply.etag = bytes(65)


def unasked_not_modified(reply: pb.FetchResponse) -> None:
    reply.not_modified = True


BREAKS = [
    twice,
    bad_name,
    empty_name,
    big_value,
    big_app,
    many,
    from_the_future,
    no_freshness,
    no_position,
    long_node,
    no_etag,
    long_etag,
    unasked_not_modified,
]


@pytest.mark.parametrize("breaks", BREAKS)
def test_broken_replies(breaks: Callable[[pb.FetchResponse], None]) -> None:
    """Each rule has a reply that breaks it alone, and none is taken."""
    reply = good()
    breaks(reply)
    with pytest.raises(BrokenReply):
        parse(reply)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a", b"\x1a\x03\x0a\x01\xff", bytes(100)])
def test_junk(body: bytes) -> None:
    """What is no protobuf, or holds bad UTF-8, is a broken reply."""
    for parse_it in (lambda: parse_fetched(checked(), body), lambda: parse_changed(body)):
        with pytest.raises(BrokenReply):
            parse_it()


def test_answers_to_another_question() -> None:
    """A name that was not asked for, or another version, is not an answer."""
    with pytest.raises(BrokenReply):
        parse(good(), names=["A"])
    with pytest.raises(BrokenReply):
        parse(good(), version=2)
    assert parse(good(), version=3).version == 3
    assert dict(parse(good(), names=["B", "A"])) == dict(parse(good()))


def test_not_modified_confirms_what_is_known() -> None:
    """The known values stay, with new freshness; one that carries values or a version is broken."""
    known = parse(good())
    reply = pb.FetchResponse(version=3, not_modified=True, freshness=good().freshness)
    reply.freshness.node = "n2"
    again = parse(reply, known=known)
    assert (dict(again), again.freshness.node, again.etag) == (dict(known), "n2", ETAG)
    reply.version = 4
    with pytest.raises(BrokenReply):
        parse(reply, known=known)
    both = good()
    both.not_modified = True
    with pytest.raises(BrokenReply):
        parse(both, known=known)


@pytest.mark.parametrize(
    ("wanted", "stale"),
    [
        ({"min_version": 3}, False),
        ({"min_version": 4}, True),
        ({"min_position": Position(1, 30)}, False),
        ({"min_position": Position(1, 31)}, True),
        ({"min_position": Position(0, 99)}, False),
        ({"min_position": Position(2, 1)}, True),
        ({"version": 3, "min_version": 4}, False),
    ],
)
def test_a_node_that_ignores_the_fence(wanted: dict[str, Any], stale: bool) -> None:
    """An answer older than what was asked for is `stale`, whatever the node says."""
    fetch = checked(**wanted)
    error = unmet_fence(fetch, parse(good(), **wanted))
    assert (error is not None) == stale
    if error is not None:
        assert error.code is Code.STALE
        assert error.detail.have == Position(1, 30)


def test_changed() -> None:
    """A watch's message is a version and how fresh its node is."""
    message = pb.AppChanged(version=9, freshness=good().freshness)
    version, freshness = parse_changed(message.SerializeToString())
    assert (version, freshness.node) == (9, "n1")
    with pytest.raises(BrokenReply):
        parse_changed(pb.AppChanged(version=9).SerializeToString())
