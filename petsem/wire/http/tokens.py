"""Bodies of tokens: minted, exchanged, listed, revoked; and of boots that were asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from petsem import limits
from petsem.wire.http.shared import (
    Base64Text,
    DurabilityReport,
    In,
    Next,
    Out,
    PositionText,
    TenantName,
    Time,
    TokenId,
)


class Mint(In, frozen=True):
    """A token to make. `kind`: operator (without an org), org, deploy, read-only, host, service."""

    caveats: Annotated[
        list[str], Meta(description="such as `app = web`; `action` and `time <` are required")
    ]
    org: Annotated[str, Meta(description="whose key signs; the cluster's if left out")] | None = (
        None
    )
    kind: Annotated[str, Meta(description="the natural one of the key if left out")] | None = None
    label: Annotated[str, Meta(description="for people; never identity")] | None = None


class Minted(Out, frozen=True):
    """The only answer that has a token in it."""

    token: str
    id: TokenId
    expires_at: Time
    position: PositionText


Machine = Annotated[
    str, Meta(min_length=1, max_length=limits.MACHINE_MAX_CHARS, description="as its host names it")
]

MinutesS = Annotated[int, Meta(ge=60, le=3_600, description="seconds that it lives at most")]


class Exchange(In, frozen=True, kw_only=True):
    """A service token to make for one machine of an app."""

    org: TenantName
    app: TenantName
    machine: Machine
    host_key: (
        Annotated[
            str,
            Meta(
                min_length=64,
                max_length=64,
                description="SHA-256 of the SubjectPublicKeyInfo of the host's TLS key, in "
                "hexadecimal digits; required where the client shows no certificate",
            ),
        ]
        | None
    ) = None
    actions: Annotated[
        list[str], Meta(min_length=1, max_length=32, description="such as `secrets:read`")
    ]
    ttl_s: MinutesS = 900
    renewable: Annotated[
        bool, Meta(description="whether it may be exchanged for a successor itself")
    ] = True


class Exchanged(Out, frozen=True):
    """A new service token."""

    token: str
    id: TokenId
    expires_at: Time
    position: PositionText
    renew_until: (
        Annotated[Time, Meta(description="when the token behind it ends, and with it the last")]
        | None
    )


class Boot(In, frozen=True, kw_only=True):
    """A machine that its host may boot."""

    app: TenantName
    machine: Machine
    ticket: Annotated[Base64Text, Meta(description="the ticket in the host's token")]
    ttl_s: MinutesS = 600


class BootAllowed(Out, frozen=True):
    """What the host adds to its token."""

    discharge: Annotated[str, Meta(description="goes after the host's token and a comma")]
    grant: Annotated[str, Meta(description="the grant's id, which the log of each read names")]
    expires_at: Time
    position: PositionText


class TokenInfo(Out, frozen=True):
    """An issued token, without what it takes to use it."""

    id: TokenId
    kind: str
    subject: str
    label: str | None
    parent: Annotated[
        str | None, Meta(description="the id of the token on whose authority it was minted")
    ]
    caveats: list[str]
    created_at: Time
    created_by: str
    expires_at: Time
    state: Literal["live", "expired", "revoked"]
    revoked_at: Time | None
    last_seen: (
        Annotated[Time, Meta(description="when a node last verified it, to within some minutes")]
        | None
    ) = None


class TokenList(Out, frozen=True):
    """A page of issued tokens, oldest first."""

    tokens: list[TokenInfo]
    next: Next


class Revoked(Out, frozen=True):
    """A token that has ended, and where that is durable."""

    id: TokenId
    revoked_at: Time
    position: PositionText
    durability: DurabilityReport


class RevokeMany(In, frozen=True):
    """Whose tokens are to end: exactly one of these."""

    subject: Annotated[str, Meta(description="such as `person:a@example.com`")] | None = None
    app: TenantName | None = None
    all: Annotated[bool, Meta(description="every token of the org")] = False


class RevokedMany(Out, frozen=True):
    """How many ended by this call, and where that is durable."""

    revoked: int
    position: PositionText
    durability: DurabilityReport


class RootKeyRotated(Out, frozen=True):
    """The key that signs from now on, and those that only verify any more."""

    key_id: str
    retired: list[str]
    position: PositionText
