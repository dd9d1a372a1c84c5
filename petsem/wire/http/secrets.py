"""Bodies of secrets and their history."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from petsem import limits
from petsem.wire.http.shared import (
    DigestText,
    DurabilityReport,
    DurabilityWish,
    Freshness,
    In,
    Out,
    PositionText,
    Time,
    Value,
    Version,
    Who,
)

SecretName = Annotated[
    str,
    Meta(
        description="a letter or underscore, then letters, digits, `_`, `.` or `-`; at most 255 "
        "characters"
    ),
]


class SecretsPatch(In, frozen=True):
    """A batch, applied whole or not at all."""

    set: Annotated[dict[str, Value], Meta(description="values by name, at most 64 KiB each")] = (
        msgspec.field(default_factory=dict)
    )
    unset: Annotated[list[str], Meta(description="names to take away, which must be there")] = (
        msgspec.field(default_factory=list)
    )
    if_version: Version | None = None
    durability: DurabilityWish | None = None


class WrittenSecret(Out, frozen=True):
    """A value that was stored."""

    name: SecretName
    digest: DigestText


class SecretsPatched(Out, frozen=True):
    """The new version, and where it is durable."""

    version: Version
    position: PositionText
    durability: DurabilityReport
    set: list[WrittenSecret]
    unset: list[str]


Filtered = Annotated[bool, Meta(description="whether the token's caveats may have left names out")]


class SecretInfo(Out, frozen=True):
    """A secret without its value; `version` is the one that set it."""

    name: SecretName
    version: Version
    digest: DigestText
    updated_at: Time
    updated_by: Who


class SecretList(Out, frozen=True):
    """The current version of an app, by name."""

    version: Version
    secrets: list[SecretInfo]
    filtered: Filtered
    freshness: Freshness


class SecretValues(Out, frozen=True):
    """One version of an app: text where the bytes are UTF-8, else base64."""

    version: Version
    secrets: dict[str, Value]
    filtered: Filtered
    freshness: Freshness


class SecretsDiff(Out, frozen=True, omit_defaults=True):
    """`present` for a writer; `same` and `changed` instead of it for a reader."""

    added: list[str]
    removed: list[str]
    present: list[str] | UnsetType = UNSET
    same: list[str] | UnsetType = UNSET
    changed: list[str] | UnsetType = UNSET


class Destroy(In, frozen=True):
    """Values to remove for good."""

    names: Annotated[list[str], Meta(min_length=1, max_length=limits.APP_MAX_SECRETS)]
    version: (
        Annotated[int, Meta(ge=1, le=limits.VERSION_MAX, description="every one if left out")]
        | None
    ) = None


class DestroyedSecret(Out, frozen=True):
    """A name, and the versions that had set the values which are gone."""

    name: SecretName
    versions: list[Version]


class Destroyed(Out, frozen=True):
    """What is gone from this node's database, and what may still have it."""

    version: Version
    destroyed: list[DestroyedSecret]
    position: PositionText
    message: str
    durability: DurabilityReport | UnsetType = UNSET


class VersionInfo(Out, frozen=True):
    """A version: when, by whom, and the names that it set and took away."""

    version: Version
    created_at: Time
    updated_by: Who
    change: Literal["set", "rollback", "destroy"]
    rolled_back_to: Version | None
    set: list[SecretName]
    unset: list[SecretName]


class VersionList(Out, frozen=True):
    """A page of versions, newest first."""

    versions: list[VersionInfo]
    next: Annotated[
        int | None, Meta(description="what to ask `before` for the next page; null on the last")
    ]
    freshness: Freshness


class Rollback(In, frozen=True):
    """The version whose values a new one is to have."""

    to: Version
    if_version: Version | None = None
    durability: DurabilityWish | None = None
