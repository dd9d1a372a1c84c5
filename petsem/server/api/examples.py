"""Sample values for the OpenAPI document, as values of the wire types.

Guarantees: the type checker and the encoder hold these to the same shapes as real answers. Names,
ids and times are made up, and no token in here is one.
"""

from __future__ import annotations

from typing import Final

from petsem.server.service.writes import COPIES
from petsem.wire import http

_POSITION: Final = "00000003-0000000000000be4"
_BEFORE: Final = "00000003-0000000000000be1"
_TIME: Final = "2026-11-20T09:30:00Z"
_LATER: Final = "2026-11-27T09:30:00Z"
_TOKEN_ID: Final = "5c0f1d7e9a2b4c6d8e0f1a2b3c4d5e6f"  # noqa: S105
_PARENT_ID: Final = "0b1c2d3e4f5061728394a5b6c7d8e9fa"
_KEY_ID: Final = "f3a1c9d2e4b58607182930415263748596a7b8c9dadbecfd0e1f203142536475"
_NO_TOKEN: Final = "petsem_AgEGcGV0c2Vt….0A1b2C"  # noqa: S105

FRESHNESS: Final = http.Freshness(
    node="ams-1f2e3d4c",
    region="ams",
    role="leader",
    position=_POSITION,
    server_time_ms=1_795_167_000_000,
    source="disk",
    lag_ms=0,
    leader_seen_ms_ago=0,
    replicated=_POSITION,
)

# Orgs and apps

ORG: Final = http.Org(org="acme", created_at=_TIME, deleted_at=None, purge_at=None)
ORG_DELETED: Final = http.Org(org="zeta", created_at=_TIME, deleted_at=_TIME, purge_at=_LATER)
APP: Final = http.App(app="web", version=7, created_at=_TIME, deleted_at=None, purge_at=None)
APP_NEW: Final = http.App(app="web", version=0, created_at=_TIME, deleted_at=None, purge_at=None)
DELETED: Final = http.Deleted(
    deleted_at=_TIME,
    purge_at=_LATER,
    message=f"undelete brings the app acme/web back until {_LATER}; copies in backups last longer",
)
PURGED: Final = http.Deleted(
    deleted_at=_TIME,
    purge_at=None,
    message=f"it is gone from this node's database; {COPIES}",
)
SETTINGS: Final = http.Settings(durability="local", boot_max_staleness_s=86_400)
SETTINGS_CHANGED: Final = http.Settings(durability="local", boot_max_staleness_s=3_600)

# Secrets

