"""The JSON bodies of the HTTP API, as msgspec structs.

Guarantees: unknown fields of a request are refused, numbers of a request are within their bounds,
and field names are those of the published contract. The descriptions here are the ones in the
OpenAPI document. It does not check names or sizes; `petsem.model` and the services do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from petsem import limits


class _In(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request body."""


class _Out(msgspec.Struct, frozen=True, omit_defaults=False):
    """A reply body."""


# Shared

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


class Base64Value(_In, frozen=True):
    """A value that is not text, or that is sent without looking at it."""

    base64: Annotated[str, Meta(description="the bytes in standard base64, padded")]


Value = str | Base64Value


class ReplicatedDurability(_In, frozen=True):
    """Answer when this many other voters hold the write durably."""

    replicated: Annotated[int, Meta(ge=1, le=64)]


DurabilityWish = Literal["local"] | ReplicatedDurability


class Freshness(_Out, frozen=True):
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


class DurabilityReport(_Out, frozen=True):
    """What was asked, whether it was met, and which nodes are known to hold the write."""

    asked: Literal["local"] | ReplicatedDurability
    met: bool
    replicated_to: Annotated[list[str], Meta(description="other nodes known to hold it")]


class ErrorBody(_Out, frozen=True):
    """Every error, from every route. `details` has what a program may need, where it is known:
    `reason`, `caveat`, `have`, `need`, `have_version`, `need_version`, `retry_after_s`,
    `server_time_ms`, `reasons`."""

    code: Annotated[str, Meta(description="stable; see the table of errors")]
    message: Annotated[str, Meta(description="one sentence for people; it may change")]
    details: dict[str, Any]


class Who(_Out, frozen=True):
    """Who made a change: identity from the issued token, and the token's id."""

    subject: str
    token_id: TokenId


# Orgs and apps


TenantName = Annotated[
    str,
    Meta(
        description="1 to 63 lower-case letters, digits and hyphens, with no hyphen first or last"
    ),
]


class CreateOrg(_In, frozen=True):
    """An org to make."""

    org: TenantName


class CreateApp(_In, frozen=True):
    """An app to make."""

    app: TenantName


class Org(_Out, frozen=True):
    """An org; `deleted_at` and `purge_at` are null unless it is softly deleted."""

    org: TenantName
    created_at: Time
    deleted_at: Time | None
    purge_at: Time | None


class OrgList(_Out, frozen=True):
    """A page of orgs, by name."""

    orgs: list[Org]
    next: Next


class App(_Out, frozen=True):
    """An app; `deleted_at` and `purge_at` are null unless it is softly deleted."""

    app: TenantName
    version: Version
    created_at: Time
    deleted_at: Time | None
    purge_at: Time | None


class AppList(_Out, frozen=True):
    """A page of apps, by name."""

    apps: list[App]
    next: Next


