"""People who have signed in, without a provider: discharges made with an authenticator's key."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from petsem.clock import rfc3339
from petsem.server import policy
from petsem.server.principal import Names
from petsem.tokens.macaroon import Macaroon, bind_discharge
from petsem.tokens.text import encode_part, encode_token, parse_token
from petsem.tokens.ticket import Ticket, discharge, key_id_of, open_ticket
from petsem.wire import http
from tests.support.nodes import Running, call

ALICE = "alice@example.com"
SSO = http.Sso(issuer="https://id.example.com", client_id="petsem", domains=["example.com"])


async def set_up(node: Running, sso: http.Sso | None = SSO, org: str = "acme") -> http.Settings:
    """Turn signing in on, or off."""
    principal = node.principal(policy.ORGS_ADMIN, Names(org))
    patch = http.SettingsPatch(sso=sso)
    return await node.node.orgs.patch_settings(principal, call("/s", str(sso)), org, patch)


def new_ticket(node: Running, org: str = "acme") -> bytes:
    """What `petsem login` begins with."""
    text = node.node.login.ticket(org).ticket
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def opened(node: Running, ticket: bytes) -> Ticket:
    """The ticket as its authenticator reads it."""
    org = node.node.login.org_of(key_id_of(ticket))
    assert org is not None
    return open_ticket(org.key_id, org.key, ticket)


def signed_in(
    node: Running, ticket: bytes, email: str = ALICE, life_s: int = 3600, *more: str
) -> Macaroon:
    """The discharge that a person who signs in is given."""
    ends = rfc3339(node.clock.unix_ms() + life_s * 1000)
    caveats = [f"user = {email}", f"time < {ends}", *more]
    return discharge(ticket, opened(node, ticket).caveat_key, caveats)


async def token_for(
    node: Running,
    ticket: bytes,
    made: Macaroon,
    actions: list[str] | None = None,
    key: str | None = None,
) -> http.Minted:
    """The person's token; `key` is the call's Idempotency-Key."""
    text = base64.urlsafe_b64encode(ticket).rstrip(b"=").decode()
    body = http.LoginToken(text, encode_part(made), actions)
    return await node.node.login.mint(body, call("/v1/login/token", msgspec.to_builtins(body), key))


def bound(token: str, *discharges: Macaroon) -> str:
    """A token as it is sent, with what discharges it."""
    root = parse_token(token).root
    return encode_token(root, [bind_discharge(root, each) for each in discharges])


async def login(node: Running, email: str = ALICE, **more: Any) -> tuple[str, Macaroon]:
    """A person's token, and its discharge."""
    ticket = new_ticket(node)
    made = signed_in(node, ticket, email)
    return (await token_for(node, ticket, made, **more)).token, made
