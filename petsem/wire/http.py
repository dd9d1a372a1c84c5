"""The JSON bodies of the HTTP API, as msgspec structs.

Guarantees: unknown fields are refused, and field names are those of the published contract. It
does not check names or sizes; `petsem.model` and the services do.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class _In(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request body."""


class _Out(msgspec.Struct, frozen=True, omit_defaults=False):
    """A reply body."""


# Shared


class Base64Value(_In, frozen=True):
    """A value that is not text."""

    base64: str


Value = str | Base64Value


class ReplicatedDurability(_In, frozen=True):
    """Answer when this many other voters hold the write durably."""

    replicated: int


DurabilityWish = Literal["local"] | ReplicatedDurability


class Freshness(_Out, frozen=True):
    """How fresh an answer is. Unknown fields are absent."""

    node: str
    region: str
    role: Literal["leader", "replica", "unknown"]
    position: str
    server_time_ms: int
    source: Literal["disk", "upstream"]
    lag_ms: int | UnsetType = UNSET
    leader_seen_ms_ago: int | UnsetType = UNSET
    replicated: str | UnsetType = UNSET


class DurabilityReport(_Out, frozen=True):
    """What was asked, whether it was met, and which nodes are known to hold the write."""

    asked: Literal["local"] | ReplicatedDurability
    met: bool
    replicated_to: list[str]


class ErrorBody(_Out, frozen=True):
    """Every error, from every route."""

    code: str
    message: str
    details: dict[str, Any]


class Who(_Out, frozen=True):
    """Who made a change: identity from the issued token, and the token's id."""

    subject: str
    token_id: str


# Orgs and apps


class CreateOrg(_In, frozen=True):
    org: str


class CreateApp(_In, frozen=True):
    app: str


class Org(_Out, frozen=True):
    org: str
    created_at: str
    deleted_at: str | None
    purge_at: str | None


class OrgList(_Out, frozen=True):
    orgs: list[Org]
    next: str | None


class App(_Out, frozen=True):
    app: str
    version: int
    created_at: str
    deleted_at: str | None
    purge_at: str | None


class AppList(_Out, frozen=True):
    apps: list[App]
    next: str | None


class Deleted(_Out, frozen=True):
    """What a delete did: `purge_at` is when it can no longer be undone, absent if it is now."""

    deleted_at: str
    purge_at: str | None
    message: str


class Settings(_Out, frozen=True):
    """An org's settings; every key is always present."""

    durability: DurabilityWish
    boot_max_staleness_s: int


class SettingsPatch(_In, frozen=True):
    """The keys to change; null puts a key back to its default."""

    durability: DurabilityWish | UnsetType | None = UNSET
    boot_max_staleness_s: int | UnsetType | None = UNSET


# Secrets


class SecretsPatch(_In, frozen=True):
    """A batch, applied whole or not at all."""

    set: dict[str, Value] = msgspec.field(default_factory=dict)
    unset: list[str] = msgspec.field(default_factory=list)
    if_version: int | None = None
    durability: DurabilityWish | None = None


class WrittenSecret(_Out, frozen=True):
    name: str
    digest: str


class SecretsPatched(_Out, frozen=True):
    version: int
    position: str
    durability: DurabilityReport
    set: list[WrittenSecret]
    unset: list[str]


class SecretInfo(_Out, frozen=True):
    name: str
    version: int
    digest: str
    updated_at: str
    updated_by: Who


class SecretList(_Out, frozen=True):
    version: int
    secrets: list[SecretInfo]
    filtered: bool
    freshness: Freshness


class SecretValues(_Out, frozen=True):
    version: int
    secrets: dict[str, Value]
    filtered: bool
    freshness: Freshness


class SecretsDiff(_Out, frozen=True, omit_defaults=True):
    """`present` for a writer; `same` and `changed` instead of it for a reader."""

    added: list[str]
    removed: list[str]
    present: list[str] | UnsetType = UNSET
    same: list[str] | UnsetType = UNSET
    changed: list[str] | UnsetType = UNSET


class Destroy(_In, frozen=True):
    names: list[str]
    version: int | None = None