class Deleted(_Out, frozen=True):
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
    list[str], Meta(max_length=16, description="a person's address must end in one of these")
]
Groups = Annotated[
    list[str], Meta(max_length=64, description="or be a member of one of these, if there are any")
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


class Sso(_In, frozen=True, kw_only=True):
    """How people of an org sign in. `domains` or `groups` are required, since a provider may know
    anybody. Where `client_secret` is left out, the one that was given for this client stays."""

    issuer: Issuer
    client_id: ClientId
    client_secret: Annotated[str, Meta(min_length=1, max_length=1024)] | UnsetType | None = UNSET
    domains: Domains = []
    groups: Groups = []
    groups_claim: GroupsClaim = "groups"
    actions: PersonActions = msgspec.field(default_factory=lambda: list(_PERSON_ACTIONS))
    discharge_s: DischargeLife = 3600
    session_s: SessionLife = 12 * 3600


class SsoInfo(_Out, frozen=True, kw_only=True):
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


class Settings(_Out, frozen=True):
    """An org's settings; every key is always present."""

    durability: DurabilityWish
    boot_max_staleness_s: Annotated[
        int, Meta(description="how long boot reads are served without word from the leader")
    ]
    sso: SsoInfo | None = None
    two_key: TwoKey = False


class SettingsPatch(_In, frozen=True):
    """The keys to change; null puts a key back to its default."""

    durability: DurabilityWish | UnsetType | None = UNSET
    boot_max_staleness_s: int | UnsetType | None = UNSET
    sso: Sso | UnsetType | None = UNSET
    two_key: TwoKey | UnsetType | None = UNSET


# Secrets


SecretName = Annotated[
    str,
    Meta(
        description="a letter or underscore, then letters, digits, `_`, `.` or `-`; at most 255 "
        "characters"
    ),
]


class SecretsPatch(_In, frozen=True):
    """A batch, applied whole or not at all."""

    set: Annotated[dict[str, Value], Meta(description="values by name, at most 64 KiB each")] = (
        msgspec.field(default_factory=dict)
    )
    unset: Annotated[list[str], Meta(description="names to take away, which must be there")] = (
        msgspec.field(default_factory=list)
    )
    if_version: Version | None = None
    durability: DurabilityWish | None = None


class WrittenSecret(_Out, frozen=True):
    """A value that was stored."""

    name: SecretName
    digest: DigestText


class SecretsPatched(_Out, frozen=True):
    """The new version, and where it is durable."""

    version: Version
    position: PositionText
    durability: DurabilityReport
    set: list[WrittenSecret]
    unset: list[str]


Filtered = Annotated[bool, Meta(description="whether the token's caveats may have left names out")]


class SecretInfo(_Out, frozen=True):
    """A secret without its value; `version` is the one that set it."""

    name: SecretName
    version: Version
    digest: DigestText
    updated_at: Time
    updated_by: Who


class SecretList(_Out, frozen=True):
    """The current version of an app, by name."""

    version: Version
    secrets: list[SecretInfo]
    filtered: Filtered
    freshness: Freshness


class SecretValues(_Out, frozen=True):
    """One version of an app: text where the bytes are UTF-8, else base64."""

    version: Version
    secrets: dict[str, Value]
    filtered: Filtered
    freshness: Freshness


class SecretsDiff(_Out, frozen=True, omit_defaults=True):
    """`present` for a writer; `same` and `changed` instead of it for a reader."""

    added: list[str]
    removed: list[str]
    present: list[str] | UnsetType = UNSET
    same: list[str] | UnsetType = UNSET
    changed: list[str] | UnsetType = UNSET


class Destroy(_In, frozen=True):
    """Values to remove for good."""

    names: Annotated[list[str], Meta(min_length=1, max_length=limits.APP_MAX_SECRETS)]
    version: (
        Annotated[int, Meta(ge=1, le=limits.VERSION_MAX, description="every one if left out")]
        | None
    ) = None


class DestroyedSecret(_Out, frozen=True):
    """A name, and the versions that had set the values which are gone."""

    name: SecretName
    versions: list[Version]


class Destroyed(_Out, frozen=True):
    """What is gone from this node's database, and what may still have it."""

    version: Version
    destroyed: list[DestroyedSecret]
    position: PositionText
    message: str
    durability: DurabilityReport | UnsetType = UNSET


class VersionInfo(_Out, frozen=True):
    """A version: when, by whom, and the names that it set and took away."""

    version: Version
    created_at: Time
    updated_by: Who
    change: Literal["set", "rollback", "destroy"]
    rolled_back_to: Version | None
    set: list[SecretName]
    unset: list[SecretName]


class VersionList(_Out, frozen=True):
    """A page of versions, newest first."""

    versions: list[VersionInfo]
    next: Annotated[
        int | None, Meta(description="what to ask `before` for the next page; null on the last")
    ]
    freshness: Freshness


class Rollback(_In, frozen=True):
    """The version whose values a new one is to have."""

    to: Version
    if_version: Version | None = None
    durability: DurabilityWish | None = None


# Tokens


class Mint(_In, frozen=True):
    """A token to make. `kind`: operator (without an org), org, deploy, read-only, host, service."""

    caveats: Annotated[
        list[str], Meta(description="such as `app = web`; `action` and `time <` are required")
    ]
    org: Annotated[str, Meta(description="whose key signs; the cluster's if left out")] | None = (
        None
    )
    kind: Annotated[str, Meta(description="the natural one of the key if left out")] | None = None
    label: Annotated[str, Meta(description="for people; never identity")] | None = None


class Minted(_Out, frozen=True):
    """The only answer that has a token in it."""

    token: str
    id: TokenId
    expires_at: Time
    position: PositionText


Machine = Annotated[
    str, Meta(min_length=1, max_length=limits.MACHINE_MAX_CHARS, description="as its host names it")
]
MinutesS = Annotated[int, Meta(ge=60, le=3_600, description="seconds that it lives at most")]


class Exchange(_In, frozen=True, kw_only=True):
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


class Exchanged(_Out, frozen=True):
    """A new service token."""

    token: str
    id: TokenId
    expires_at: Time
    position: PositionText
    renew_until: (
        Annotated[Time, Meta(description="when the token behind it ends, and with it the last")]
        | None
    )


class Login(_In, frozen=True):
    """Whose people sign in."""

    org: TenantName


Base64Text = Annotated[str, Meta(max_length=8192, description="unpadded base64url")]


class LoginTicket(_Out, frozen=True):
    """What the authenticator is to be asked with, at `/.well-known/petsem/3p`."""

    ticket: Base64Text


class LoginToken(_In, frozen=True):
    """A ticket and its discharge, for the token of the person who has signed in."""

    ticket: Base64Text
    discharge: Annotated[str, Meta(max_length=limits.TOKEN_MAX_BYTES)]
    actions: (
        Annotated[
            list[str],
            Meta(
                min_length=1,
                max_length=32,
                description="all that the org lets people do if left out",
            ),
        ]
        | None
    ) = None


SealedText = Annotated[str, Meta(min_length=1, max_length=16 * 1024)]
Secret32 = Annotated[
    str, Meta(min_length=43, max_length=43, description="32 bytes in unpadded base64url")
]


class ThirdParty(_In, frozen=True, kw_only=True):
    """A ticket that is to be discharged."""

    ticket: Base64Text
    commitment: (
        Annotated[
            str,
            Meta(
                min_length=43,
                max_length=43,
                description="SHA-256 of a new secret of 32 bytes, in unpadded base64url; may be "
                "left out where a session is sure to do",
            ),
        ]
        | None
    ) = None
    redirect_port: (
        Annotated[
            int,
            Meta(
                ge=1024,
                le=65535,
                description="where whoever asks listens on 127.0.0.1 for the browser",
            ),
        ]
        | None
    ) = None
    session: SealedText | None = None


class UserInteractive(_Out, frozen=True):
    """What it takes to have a person sign in."""

    user_url: str
    poll_url: str
    flow: SealedText
    code: Annotated[
        str | None, Meta(description="to be shown to the person; null with `redirect_port`")
    ]


class ThirdPartyAnswer(_Out, frozen=True, kw_only=True):
    """The discharge, not bound to its token; or where to poll; or what a person has to do."""

    discharge: str | UnsetType = UNSET
    session: (
        Annotated[str | None, Meta(description="renews it without the person, if there is one")]
        | UnsetType
    ) = UNSET
    user: Annotated[str, Meta(description="whom it names")] | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    poll_url: str | UnsetType = UNSET
    flow: SealedText | UnsetType = UNSET
    user_interactive: UserInteractive | UnsetType = UNSET


class ThirdPartyPoll(_In, frozen=True, kw_only=True):
    """Which sign-in, and, to fetch its result, who began it."""

    flow: SealedText
    secret: Secret32 | None = None
    release: Secret32 | None = None


class ThirdPartyPolled(_Out, frozen=True, kw_only=True):
    """Whether there is a result, or the result."""

    state: Literal["pending", "ready"] | UnsetType = UNSET
    discharge: str | UnsetType = UNSET
    session: str | UnsetType | None = UNSET
    user: str | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET


class Boot(_In, frozen=True, kw_only=True):
    """A machine that its host may boot."""

    app: TenantName
    machine: Machine
    ticket: Annotated[Base64Text, Meta(description="the ticket in the host's token")]
    ttl_s: MinutesS = 600


class BootAllowed(_Out, frozen=True):
    """What the host adds to its token."""

    discharge: Annotated[str, Meta(description="goes after the host's token and a comma")]
    grant: Annotated[str, Meta(description="the grant's id, which the log of each read names")]
    expires_at: Time
    position: PositionText


class TokenInfo(_Out, frozen=True):
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


class TokenList(_Out, frozen=True):
    """A page of issued tokens, oldest first."""

    tokens: list[TokenInfo]
    next: Next


class Revoked(_Out, frozen=True):
    """A token that has ended, and where that is durable."""

    id: TokenId
    revoked_at: Time
    position: PositionText
    durability: DurabilityReport


class RevokeMany(_In, frozen=True):
    """Whose tokens are to end: exactly one of these."""

    subject: Annotated[str, Meta(description="such as `person:a@example.com`")] | None = None
    app: TenantName | None = None
    all: Annotated[bool, Meta(description="every token of the org")] = False


class RevokedMany(_Out, frozen=True):
    """How many ended by this call, and where that is durable."""

    revoked: int
    position: PositionText
    durability: DurabilityReport


class RootKeyRotated(_Out, frozen=True):
    """The key that signs from now on, and those that only verify any more."""

    key_id: str
    retired: list[str]
    position: PositionText


class Verify(_In, frozen=True):
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


class VerifyBatch(_In, frozen=True):
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


class Verdict(_Out, frozen=True, omit_defaults=True, kw_only=True):
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


class CanVerdict(_Out, frozen=True, omit_defaults=True, kw_only=True):
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


class VerifyBatchReply(_Out, frozen=True):
    """The answers, in the order of the questions."""

    responses: list[Verdict]


class RevocationInfo(_Out, frozen=True):
    """A token that was revoked; `org` is null for one of the cluster key."""

    token_id: TokenId
    org: str | None
    position: PositionText
    revoked_at: Time


class RevocationFeed(_Out, frozen=True):
    """Revocations in order; `next` is the position to ask `after` next time."""

    revocations: list[RevocationInfo]
    next: PositionText
    freshness: Freshness


# Nodes and keyring


class Health(_Out, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Ready(_Out, frozen=True):
    """The node serves everything that it is there for."""

    ready: Literal[True]


class OpenApi(_Out, frozen=True):
    """The OpenAPI document, which has much more in it."""

    openapi: str = "3.1.0"


class NodeStatus(_Out, frozen=True):
    """A node; what is not known of it is null."""

    node: str
    region: str
    role: Literal["leader", "replica", "unknown"]
    epoch: int | None
    position: PositionText | None
    lag_transactions: int | None
    lag_ms: int | None
    last_error: str | None
    version: str | None
    ready: bool
    warnings: list[str]
    http: str
    grpc: str
    source: Annotated[
        str | None, Meta(description="the node that it follows; null for one that leads")
    ] = None
    heard_ms_ago: Annotated[
        int | None, Meta(description="when it said all this; 0 for the node that answers")
    ] = None


class Status(_Out, frozen=True):
    """The cluster's id, and its nodes as this one sees them."""

    cluster: str
    nodes: list[NodeStatus]


class NodeInfo(_Out, frozen=True):
    """A member of the cluster and its addresses."""

    node: str
    region: str
    voter: bool
    joined_at: Time
    http: str
    grpc: str
    peer: str


class NodeList(_Out, frozen=True):
    """The cluster's members."""

    nodes: list[NodeInfo]


class NodeInvitation(_In, frozen=True):
    """Where the new node will stand; the token is good for no other region."""

    region: Annotated[str, Meta(description="as in 1 to 63 lower-case letters, digits, hyphens")]


class NodeInvited(_Out, frozen=True):
    """A join token, which is shown here only. It is a secret: whoever uses it first joins."""

    join_token: str
    expires_at: Time


class NodeRemoved(_Out, frozen=True):
    """A node that is one no more, from this position on."""

    node: str
    position: PositionText
    message: str


class NodePromotion(_In, frozen=True):
    """`force` makes the node lead although no majority was asked: what the leader had and this
    node does not is lost to the cluster."""

    force: bool = False


class MayBeLost(_Out, frozen=True):
    """What is known of the leader that a promotion passes over. Unknown is null, never 0."""

    leader: str | None
    leader_position: PositionText | None
    transactions: int | None
    leader_seen_ms_ago: int | None


class NodePromoted(_Out, frozen=True):
    """A node that leads now, from this position on."""

    node: str
    epoch: int
    position: PositionText
    may_be_lost: MayBeLost
    message: str


class NodeLossAccepted(_Out, frozen=True):
    """A node that gives up its own branch now."""

    node: str
    message: str


class KekInfo(_Out, frozen=True):
    """A KEK, by its id; the key itself is in no answer."""

    purpose: Literal["secrets", "tokens", "cluster"]
    id: str
    state: Literal["waiting", "primary", "retired"]
    held: Annotated[bool, Meta(description="whether this node's keyring has it")]
    wraps: Annotated[int, Meta(description="data keys that are wrapped with it")]
    lacking: Annotated[
        list[str], Meta(description="live nodes that use keys of this purpose and lack this one")
    ] = msgspec.field(default_factory=list)
    lost: Annotated[
        list[str], Meta(description="live nodes that keep a lost branch which may need it")
    ] = msgspec.field(default_factory=list)


class KeyringList(_Out, frozen=True):
    """The KEKs that the cluster knows of."""

    keys: list[KekInfo]


class KeyringStep(_In, frozen=True):
    """Do up to `limit` rows and say how many are left; ask again until none are."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    org: str | None = None
    app: str | None = None
    after: Annotated[str, Meta(description="the `next` of the answer before")] | None = None


class KeyringProgress(_Out, frozen=True):
    """What was done, and what is left to do."""

    done: int
    remaining: int
    next: Annotated[str | None, Meta(description="what to ask `after` next; null when done")]
    message: str


class KekPromotion(_In, frozen=True):
    """Whether to promote a key that a live node lacks."""

    force: bool = False


class KekRetirement(_In, frozen=True):
    """Whether to retire a key that a lost branch may need."""

    force: bool = False