PATCH: Final = http.SecretsPatch(
    set={
        "DATABASE_URL": "postgres://web:hunter2@db.internal:5432/web",
        "TLS_KEY": http.Base64Value(base64="MC4CAQAwBQYDK2VwBCIEIA=="),
    },
    unset=["OLD_TOKEN"],
)
PATCH_IF_VERSION: Final = http.SecretsPatch(set={"LOG_LEVEL": "debug"}, if_version=6)
_WHO: Final = http.Who(subject=f"deploy:{_TOKEN_ID}", token_id=_TOKEN_ID)
_DIGEST: Final = "9d1e0f2a3b4c5d6e7f8091a2b3c4d5e6"
_LOCAL: Final = http.DurabilityReport(asked="local", met=True, replicated_to=[])
PATCHED: Final = http.SecretsPatched(
    version=7,
    position=_POSITION,
    durability=_LOCAL,
    set=[
        http.WrittenSecret(name="DATABASE_URL", digest=_DIGEST),
        http.WrittenSecret(name="TLS_KEY", digest="00f1e2d3c4b5a69788796a5b4c3d2e1f"),
    ],
    unset=["OLD_TOKEN"],
)
ROLLED_BACK: Final = http.SecretsPatched(
    version=8,
    position=_POSITION,
    durability=_LOCAL,
    set=[http.WrittenSecret(name="DATABASE_URL", digest="b7a6958473625140f3e2d1c0bfae9d8c")],
    unset=["TLS_KEY"],
)
SECRET_LIST: Final = http.SecretList(
    version=7,
    secrets=[
        http.SecretInfo(
            name="DATABASE_URL", version=7, digest=_DIGEST, updated_at=_TIME, updated_by=_WHO
        ),
        http.SecretInfo(
            name="LOG_LEVEL",
            version=2,
            digest="1f2e3d4c5b6a79880716253443526170",
            updated_at=_TIME,
            updated_by=_WHO,
        ),
    ],
    filtered=False,
    freshness=FRESHNESS,
)
VALUES: Final = http.SecretValues(
    version=7,
    secrets={"LOG_LEVEL": "info", "TLS_KEY": http.Base64Value(base64="MC4CAQAwBQYDK2VwBCIEIA==")},
    filtered=False,
    freshness=FRESHNESS,
)
DIFF_WRITER: Final = http.SecretsDiff(
    added=["TLS_KEY"], removed=["OLD_TOKEN"], present=["DATABASE_URL"]
)
DIFF_READER: Final = http.SecretsDiff(
    added=["TLS_KEY"], removed=["OLD_TOKEN"], same=[], changed=["DATABASE_URL"]
)
DESTROYED: Final = http.Destroyed(
    version=8,
    destroyed=[http.DestroyedSecret(name="OLD_TOKEN", versions=[1, 4])],
    position=_POSITION,
    message=f"it is gone from this node's database; {COPIES}",
)
VERSIONS: Final = http.VersionList(
    versions=[
        http.VersionInfo(
            version=8,
            created_at=_LATER,
            updated_by=_WHO,
            change="rollback",
            rolled_back_to=6,
            set=["DATABASE_URL"],
            unset=["TLS_KEY"],
        ),
        http.VersionInfo(
            version=7,
            created_at=_TIME,
            updated_by=_WHO,
            change="set",
            rolled_back_to=None,
            set=["DATABASE_URL", "TLS_KEY"],
            unset=["OLD_TOKEN"],
        ),
    ],
    next=7,
    freshness=FRESHNESS,
)

# Tokens