class DestroyedSecret(_Out, frozen=True):
    name: str
    versions: list[int]


class Destroyed(_Out, frozen=True):
    version: int
    destroyed: list[DestroyedSecret]
    position: str
    message: str


class VersionInfo(_Out, frozen=True):
    version: int
    created_at: str
    updated_by: Who
    change: Literal["set", "rollback", "destroy"]
    rolled_back_to: int | None
    set: list[str]
    unset: list[str]


class VersionList(_Out, frozen=True):
    versions: list[VersionInfo]
    next: int | None
    freshness: Freshness


class Rollback(_In, frozen=True):
    to: int
    if_version: int | None = None
    durability: DurabilityWish | None = None


# Tokens


class Mint(_In, frozen=True):
    caveats: list[str]
    org: str | None = None
    kind: str | None = None
    label: str | None = None


class Minted(_Out, frozen=True):
    token: str
    id: str
    expires_at: str
    position: str


class TokenInfo(_Out, frozen=True):
    id: str
    kind: str
    subject: str
    label: str | None
    parent: str | None
    caveats: list[str]
    created_at: str
    created_by: str
    expires_at: str
    state: Literal["live", "expired", "revoked"]
    revoked_at: str | None


class TokenList(_Out, frozen=True):
    tokens: list[TokenInfo]
    next: str | None


class Revoked(_Out, frozen=True):
    id: str
    revoked_at: str
    position: str
    durability: DurabilityReport


class RootKeyRotated(_Out, frozen=True):
    key_id: str
    retired: list[str]
    position: str


class Verify(_In, frozen=True):
    token: str
    access: dict[str, str]
    max_staleness_s: int | None = None


class VerifyBatch(_In, frozen=True):
    requests: list[Verify]


class Allowed(_Out, frozen=True, omit_defaults=True):
    """`org` is absent for a token of the cluster key that named none."""

    token_id: str
    org: str | UnsetType
    subject: str
    expires_at: str
    freshness: Freshness
    allowed: Literal[True] | UnsetType = UNSET
    would_allow: Literal[True] | UnsetType = UNSET


class Refused(_Out, frozen=True, omit_defaults=True):
    reason: str
    message: str
    freshness: Freshness
    caveat: str | UnsetType = UNSET
    allowed: Literal[False] | UnsetType = UNSET
    would_allow: Literal[False] | UnsetType = UNSET


class VerifyBatchReply(_Out, frozen=True):
    responses: list[Allowed | Refused]


class RevocationInfo(_Out, frozen=True):
    token_id: str
    org: str | None
    position: str
    revoked_at: str


class RevocationFeed(_Out, frozen=True):
    """`next` is the position to ask `after` next time."""

    revocations: list[RevocationInfo]
    next: str
    freshness: Freshness


# Nodes and keyring


class NodeStatus(_Out, frozen=True):
    node: str
    region: str
    role: Literal["leader", "replica", "unknown"]
    epoch: int
    position: str
    lag_transactions: int | None
    lag_ms: int | None
    last_error: str | None
    version: str
    ready: bool
    warnings: list[str]
    http: str
    grpc: str


class Status(_Out, frozen=True):
    cluster: str
    nodes: list[NodeStatus]


class NodeInfo(_Out, frozen=True):
    node: str
    region: str
    voter: bool
    joined_at: str
    http: str
    grpc: str
    peer: str


class NodeList(_Out, frozen=True):
    nodes: list[NodeInfo]


class KekInfo(_Out, frozen=True):
    purpose: Literal["secrets", "tokens", "cluster"]
    id: str
    state: Literal["waiting", "primary", "retired"]
    held: bool
    wraps: int


class KeyringList(_Out, frozen=True):
    keys: list[KekInfo]


class KeyringStep(_In, frozen=True):
    """Do up to `limit` rows and say how many are left; ask again until none are."""

    limit: int = 100
    org: str | None = None
    app: str | None = None
    after: str | None = None


class KeyringProgress(_Out, frozen=True):
    done: int
    remaining: int
    next: str | None
    message: str


class KekPromotion(_In, frozen=True):
    force: bool = False
