"""Protobuf in and out: requests checked on the way in, replies built on the way out.

Guarantees: what a service gets is within the model's bounds; what is unknown stays absent. It
decides nothing about authority.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from petsem import limits
from petsem.errors import invalid, unavailable
from petsem.model import (
    Position,
    check_app,
    check_attribute,
    check_org,
    check_secret_name,
)
from petsem.server.service.boot import Fetch, Fetched
from petsem.server.service.verify import Verdict, VerifyItem
from petsem.server.store.tokens import RevocationRow
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf

M = TypeVar("M", bound=Message)

_FRESHNESS: Final = pb.FetchResponse.FRESHNESS_FIELD_NUMBER << 3 | 2
_ETAG: Final = pb.FetchResponse.ETAG_FIELD_NUMBER << 3 | 2
_VERDICT_FRESHNESS: Final = pb.VerifyResponse.FRESHNESS_FIELD_NUMBER << 3 | 2
_RESPONSES: Final = pb.VerifyBatchResponse.RESPONSES_FIELD_NUMBER << 3 | 2


def parse(kind: type[M], raw: bytes) -> M:
    """The message that `raw` spells. Unknown fields pass, as protobuf wants it."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise invalid(f"the request is not a {kind.DESCRIPTOR.full_name} in protobuf") from None


def fetch_asked(message: pb.FetchRequest) -> Fetch:
    """What a FetchRequest asks for; its machine is checked too."""
    names: tuple[str, ...] = ()
    if message.names:
        if len(message.names) > limits.APP_MAX_SECRETS:
            raise invalid(f"a fetch names at most {limits.APP_MAX_SECRETS} secrets")
        names = tuple(map(check_secret_name, message.names))
    if message.machine:
        check_attribute(message.machine, "machine")
    return Fetch(
        org=check_org(message.org),
        app=check_app(message.app),
        version=message.version,
        min_version=message.min_version,
        min_position=optional_position(message, "min_position"),
        names=names,
        known_etag=message.known_etag,
        durable=message.durable,
    )


def fetch_reply(fetched: Fetched, freshness: bytes) -> bytes:
    """A serialised FetchResponse: the body as it was stored, and what is true of it now.

    Two protobuf messages one after the other are their fields together. This is made for every
    boot, so the two short fields are written by hand; `freshness` is a serialised one.
    """
    tail = fetched.body + _field(_FRESHNESS, freshness) + _field(_ETAG, fetched.etag)
    if not fetched.filtered and not fetched.not_modified:
        return tail
    rest = pb.FetchResponse(filtered=fetched.filtered, not_modified=fetched.not_modified)
    if fetched.not_modified:
        rest.version = fetched.version
    return tail + rest.SerializeToString()


def _field(tag: int, value: bytes) -> bytes:
    """One length-delimited field; its length fits in one byte, or in two."""
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    assert size < 0x4000
    return bytes((tag, size & 0x7F | 0x80, size >> 7)) + value


def watched_app(message: pb.WatchRequest) -> tuple[str, str]:
    """The org and app of a WatchRequest, its machine checked too."""
    if message.machine:
        check_attribute(message.machine, "machine")
    return check_org(message.org), check_app(message.app)


def verify_item(message: pb.VerifyRequest) -> VerifyItem:
    """One question about a token."""
    staleness_s = message.max_staleness_s if message.HasField("max_staleness_s") else None
    return VerifyItem(message.token, dict(message.access), staleness_s)


def verify_reply(verdict: Verdict, freshness: bytes) -> bytes:
    """A serialised VerifyResponse, with a serialised Freshness."""
    if verdict.allowed:
        message = pb.VerifyResponse(
            allowed=True,
            token_id=verdict.token_id,
            org=verdict.org,
            subject=verdict.subject,
            expires_at_ms=verdict.expires_at_ms,
            discharge_signatures=verdict.discharges,
        )
    else:
        message = pb.VerifyResponse(
            reason=verdict.reason, caveat=verdict.caveat, message=verdict.message
        )
    return message.SerializeToString() + _field(_VERDICT_FRESHNESS, freshness)


def verify_batch_reply(verdicts: Iterable[Verdict], freshness: bytes) -> bytes:
    """A serialised VerifyBatchResponse; all were read at the position of `freshness`."""
    return b"".join(_field(_RESPONSES, verify_reply(each, freshness)) for each in verdicts)


def replaced(reply: bytes, places: Sequence[int], others: bytes) -> bytes:
    """A VerifyBatchResponse with the answers of another in some places; `unavailable` if that has
    not as many."""
    ours = pb.VerifyBatchResponse.FromString(reply)
    answers = pb.VerifyBatchResponse.FromString(others).responses
    if len(answers) != len(places):
        raise unavailable("the answer from upstream is not one that this program knows")
    for at, answer in zip(places, answers, strict=True):
        ours.responses[at].CopyFrom(answer)
    raw: bytes = ours.SerializeToString()
    return raw


def revocation(row: RevocationRow | None, at: Position, freshness: pb.Freshness) -> pb.Revocation:
    """One entry of the feed; None is a heartbeat, which carries the position to go on from."""
    message = pb.Revocation(position=position_to_protobuf(at), freshness=freshness)
    if row is not None:
        message.token_id = row.nonce.hex()
        message.org = row.org_name or ""
        message.revoked_at_ms = row.at
    return message


def optional_position(message: Message, field: str) -> Position | None:
    """The position in a field, or None if it is not set."""
    return position_from_protobuf(getattr(message, field)) if message.HasField(field) else None
