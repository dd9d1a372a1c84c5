"""What bodies of the HTTP API share: their two bases, names, positions, times, freshness."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from petsem import limits


class In(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request body."""


class Out(msgspec.Struct, frozen=True, omit_defaults=False):
    """A reply body."""


Version = Annotated[
    int,
    Meta(ge=0, le=limits.VERSION_MAX, description="a version of an app; at 0 it is new and empty"),
]

Time = Annotated[str, Meta(description="UTC in whole seconds, `YYYY-MM-DDTHH:MM:SSZ`")]

PositionText = Annotated[
    str,
    Meta(
        description="where a database stands: `EPOCH-TXID` or `EPOCH-TXID-CHECKSUM`, in 8, 16 "
        "and 16 hexadecimal digits"
    ),
]

TokenId = Annotated[str, Meta(description="a token's nonce, as 32 hexadecimal digits")]

DigestText = Annotated[
    str,
    Meta(
        description="a keyed digest, as 32 hexadecimal digits: the same for the same value of the "
        "same name, and empty once the value was destroyed"
    ),
]

Next = Annotated[
    str | None, Meta(description="what to ask `after` for the next page; null on the last")
]


class Base64Value(In, frozen=True):
    """A value that is not text, or that is sent without looking at it."""

    base64: Annotated[str, Meta(description="the bytes in standard base64, padded")]


Value = str | Base64Value


class ReplicatedDurability(In, frozen=True):
    """Answer when this many other voters hold the write durably."""

    replicated: Annotated[int, Meta(ge=1, le=64)]


DurabilityWish = Literal["local"] | ReplicatedDurability


class Freshness(Out, frozen=True):
    """How fresh an answer is. What is unknown is absent."""

    node: str
    region: str
    role: Literal["leader", "replica", "unknown"]
    position: PositionText
    server_time_ms: Annotated[int, Meta(description="the node's clock, Unix milliseconds")]
    source: Annotated[
        Literal["disk", "upstream"],
        Meta(description="this node's own database, or a node nearer to the leader"),
    ]
    lag_ms: Annotated[int, Meta(description="how old the data may be")] | UnsetType = UNSET
    leader_seen_ms_ago: (
        Annotated[int, Meta(description="when the leader was last heard")] | UnsetType
    ) = UNSET
    replicated: (
        Annotated[str, Meta(description="the position that a failover would keep")] | UnsetType
    ) = UNSET


class DurabilityReport(Out, frozen=True):
    """What was asked, whether it was met, and which nodes are known to hold the write."""

    asked: Literal["local"] | ReplicatedDurability
    met: bool
    replicated_to: Annotated[list[str], Meta(description="other nodes known to hold it")]


class ErrorBody(Out, frozen=True):
    """Every error, from every route. `details` has what a program may need, where it is known:
    `reason`, `caveat`, `have`, `need`, `have_version`, `need_version`, `retry_after_s`,
    `server_time_ms`, `reasons`."""

    code: Annotated[str, Meta(description="stable; see the table of errors")]
    message: Annotated[str, Meta(description="one sentence for people; it may change")]
    details: dict[str, Any]


class Who(Out, frozen=True):
    """Who made a change: identity from the issued token, and the token's id."""

    subject: str
    token_id: TokenId


TenantName = Annotated[
    str,
    Meta(
        description="1 to 63 lower-case letters, digits and hyphens, with no hyphen first or last"
    ),
]

Base64Text = Annotated[str, Meta(max_length=8192, description="unpadded base64url")]
