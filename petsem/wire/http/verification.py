"""Bodies of verify, its dry run and the feed of revocations."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from petsem import limits
from petsem.wire.http.shared import Freshness, In, Out, PositionText, TenantName, Time, TokenId


class Verify(In, frozen=True):
    """A token, and what it is to be used for."""

    token: str
    access: Annotated[
        dict[str, str],
        Meta(description="`org`, `action`, and every attribute that caveats may ask for"),
    ]
    max_staleness_s: (
        Annotated[int, Meta(ge=0, le=30 * 24 * 3600, description="how old the answer may be")]
        | None
    ) = None


class VerifyBatch(In, frozen=True):
    """Up to 512 of them."""

    requests: Annotated[list[Verify], Meta(min_length=1, max_length=limits.VERIFY_BATCH_MAX)]


Reason = Annotated[str, Meta(description="an open set: take an unknown one for a refusal too")]

FailedCaveat = Annotated[str, Meta(description="the caveat that failed")]

DischargeSignature = Annotated[
    str,
    Meta(
        description="a discharge's signature from before it was bound, in hexadecimal: with it, "
        "who keeps this answer can check narrower copies of the token; as secret as the token"
    ),
]


class Verdict(Out, frozen=True, omit_defaults=True, kw_only=True):
    """`token_id`, `org`, `subject` and `expires_at` if it is allowed; `reason`, `message` and
    perhaps `caveat` if it is not."""

    allowed: bool
    token_id: TokenId | UnsetType = UNSET
    org: TenantName | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    caveat: FailedCaveat | UnsetType = UNSET
    message: str | UnsetType = UNSET
    discharge_signatures: list[DischargeSignature] | UnsetType = UNSET
    freshness: Freshness


class CanVerdict(Out, frozen=True, omit_defaults=True, kw_only=True):
    """The answer of a dry run: a verdict without `allowed`, so that it is not taken for one."""

    would_allow: bool
    token_id: TokenId | UnsetType = UNSET
    org: TenantName | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    caveat: FailedCaveat | UnsetType = UNSET
    message: str | UnsetType = UNSET
    freshness: Freshness


class VerifyBatchReply(Out, frozen=True):
    """The answers, in the order of the questions."""

    responses: list[Verdict]


class RevocationInfo(Out, frozen=True):
    """A token that was revoked; `org` is null for one of the cluster key."""

    token_id: TokenId
    org: str | None
    position: PositionText
    revoked_at: Time


class RevocationFeed(Out, frozen=True):
    """Revocations in order; `next` is the position to ask `after` next time."""

    revocations: list[RevocationInfo]
    next: PositionText
    freshness: Freshness