MINT: Final = http.Mint(
    org="acme",
    kind="host",
    caveats=["app = web", "action = secrets:read", "time < 2027-01-01T00:00:00Z"],
    label="web hosts in ams",
)
MINT_OPERATOR: Final = http.Mint(
    caveats=["action in nodes:read, tokens:verify", "time < 2026-12-01T00:00:00Z"]
)
TICKET: Final = "AVtsfY6foLHC0-T1BhcoOUpbbH2On6CxwtPk9QYXKDlKW2x9jp-gscLT5PUGFyg5"
DISCHARGE: Final = _NO_TOKEN
_SECRET32: Final = "mKg1sVo4n3Qd9b2Zy7pXrTfWcE6uLhJk0aNqSvYxGzI"
_FLOW: Final = "AVtsfY6foLHC0-T1BhcoOUr-0cQ"
_SESSION: Final = "AVtsfY6foLHC0-T1BhcoOUo8n1k"
_POLL_URL: Final = "https://petsem.example.net/.well-known/petsem/3p/poll"
_PERSON: Final = "ana@example.com"
THIRD_PARTY: Final = http.ThirdParty(ticket=TICKET, commitment=_SECRET32, redirect_port=49152)
THIRD_PARTY_AGAIN: Final = http.ThirdParty(ticket=TICKET, session=_SESSION)
USER_INTERACTIVE: Final = http.ThirdPartyAnswer(
    user_interactive=http.UserInteractive(
        user_url=f"https://petsem.example.net/sso?flow={_FLOW}",
        poll_url=_POLL_URL,
        flow=_FLOW,
        code="BCDF-GHJK",
    )
)
DISCHARGED: Final = http.ThirdPartyAnswer(
    discharge=DISCHARGE, session=_SESSION, user=_PERSON, expires_at=_TIME
)
SSO_FORM: Final = http.SsoForm(flow=_FLOW, code="ABCD-2345")
RENEWING: Final = http.ThirdPartyAnswer(poll_url=_POLL_URL, flow=_FLOW)
POLL: Final = http.ThirdPartyPoll(flow=_FLOW)
POLL_WITH_SECRET: Final = http.ThirdPartyPoll(flow=_FLOW, secret=_SECRET32)
POLLED: Final = http.ThirdPartyPolled(
    discharge=DISCHARGE, session=_SESSION, user=_PERSON, expires_at=_TIME
)
MINTED: Final = http.Minted(
    token=_NO_TOKEN, id=_TOKEN_ID, expires_at="2027-01-01T00:00:00Z", position=_POSITION
)
EXCHANGE: Final = http.Exchange(
    org="acme", app="web", machine="3d8d9014", actions=["secrets:read"], ttl_s=600
)
EXCHANGED: Final = http.Exchanged(
    token=_NO_TOKEN,
    id=_TOKEN_ID,
    expires_at=_TIME,
    position=_POSITION,
    renew_until="2027-01-01T00:00:00Z",
)
BOOT: Final = http.Boot(app="web", machine="3d8d9014", ticket=TICKET)
BOOT_ALLOWED: Final = http.BootAllowed(
    discharge=DISCHARGE, grant=_PARENT_ID, expires_at=_TIME, position=_POSITION
)
TOKEN: Final = http.TokenInfo(
    id=_TOKEN_ID,
    kind="host",
    subject=f"host:{_TOKEN_ID}",
    label="web hosts in ams",
    parent=_PARENT_ID,
    caveats=["org = acme", "app = web", "action = secrets:read", "time < 2027-01-01T00:00:00Z"],
    created_at=_TIME,
    created_by=f"operator:{_PARENT_ID}",
    expires_at="2027-01-01T00:00:00Z",
    state="live",
    revoked_at=None,
    last_seen=_TIME,
)
OPERATOR_TOKEN: Final = http.TokenInfo(
    id=_PARENT_ID,
    kind="operator",
    subject=f"operator:{_PARENT_ID}",
    label=None,
    parent=None,
    caveats=["time < 2026-11-21T09:30:00Z"],
    created_at=_TIME,
    created_by="init",
    expires_at="2026-11-21T09:30:00Z",
    state="revoked",
    revoked_at=_TIME,
)
REVOKED: Final = http.Revoked(id=_TOKEN_ID, revoked_at=_TIME, position=_POSITION, durability=_LOCAL)
REVOKE_PERSON: Final = http.RevokeMany(subject="person:ana@example.com")
REVOKE_APP: Final = http.RevokeMany(app="web")
REVOKE_ALL: Final = http.RevokeMany(all=True)
REVOKED_MANY: Final = http.RevokedMany(revoked=3, position=_POSITION, durability=_LOCAL)
ROOT_KEY: Final = http.RootKeyRotated(
    key_id="7d6c5b4a39281706f5e4d3c2b1a09f8e",
    retired=["1a2b3c4d5e6f708192a3b4c5d6e7f809"],
    position=_POSITION,
)

# Verification

