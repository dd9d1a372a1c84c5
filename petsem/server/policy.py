"""The one policy: which action each route and RPC needs, and which names decide it.

Guarantees: a route that is not in this table cannot be served, because the doors look their rule
up here and refuse to start without one. It does not evaluate tokens; `petsem.server.auth` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from petsem.crypto.ca import CertRole
from petsem.tokens.authority import within_org_authority as within_org_authority  # its name here


@dataclass(frozen=True, slots=True)
class Rule:
    """An action, and whether only the cluster's own key carries the authority for it."""

    action: str
    cluster_only: bool = False


ORGS_ADMIN: Final = Rule("orgs:admin", cluster_only=True)
APPS_ADMIN: Final = Rule("apps:admin")
SECRETS_LIST: Final = Rule("secrets:list")
SECRETS_READ: Final = Rule("secrets:read")
SECRETS_WRITE: Final = Rule("secrets:write")
SECRETS_DELETE: Final = Rule("secrets:delete")
TOKENS_MINT: Final = Rule("tokens:mint")
TOKENS_REVOKE: Final = Rule("tokens:revoke")
TOKENS_LIST: Final = Rule("tokens:list")
TOKENS_VERIFY: Final = Rule("tokens:verify")
TOKENS_EXCHANGE: Final = Rule("tokens:exchange")
MACHINES_BOOT: Final = Rule("machines:boot")
NODES_READ: Final = Rule("nodes:read", cluster_only=True)
NODES_ADMIN: Final = Rule("nodes:admin", cluster_only=True)

OPEN: Final = None
"""The few routes that need no token."""

_APP: Final = "/v1/orgs/{org}/apps/{app}"

HTTP: Final[dict[tuple[str, str], Rule | None]] = {
    ("POST", "/v1/orgs"): ORGS_ADMIN,
    ("GET", "/v1/orgs"): ORGS_ADMIN,
    ("DELETE", "/v1/orgs/{org}"): ORGS_ADMIN,
    ("POST", "/v1/orgs/{org}/undelete"): ORGS_ADMIN,
    ("GET", "/v1/orgs/{org}/settings"): ORGS_ADMIN,
    ("PATCH", "/v1/orgs/{org}/settings"): ORGS_ADMIN,
    ("POST", "/v1/orgs/{org}/root-keys"): ORGS_ADMIN,
    ("POST", "/v1/orgs/{org}/apps"): APPS_ADMIN,
    ("GET", "/v1/orgs/{org}/apps"): SECRETS_LIST,
    ("DELETE", _APP): APPS_ADMIN,
    ("POST", _APP + "/undelete"): APPS_ADMIN,
    ("GET", _APP + "/secrets"): SECRETS_LIST,
    ("PATCH", _APP + "/secrets"): SECRETS_WRITE,
    ("GET", _APP + "/secrets/values"): SECRETS_READ,
    ("POST", _APP + "/secrets/diff"): SECRETS_WRITE,
    ("POST", _APP + "/secrets/destroy"): SECRETS_DELETE,
    ("GET", _APP + "/versions"): SECRETS_LIST,
    ("POST", _APP + "/rollback"): SECRETS_WRITE,
    ("POST", "/v1/tokens"): TOKENS_MINT,
    ("GET", "/v1/tokens"): TOKENS_LIST,
    ("DELETE", "/v1/tokens/{token_id}"): TOKENS_REVOKE,
    ("GET", "/v1/orgs/{org}/tokens"): TOKENS_LIST,
    ("DELETE", "/v1/orgs/{org}/tokens/{token_id}"): TOKENS_REVOKE,
    ("POST", "/v1/orgs/{org}/revocations"): TOKENS_REVOKE,
    ("POST", "/v1/tokens/exchange"): TOKENS_EXCHANGE,
    ("POST", "/v1/orgs/{org}/boots"): MACHINES_BOOT,
    ("POST", "/v1/login"): OPEN,
    ("POST", "/v1/login/token"): OPEN,
    ("POST", "/.well-known/petsem/3p"): OPEN,
    ("POST", "/.well-known/petsem/3p/poll"): OPEN,
    ("GET", "/sso"): OPEN,
    ("POST", "/sso"): OPEN,
    ("GET", "/sso/callback/{org}"): OPEN,
    ("POST", "/v1/tokens/verify"): TOKENS_VERIFY,
    ("POST", "/v1/tokens/verify-batch"): TOKENS_VERIFY,
    ("POST", "/v1/tokens/can"): TOKENS_VERIFY,
    ("GET", "/v1/revocations"): TOKENS_VERIFY,
    ("GET", "/v1/nodes"): NODES_READ,
    ("POST", "/v1/nodes/invite"): NODES_ADMIN,
    ("DELETE", "/v1/nodes/{node}"): NODES_ADMIN,
    ("POST", "/v1/nodes/{node}/promote"): NODES_ADMIN,
    ("POST", "/v1/nodes/{node}/accept-loss"): NODES_ADMIN,
    ("GET", "/v1/status"): NODES_READ,
    ("GET", "/metrics"): NODES_READ,
    ("GET", "/v1/keyring"): NODES_ADMIN,
    ("POST", "/v1/keyring/{key_id}/promote"): NODES_ADMIN,
    ("POST", "/v1/keyring/{key_id}/retire"): NODES_ADMIN,
    ("POST", "/v1/keyring/rewrap"): NODES_ADMIN,
    ("POST", "/v1/keyring/rotate-data"): NODES_ADMIN,
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/schema"): OPEN,
}
"""Method and path template → rule, for every HTTP route of our own. `open_metrics` opens /metrics,
and `open_schema = false` closes /schema to whoever has no valid token. A token that comes whole may
end itself without the rule's action, by the org's route: `own_end`."""

RPC_PATHS: Final = "/petsem.v1."
"""What every RPC's path begins with, and over HTTP no other."""

RPC: Final[dict[str, Rule]] = {
    "/petsem.v1.Secrets/Fetch": SECRETS_READ,
    "/petsem.v1.Secrets/Watch": SECRETS_READ,
    "/petsem.v1.Tokens/Verify": TOKENS_VERIFY,
    "/petsem.v1.Tokens/VerifyBatch": TOKENS_VERIFY,
    "/petsem.v1.Tokens/WatchRevocations": TOKENS_VERIFY,
}
"""gRPC method, which is also the Connect path of the unary ones → rule."""

PEER: Final[dict[str, CertRole]] = {
    "/petsem.v1.Peer/Join": CertRole.JOIN,
    "/petsem.v1.Peer/Renew": CertRole.NODE,
    "/petsem.v1.Peer/Forward": CertRole.NODE,
    "/petsem.v1.Peer/Compare": CertRole.NODE,
    "/petsem.v1.Peer/Revoke": CertRole.NODE,
    "/petsem.v1.Peer/Seen": CertRole.NODE,
    "/petsem.v1.Replication/Stream": CertRole.NODE,
}
"""Method of the peer port → whose certificate it takes. A node's counts while it is a member, and
no token is looked at: a forwarded request carries its own."""
