"""What an API server asks about, and the authority that a token has for it beyond its caveats.

Guarantees: pure, so that a node and a verifier that keeps answers hold an access against a token by
one and the same rule. Does not verify: what it is told of a token must come from a verification,
and whether the token is revoked or its row has expired is not looked at.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from petsem import limits
from petsem.errors import invalid
from petsem.model import Kind, check_org
from petsem.tokens.caveats import Access, clear
from petsem.tokens.reasons import Reason, TokenRefused


def within_org_authority(action: str) -> bool:
    """Whether an org's key may carry `action` at all. Actions of other API servers, which Petsem
    never acts on itself, are theirs to judge and pass."""
    ours = action.startswith(("orgs:", "nodes:", "apps:"))
    return not ours or action == "apps:admin"


def check_access(access: Mapping[str, str], known: Container[str | None] = ()) -> None:
    """Refuse an access that cannot be evaluated: no org or action, or absurdly large. Names of orgs
    that are `known` to be names are not looked at."""
    if len(access) > limits.ACCESS_ATTRIBUTES_MAX:
        raise invalid(f"access has at most {limits.ACCESS_ATTRIBUTES_MAX} attributes")
    for key, value in access.items():
        if len(key) > 64 or len(value) > 255:
            raise invalid("an attribute of access is at most 64 characters, its value at most 255")
    if "action" not in access or "org" not in access:
        raise invalid("access needs both org and action")
    if access["org"] not in known:
        check_org(access["org"])


def clear_access(
    caveats: Sequence[bytes],
    access: Mapping[str, str],
    now_s: int,
    *,
    kind: Kind,
    subject: str,
    org: str | None,
) -> None:
    """Hold an access that an API server describes against a verified token, or TokenRefused.

    `caveats` are all first-party ones in the order of the walk, `org` is the root key's, None for
    the cluster's. The access must be for that org; `time` and `user` are never the API server's to
    say, and the rest comes from `access` only.
    """
    wanted, action = access.get("org"), access.get("action")
    if wanted is None or action is None:
        raise invalid("access needs both org and action")
    if org is not None:
        if wanted != org:
            raise TokenRefused(Reason.WRONG_ORG)
        if not within_org_authority(action):
            raise TokenRefused(
                Reason.WRONG_ORG, "this needs a token of the cluster key, not of an org's"
            )
    attributes = access
    if kind is Kind.PERSON or "user" in access:
        attributes = {k: v for k, v in access.items() if k != "user"}
        if kind is Kind.PERSON:
            attributes["user"] = subject.removeprefix("person:")
    clear(caveats, Access(attributes, now_s))
