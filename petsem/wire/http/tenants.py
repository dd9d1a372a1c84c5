"""Bodies of orgs, apps and settings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from petsem.wire.http.shared import (
    DurabilityReport,
    DurabilityWish,
    In,
    Next,
    Out,
    TenantName,
    Time,
    Version,
)


class CreateOrg(In, frozen=True):
    """An org to make."""

    org: TenantName


class CreateApp(In, frozen=True):
    """An app to make."""

    app: TenantName


class Org(Out, frozen=True):
    """An org; `deleted_at` and `purge_at` are null unless it is softly deleted."""

    org: TenantName
    created_at: Time
    deleted_at: Time | None
    purge_at: Time | None


class OrgList(Out, frozen=True):
    """A page of orgs, by name."""

    orgs: list[Org]
    next: Next


class App(Out, frozen=True):
    """An app; `deleted_at` and `purge_at` are null unless it is softly deleted."""

    app: TenantName
    version: Version
    created_at: Time
    deleted_at: Time | None
    purge_at: Time | None


class AppList(Out, frozen=True):
    """A page of apps, by name."""

    apps: list[App]
    next: Next


class Deleted(Out, frozen=True):
    """What a delete did: `purge_at` is when it can no longer be undone, null if it is gone now."""

    deleted_at: Time
    purge_at: Time | None
    message: str
    durability: DurabilityReport | UnsetType = UNSET


Issuer = Annotated[
    str, Meta(max_length=1024, description="the OIDC provider, as it calls itself: an https URL")
]

ClientId = Annotated[str, Meta(min_length=1, max_length=255, description="ours at the provider")]

Domains = Annotated[
    list[str], Meta(max_length=16, description="a person's address must be at one of these")
]

Groups = Annotated[
    list[str], Meta(max_length=64, description="and who it is, in one of these, if there are any")
]

GroupsClaim = Annotated[
    str, Meta(min_length=1, max_length=255, description="which claim of the ID token lists groups")
]

PersonActions = Annotated[
    list[str], Meta(min_length=1, max_length=32, description="what people's tokens can do at most")
]

DischargeLife = Annotated[
    int,
    Meta(ge=300, le=12 * 3600, description="seconds until the provider has to be asked again"),
]

SessionLife = Annotated[
    int,
    Meta(ge=300, le=7 * 24 * 3600, description="seconds until the person has to sign in again"),
]

_PERSON_ACTIONS = ("secrets:list", "secrets:write")


class Sso(In, frozen=True, kw_only=True):
    """How people of an org sign in. `domains` or `groups` are required, since a provider may know
    anybody. Where `client_secret` is left out, the one that was given for this client stays."""

    issuer: Issuer
    client_id: ClientId
    client_secret: Annotated[str, Meta(min_length=1, max_length=1024)] | UnsetType | None = UNSET
    domains: Domains = msgspec.field(default_factory=list)
    groups: Groups = msgspec.field(default_factory=list)
    groups_claim: GroupsClaim = "groups"
    actions: PersonActions = msgspec.field(default_factory=lambda: list(_PERSON_ACTIONS))
    discharge_s: DischargeLife = 3600
    session_s: SessionLife = 12 * 3600


class SsoInfo(Out, frozen=True, kw_only=True):
    """The same as it is kept; of a client's secret only whether there is one."""

    issuer: Issuer
    client_id: ClientId
    client_secret_set: bool
    domains: Domains
    groups: Groups
    groups_claim: GroupsClaim
    actions: PersonActions
    discharge_s: DischargeLife
    session_s: SessionLife


TwoKey = Annotated[
    bool,
    Meta(description="a host's token reads nothing until somebody has asked for the machine"),
]


class Settings(Out, frozen=True):
    """An org's settings; every key is always present."""

    durability: DurabilityWish
    boot_max_staleness_s: Annotated[
        int, Meta(description="how long boot reads are served without word from the leader")
    ]
    sso: SsoInfo | None = None
    two_key: TwoKey = False


class SettingsPatch(In, frozen=True):
    """The keys to change; null puts a key back to its default."""

    durability: DurabilityWish | UnsetType | None = UNSET
    boot_max_staleness_s: int | UnsetType | None = UNSET
    sso: Sso | UnsetType | None = UNSET
    two_key: TwoKey | UnsetType | None = UNSET
