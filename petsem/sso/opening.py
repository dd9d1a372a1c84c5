"""What was sent, opened: tickets, flows and states, each under its own org's key.

Guarantees: what comes out was sealed for the org that it is returned with, as that org is set now.
An org that is not there, or has turned sign-in off, opens nothing.
"""

from __future__ import annotations

from petsem import base64url
from petsem.clock import Clock
from petsem.errors import invalid
from petsem.sso.flow import (
    SECRET_BYTES,
    TEXT_MAX_CHARS,
    TICKET_MAX_BYTES,
    Flow,
    State,
    open_flow,
    open_state,
)
from petsem.sso.orgs import OrgOf, SsoOrg
from petsem.sso.refusals import no_ticket
from petsem.sso.sealing import Sealed, not_ours, parse
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.ticket import Ticket, key_id_of, open_ticket


class Opening:
    """Opens what the authenticator is given."""

    def __init__(self, clock: Clock, org_of: OrgOf) -> None:
        self._clock = clock
        self._org_of = org_of

    def ticket(self, text: str) -> tuple[bytes, SsoOrg, Ticket]:
        """A ticket that somebody wants to have discharged."""
        data = base64url.decode(text)
        if data is None or len(data) > TICKET_MAX_BYTES:
            raise invalid(f"ticket must be at most {TICKET_MAX_BYTES} bytes in unpadded base64url")
        try:
            org = self._org_of(key_id_of(data))
        except TokenRefused:
            org = None
        if org is None:
            raise no_ticket()
        return data, org, ticket_of(data, org)

    def flow(self, text: str) -> tuple[SsoOrg, Flow]:
        """A flow that is not over."""
        org, sealed = self._sealed(text)
        return org, open_flow(sealed, org, self._clock.unix_ms())

    def state(self, text: str) -> tuple[SsoOrg, State]:
        """A browser's trip, of a flow that is not over."""
        org, sealed = self._sealed(text)
        return org, open_state(sealed, org, self._clock.unix_ms())

    def _sealed(self, text: str) -> tuple[SsoOrg, Sealed]:
        sealed = parse(text, TEXT_MAX_CHARS)
        org = self._org_of(sealed.key_id)
        if org is None:
            raise not_ours()
        return org, sealed


def ticket_of(data: bytes, org: SsoOrg) -> Ticket:
    """What a ticket of that org says."""
    try:
        ticket = open_ticket(org.key_id, org.key, data)
    except TokenRefused:
        raise no_ticket() from None
    if ticket.org != org.uid:
        raise no_ticket()
    return ticket


def secret_of(text: str, what: str) -> bytes:
    """The 32 bytes that `text` spells."""
    found = base64url.decode(text)
    if found is None or len(found) != SECRET_BYTES:
        raise invalid(f"{what} must be {SECRET_BYTES} bytes in unpadded base64url")
    return found
