"""Reading replies: nothing from the network becomes a `Bundle` unchecked.

Guarantees: names are of the grammar and unique, values, counts and sums within the limits, and the
reply answers what was asked (the version, the fence, no name that was not wanted). Anything else
is a `BrokenReply`, which is about the node and never holds what it sent.

Does not know whether the values are the right ones: that is what TLS and the node's word are for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from petsem.errors import Code, Detail, PetsemError
from petsem.limits import APP_MAX_BYTES, APP_MAX_SECRETS, REGION_MAX_CHARS, VALUE_MAX_BYTES
from petsem.model import Freshness, Role, Source, check_secret_name
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf
from petsem_client.bundle import Bundle
from petsem_client.requests import Fetch

ETAG_MAX_BYTES: Final = 64
NODE_MAX_CHARS: Final = 255


class BrokenReply(Exception):  # noqa: N818 - says what the node did
    """A node broke the protocol. The message says how, in our words."""


class AppChanged(NamedTuple):
    """An app has a new version, said by a node that was this fresh."""

    version: int
    freshness: Freshness


def parse_fetched(wanted: Fetch, body: bytes) -> Bundle:
    """The bundle that a serialised FetchResponse brings, or the known one confirmed."""
    try:
        reply = pb.FetchResponse.FromString(body)
    except DecodeError:
        raise BrokenReply("a reply that is no FetchResponse") from None
    freshness = freshness_of(reply.freshness if reply.HasField("freshness") else None)
    if wanted.version and reply.version != wanted.version:
        raise BrokenReply("another version than the one asked for")
    if reply.not_modified:
        return _confirmed(wanted, reply, freshness)
    if not 1 <= len(reply.etag) <= ETAG_MAX_BYTES:
        raise BrokenReply("an etag of a size that none has")
    return Bundle(
        f"{wanted.org}/{wanted.app}",
        _values(wanted, reply),
        version=reply.version,
        freshness=freshness,
        etag=reply.etag,
        filtered=reply.filtered,
    )


def parse_changed(body: bytes) -> AppChanged:
    """What a serialised AppChanged says."""
    try:
        message = pb.AppChanged.FromString(body)
    except DecodeError:
        raise BrokenReply("a message that is no AppChanged") from None
    freshness = freshness_of(message.freshness if message.HasField("freshness") else None)
    return AppChanged(message.version, freshness)


def unmet_fence(wanted: Fetch, bundle: Bundle) -> PetsemError | None:
    """The `stale` error that the node owed us, if its answer is older than what was asked for.

    Across epochs only a node can tell; here a lower epoch is older, and a higher one is believed.
    """
    have, need = bundle.freshness.position, wanted.min_position
    behind = not wanted.version and bundle.version < wanted.min_version
    if need is not None and (have.epoch, have.txid) < (need.epoch, need.txid):
        behind = True
    if not behind:
        return None
    return PetsemError(
        Code.STALE,
        "the node's answer is older than what was asked for; try another node, or later",
        Detail(
            have=have,
            need=need,
            have_version=bundle.version,
            need_version=wanted.min_version or None,
        ),
    )


def _confirmed(wanted: Fetch, reply: pb.FetchResponse, freshness: Freshness) -> Bundle:
    known = wanted.known
    if known is None or reply.secrets or reply.version not in (0, known.version):
        raise BrokenReply("not_modified where that cannot be")
    return known.confirmed(freshness)


def _values(wanted: Fetch, reply: pb.FetchResponse) -> dict[str, bytes]:
    if len(reply.secrets) > APP_MAX_SECRETS:
        raise BrokenReply("more secrets than an app can have")
    asked = frozenset(wanted.names)
    values: dict[str, bytes] = {}
    total = 0
    for secret in reply.secrets:
        name, value = secret.name, secret.value
        if name in values:
            raise BrokenReply("one name twice")
        if asked and name not in asked:
            raise BrokenReply("a name that was not asked for")
        try:
            check_secret_name(name)
        except PetsemError:
            raise BrokenReply("a name that no secret can have") from None
        total += len(name) + len(value)
        if len(value) > VALUE_MAX_BYTES or total > APP_MAX_BYTES:
            raise BrokenReply("more bytes than an app can have")
        if not secret.version <= reply.version:
            raise BrokenReply("a secret that is newer than its app")
        values[name] = value
    return values


def freshness_of(message: pb.Freshness | None) -> Freshness:
    """What a node says of how fresh its answer is, which it must say."""
    if message is None or not message.HasField("position"):
        raise BrokenReply("a reply that does not say how fresh it is")
    if len(message.node) > NODE_MAX_CHARS or len(message.region) > REGION_MAX_CHARS:
        raise BrokenReply("a node or region with a name that is too long")
    return Freshness(
        node=message.node,
        region=message.region,
        role=Role(message.role) if message.role in _ROLES else Role.UNKNOWN,
        position=position_from_protobuf(message.position),
        server_time_ms=message.server_time_ms,
        source=Source(message.source) if message.source in _SOURCES else Source.UNKNOWN,
        lag_ms=message.lag_ms if message.HasField("lag_ms") else None,
        leader_seen_ms_ago=(
            message.leader_seen_ms_ago if message.HasField("leader_seen_ms_ago") else None
        ),
        replicated=(
            position_from_protobuf(message.replicated) if message.HasField("replicated") else None
        ),
    )


_ROLES: Final = frozenset(int(role) for role in Role)
_SOURCES: Final = frozenset(int(source) for source in Source)
