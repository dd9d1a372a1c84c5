"""The authenticator: tickets in, discharges out, once a person has signed in at the org's provider.

Guarantees: org, token and required domains come from the sealed ticket and nothing else that was
sent. A discharge goes only to whoever holds the secret that the flow was begun with, once; and,
where a browser was sent to the requester's own machine, only with the value that arrived there, so
that a link sent to somebody else brings its sender nothing. Without such a browser a person types a
code, on a page that says who asked. Nothing is stored before somebody has signed in.

It knows of the rest a clock, its public URL and the orgs (`OrgOf`). It cannot tell who holds a
ticket, and need not: the discharge names who signed in, and the token counts for nobody else.
"""

from __future__ import annotations

from typing import Final

from petsem.clock import Clock
from petsem.crypto import aead
from petsem.errors import Code, PetsemError, invalid
from petsem.sso.answers import Asked, Discharged, Interactive, Polling, Waiting
from petsem.sso.browsing import PAGE_PATH, Browsing
from petsem.sso.flow import Flow
from petsem.sso.issuing import issue
from petsem.sso.opening import secret_of, ticket_of
from petsem.sso.orgs import OrgOf, SsoOrg
from petsem.sso.outcomes import Step
from petsem.sso.renewal import Renewals
from petsem.sso.sealing import parse
from petsem.sso.session import TEXT_MAX_CHARS as SESSION_MAX_CHARS
from petsem.sso.session import open_session
from petsem.tokens.ticket import Ticket

PORTS: Final = range(1_024, 65_536)
POLL_PATH: Final = "/.well-known/petsem/3p/poll"


class Authenticator(Browsing):
    """Signs people in at their org's provider and discharges the tickets of their tokens: what the
    command line asks, over what browsers do meanwhile."""

    def __init__(self, clock: Clock, public_url: str | None, org_of: OrgOf) -> None:
        super().__init__(clock, public_url, org_of)
        self._renewals = Renewals(self._sign_ins, self._provider)

    async def close(self) -> None:
        """End what is under way, and close what is open to providers."""
        await self._renewals.close()
        if self._providers is not None:
            await self._providers.close()

    async def discharge(self, asked: Asked) -> Discharged | Polling | Interactive:
        """A discharge, if a session is good for one; else how to come by it."""
        data, org, ticket = self._opening.ticket(asked.ticket)
        if asked.redirect_port is not None and asked.redirect_port not in PORTS:
            raise invalid(f"redirect_port must be {PORTS.start} to {PORTS.stop - 1}")
        commitment = None
        if asked.commitment is not None:
            commitment = secret_of(asked.commitment, "commitment")
        if asked.session is not None:
            answer = await self._renewed(asked, data, org, ticket, commitment)
            if answer is not None:
                return answer
        if commitment is None:
            raise invalid(
                "this needs somebody to sign in, and for that commitment, the SHA-256 of a new "
                "secret; send it"
            )
        flow = self._flow(data, commitment, asked.redirect_port, asked.ip)
        text = flow.seal(org)
        self.outcomes.steps[Step.STARTED] += 1
        return Interactive(
            user_url=f"{self._base}{PAGE_PATH}?flow={text}",
            poll_url=self._base + POLL_PATH,
            flow=text,
            code=flow.code(org) if flow.port is None else None,
        )

    async def poll(
        self, flow: str, secret: str | None = None, release: str | None = None
    ) -> Waiting | Discharged:
        """Whether there is a result; with the secret, the result, once."""
        org, found = self._opening.flow(flow)
        if secret is None:
            if release is not None:
                raise invalid("release is of use with the secret only; send both")
            return Waiting(self._sign_ins.ready(found))
        given = secret_of(secret, "secret")
        shown = None if release is None else secret_of(release, "release")
        if not found.proves(given):
            raise PetsemError(
                Code.DENIED, "secret is not the one that this sign-in was begun with; begin anew"
            )
        result = self._sign_ins.collect(found, shown)
        if result is None:
            return Waiting(ready=False)
        ticket = ticket_of(found.ticket, org)
        return issue(found.ticket, ticket, org, result, self._clock.unix_ms())

    async def _renewed(
        self, asked: Asked, data: bytes, org: SsoOrg, ticket: Ticket, commitment: bytes | None
    ) -> Discharged | Polling | None:
        """The answer that a session gives, None if it gives none (any more)."""
        try:
            session = open_session(parse(asked.session or "", SESSION_MAX_CHARS), org)
        except PetsemError:
            # Of an older key, perhaps. Then the person signs in.
            return None
        if not session.holds(org, data, self._clock.unix_ms()):
            return None
        self._count(org, asked.ip)
        later = None if commitment is None else self._flow(data, commitment, None, asked.ip)
        found = await self._renewals.renew(org, ticket, session, later)
        if isinstance(found, Flow):
            return Polling(self._base + POLL_PATH, found.seal(org))
        return None if found is None else issue(data, ticket, org, found, self._clock.unix_ms())

    def _flow(self, ticket: bytes, commitment: bytes, port: int | None, ip: str | None) -> Flow:
        flow_id = aead.random_bytes(16)
        return Flow(flow_id, self._clock.unix_ms(), commitment, port, ip or "", ticket)
