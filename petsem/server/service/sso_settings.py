"""An org's setting `sso`: who its provider is, and which of its people may sign in.

Guarantees: nobody may sign in unless a domain or a group says so; the client's secret is sealed
with the org's keys and never read back; the key that tickets are sealed under lives as long as the
setting does, so that turning sign-in off ends every discharge to come.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

import apsw
import msgspec

from petsem.errors import invalid
from petsem.model import check_attribute
from petsem.server.keys import Keys
from petsem.server.policy import within_org_authority
from petsem.server.service import shared_keys
from petsem.server.store import orgs
from petsem.server.store.orgs import OrgRow
from petsem.wire import http

SSO: Final = "sso"
_NAMES_MAX_CHARS: Final = 1_024
"""Of domains, which are in a token's ticket and once more in its discharge, and of actions: with
more, a person would sign in for a token that is longer than any may be."""
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+",
    re.ASCII,
)


def read_sso(stored: str | None) -> http.SsoInfo | None:
    """The setting as it is kept."""
    return None if stored is None else msgspec.json.decode(stored, type=http.SsoInfo)


def write_sso(
    db: apsw.Connection, keys: Keys, org: OrgRow, sso: http.Sso | None, now_ms: int
) -> None:
    """Turn signing in on, change it, or with None turn it off."""
    if sso is None:
        orgs.write_setting(db, org.id, SSO, None)
        shared_keys.forget(db, org, "sso", now_ms)
        shared_keys.forget(db, org, "client", now_ms)
        return
    _check(sso)
    before = read_sso(orgs.read_settings(db, org.id).get(SSO))
    shared_keys.make_once(db, keys, org, "sso", now_ms)
    secret = sso.client_secret
    if isinstance(secret, str):
        shared_keys.put(db, keys, org, "client", secret.encode(), now_ms)
        has_secret = True
    elif secret is msgspec.UNSET and before is not None and _same_client(before, sso):
        has_secret = before.client_secret_set
    else:
        # Another client, or another provider, must not be shown this one's secret.
        shared_keys.forget(db, org, "client", now_ms)
        has_secret = False
    info = http.SsoInfo(
        issuer=sso.issuer,
        client_id=sso.client_id,
        client_secret_set=has_secret,
        domains=sso.domains,
        groups=sso.groups,
        groups_claim=sso.groups_claim,
        actions=sso.actions,
        discharge_s=sso.discharge_s,
        session_s=sso.session_s,
    )
    orgs.write_setting(db, org.id, SSO, msgspec.json.encode(info).decode())


def _same_client(before: http.SsoInfo, sso: http.Sso) -> bool:
    return (before.issuer, before.client_id) == (sso.issuer, sso.client_id)


def _check(sso: http.Sso) -> None:
    _check_issuer(sso.issuer)
    if not sso.domains and not sso.groups:
        raise invalid("sso needs domains or groups: a provider may let anybody sign in")
    for domain in sso.domains:
        if not _DOMAIN.fullmatch(domain):
            raise invalid("each of sso's domains is a name in lower case, such as example.com")
    if sum(map(len, sso.domains)) + sum(map(len, sso.actions)) > _NAMES_MAX_CHARS:
        raise invalid(
            f"sso's domains and actions have at most {_NAMES_MAX_CHARS:,} characters together, "
            "because they travel with each token"
        )
    for group in sso.groups:
        if not (0 < len(group) <= 255 and group.isprintable()):
            raise invalid("each of sso's groups is 1 to 255 printable characters")
    for action in sso.actions:
        check_attribute(action, "an action")
        if not within_org_authority(action):
            raise invalid("sso's actions are such as a token of an org can hold")


def _check_issuer(issuer: str) -> None:
    """An https URL, or http on this very machine."""
    try:
        parts = urlsplit(issuer)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise invalid("sso's issuer is not a URL") from None
    if parts.query or parts.fragment or parts.username is not None or not host:
        raise invalid("sso's issuer is a URL of scheme, host, port and path only")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise invalid("sso's issuer begins with https://, so that nobody else can answer for it")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