_ACCESS: Final = {"org": "acme", "app": "web", "action": "secrets:read", "machine": "3d8d9014"}
VERIFY: Final = http.Verify(token=_NO_TOKEN, access=_ACCESS)
CAN: Final = http.Verify(token=_NO_TOKEN, access={**_ACCESS, "time": "2027-06-01T00:00:00Z"})
ALLOWED: Final = http.Verdict(
    allowed=True,
    token_id=_TOKEN_ID,
    org="acme",
    subject=f"host:{_TOKEN_ID}",
    expires_at="2027-01-01T00:00:00Z",
    freshness=FRESHNESS,
)
REFUSED: Final = http.Verdict(
    allowed=False,
    reason="CAVEAT",
    caveat="app = api",
    message="the token's caveat 'app = api' does not allow this",
    freshness=FRESHNESS,
)
COULD: Final = http.CanVerdict(
    would_allow=True,
    token_id=_TOKEN_ID,
    org="acme",
    subject=f"host:{_TOKEN_ID}",
    expires_at="2027-01-01T00:00:00Z",
    freshness=FRESHNESS,
)
COULD_NOT: Final = http.CanVerdict(
    would_allow=False,
    reason="EXPIRED",
    caveat="time < 2027-01-01T00:00:00Z",
    message="the token has expired; ask for a new one",
    freshness=FRESHNESS,
)
REVOCATIONS: Final = http.RevocationFeed(
    revocations=[
        http.RevocationInfo(token_id=_TOKEN_ID, org="acme", position=_POSITION, revoked_at=_TIME)
    ],
    next=_POSITION,
    freshness=FRESHNESS,
)
NO_REVOCATIONS: Final = http.RevocationFeed(revocations=[], next=_BEFORE, freshness=FRESHNESS)

# Nodes and keyring

STATUS: Final = http.Status(
    cluster="a1b2c3d4e5f60718293a4b5c6d7e8f90",
    nodes=[
        http.NodeStatus(
            node="ams-1f2e3d4c",
            region="ams",
            role="leader",
            epoch=3,
            position=_POSITION,
            lag_transactions=0,
            lag_ms=0,
            last_error=None,
            version="0.1.0",
            ready=True,
            warnings=[],
            http="127.0.0.1:7400",
            grpc="127.0.0.1:7401",
            heard_ms_ago=0,
        )
    ],
)
NODES: Final = http.NodeList(
    nodes=[
        http.NodeInfo(
            node="ams-1f2e3d4c",
            region="ams",
            voter=True,
            joined_at=_TIME,
            http="127.0.0.1:7400",
            grpc="127.0.0.1:7401",
            peer="127.0.0.1:7402",
        )
    ]
)
INVITATION: Final = http.NodeInvitation(region="fra")
INVITED: Final = http.NodeInvited(join_token="petsem_join_AaGyw9Tl….0A1b2C", expires_at=_TIME)  # noqa: S106
NODE_REMOVED: Final = http.NodeRemoved(
    node="fra-5d6c7b8a",
    position=_POSITION,
    message="fra-5d6c7b8a is no longer a node: the others refuse it. Its disk still holds what it "
    "had; destroy it, or rotate the keys that it held",
)
NODE_PROMOTED: Final = http.NodePromoted(
    node="fra-5d6c7b8a",
    epoch=1027,
    position="00000403-0000000000000be5",
    may_be_lost=http.MayBeLost(
        leader="ams-88e0e533",
        leader_position=_POSITION,
        transactions=0,
        leader_seen_ms_ago=4_200,
    ),
    message="fra-5d6c7b8a leads from epoch 1027 on. It had everything that ams-88e0e533 was last "
    "heard to have, 4.2 s ago; what that committed later is lost to the cluster",
)
NODE_LOSS_ACCEPTED: Final = http.NodeLossAccepted(
    node="ams-88e0e533",
    message="ams-88e0e533 saves its own branch under lost/ in its data directory, and follows the "
    "leader",
)
KEK: Final = http.KekInfo(purpose="secrets", id=_KEY_ID, state="primary", held=True, wraps=42)
RETIRED_KEK: Final = http.KekInfo(
    purpose="secrets", id=_KEY_ID, state="retired", held=True, wraps=0
)
STEP: Final = http.KeyringStep(limit=500)
NEXT_STEP: Final = http.KeyringStep(limit=500, after="eyJsZWZ0Ijo0Mn0")
ROTATE_ONE: Final = http.KeyringStep(org="acme", app="web")
PROGRESS: Final = http.KeyringProgress(
    done=500, remaining=42, next="eyJsZWZ0Ijo0Mn0", message="wrapping data keys"
)
DONE: Final = http.KeyringProgress(
    done=42, remaining=0, next=None, message="every data key is wrapped anew"
)
