"""The permission token of a person: a ticket before the sign-in, the token after it.

Guarantees: what becomes a sign-in is a token of ours that asks for the very discharge that was
made, and ends; anything else a node may answer is refused. It keeps nothing.
"""

from __future__ import annotations

from typing import Final

from petsem.cli.ageing import earliest_end_s
from petsem.cli.api import Api
from petsem.cli.logins import Login
from petsem.cli.narrowing import Scope
from petsem.cli.replies import not_understood
from petsem.cli.run import Run
from petsem.cli.third_party import Discharge, asks_for
from petsem.errors import invalid
from petsem.tokens.identifier import Identifier
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import UnverifiedToken, parse_token
from petsem.wire import http

NODES_MAX: Final = 16
_URL_MAX_CHARS: Final = 2_048
_NOBODY: Final = Scope(())


def ticket_for(api: Api, org: str) -> str:
    """A ticket for a sign-in to `org`."""
    return api.ask("/v1/login", http.LoginTicket, _NOBODY, http.Login(org)).ticket


def permission_of(
    run: Run, api: Api, org: str, ticket: str, discharge: Discharge, actions: list[str] | None
) -> Login:
    """The sign-in that `discharge` completes."""
    urls = api.nodes.urls[:NODES_MAX]
    if any(len(url) > _URL_MAX_CHARS for url in urls):
        raise invalid(f"an address of PETSEM_ADDR is longer than {_URL_MAX_CHARS:,} characters")
    body = http.LoginToken(ticket, discharge.discharge, actions)
    minted = api.change("POST", "/v1/login/token", http.Minted, _NOBODY, body=body)
    token = _token(minted.token)
    until_s = earliest_end_s(token.root)
    if token.discharges or until_s is None or not asks_for(token.root, ticket):
        raise not_understood()
    now_ms = run.clock.unix_ms()
    return Login(
        org=org,
        user=discharge.user or "-",
        nodes=urls,
        token=minted.token,
        token_id=_id(token),
        token_since_ms=now_ms,
        token_until_ms=until_s * 1000,
        ticket=ticket,
        discharge=discharge.discharge,
        discharge_since_ms=now_ms,
        discharge_until_ms=discharge.until_ms,
        session=discharge.session,
    )


def _token(text: str) -> UnverifiedToken:
    try:
        return parse_token(text)
    except TokenRefused as refused:
        raise not_understood() from refused


def _id(token: UnverifiedToken) -> str:
    try:
        return Identifier.parse(token.root.identifier).token_id
    except TokenRefused as refused:
        raise not_understood() from refused
