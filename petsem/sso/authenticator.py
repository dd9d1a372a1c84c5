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

from typing import TYPE_CHECKING, Final

import structlog

from petsem.clock import Clock, rfc3339
from petsem.crypto import aead
from petsem.errors import Code, PetsemError, invalid, unavailable
from petsem.sso.answers import (
    Asked,
    Callback,
    Discharged,
    Going,
    Interactive,
    Polling,
    Waiting,
)
from petsem.sso.claims import check_person
from petsem.sso.cookies import clear_cookie, new_cookie, read_cookie, set_cookie
from petsem.sso.flow import SECRET_BYTES, TEXT_MAX_CHARS, Flow, State
from petsem.sso.issuing import issue, seal_session
from petsem.sso.opening import Opening, secret_of, ticket_of
from petsem.sso.orgs import OrgOf, SsoOrg
from petsem.sso.pages import confirm_page, done_page
from petsem.sso.rates import Rates
from petsem.sso.refusals import other_browser, refused
from petsem.sso.renewal import Renewals
from petsem.sso.results import Result, SignIns
from petsem.sso.sealing import not_ours, parse, spell
from petsem.sso.session import TEXT_MAX_CHARS as SESSION_MAX_CHARS
from petsem.sso.session import Session, open_session, provider_hash, ticket_hash
from petsem.sso.urls import leads_to
from petsem.tokens.ticket import Ticket

if TYPE_CHECKING:
    from petsem.sso.provider import Provider, Providers

log = structlog.get_logger(__name__)

PORTS: Final = range(1_024, 65_536)
POLL_PATH: Final = "/.well-known/petsem/3p/poll"
PAGE_PATH: Final = "/sso"
CALLBACK_PATH: Final = "/sso/callback"

_ORG_PER_S: Final = 3.0
_ORG_BURST: Final = 60
_ADDRESS_PER_S: Final = 0.5
_ADDRESS_BURST: Final = 20
_RATES_MAX: Final = 10_000


class Authenticator:
    """Signs people in at their org's provider and discharges the tickets of their tokens.

    `public_url` is where browsers and the CLI reach the cluster's HTTP door, without a slash at
    its end; None where the node has none, and then nobody can sign in here.
    """

    def __init__(self, clock: Clock, public_url: str | None, org_of: OrgOf) -> None:
        self.public_url = public_url
        self._clock = clock
        self._opening = Opening(clock, org_of)
        self._providers: Providers | None = None
        self._sign_ins = SignIns(clock)
        self._renewals = Renewals(self._sign_ins, self._provider)
        self._orgs = Rates(clock, per_s=_ORG_PER_S, burst=_ORG_BURST, keys_max=_RATES_MAX)
        self._addresses = Rates(
            clock, per_s=_ADDRESS_PER_S, burst=_ADDRESS_BURST, keys_max=_RATES_MAX
        )

    async def close(self) -> None:
        """End what is under way, and close what is open to providers."""
        await self._renewals.close()
        if self._providers is not None:
            await self._providers.close()

    # What the command line asks

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

    # What a browser asks

    async def begin(self, flow: str, ip: str | None) -> Going:
        """Where the link of the command line leads: to the provider at once, if the answer can come
        to nobody but whoever asked; else to a page that asks for the code."""
        org, found = self._opening.flow(flow)
        self._sign_ins.refuse_done(found)
        provider = self._provider(org)
        if not provider.is_known:
            self._count(org, ip)
        endpoint = (await provider.metadata()).authorization_endpoint
        cookie = new_cookie()
        header = set_cookie(found, cookie, secure=self._secure)
        if found.port is not None:
            return Going(await self._away(org, found, cookie), header)
        page = confirm_page(
            org=org.name,
            token=ticket_of(found.ticket, org).token.hex(),
            ip=found.ip,
            begun_at=rfc3339(found.begun_ms),
            issuer=org.issuer,
            flow=flow,
            leads_to=leads_to(endpoint),
        )
        return Going(page, header)

    async def confirm(self, flow: str, code: str, cookies: str | None, ip: str | None) -> Going:
        """On to the provider, if the code is the one that the command line shows, and the browser
        is the one that was shown the page."""
        org, found = self._opening.flow(flow)
        if found.port is not None:
            raise not_ours()
        cookie = read_cookie(found, cookies, secure=self._secure)
        if cookie is None:
            raise other_browser()
        self._sign_ins.refuse_done(found)
        self._count(org, ip)
        self._sign_ins.count_code(org.uid, found)
        if not found.is_code(org, code):
            raise PetsemError(
                Code.DENIED, "that is not the code that the terminal shows; go back and type it"
            )
        return Going(await self._away(org, found, cookie))

    async def callback(self, answer: Callback, cookies: str | None, ip: str | None) -> Going:
        """What the provider sent the browser back with: the end of a sign-in."""
        org, state = self._opening.state(answer.state)
        flow = state.flow
        cookie = read_cookie(flow, cookies, secure=self._secure)
        if cookie is None or not state.is_of(cookie):
            raise other_browser()
        # A provider knows its own org's redirect URI. What comes to another one is the code of
        # another provider, perhaps, which must not be shown to this one.
        if answer.org != org.name or answer.issuer not in (None, org.issuer):
            raise refused("the answer is of another provider than the org's")
        if answer.code is None:
            raise refused("the provider did not sign you in")
        self._count(org, ip)
        sign_in = self._sign_ins.begin(org.uid, flow)
        try:
            result = sign_in.result = await self._completed(org, state, answer.code)
        except PetsemError as error:
            log.warning("sign_in_refused", org=org.name, why=error.message)
            raise
        finally:
            sign_in.asking = False
        log.info("signed_in", org=org.name, user=result.email)
        gone = clear_cookie(flow, secure=self._secure)
        if result.release is None:
            return Going(done_page(result.email), gone)
        # Always this host: a port alone leads nowhere but to the machine that the browser is on.
        return Going(f"http://127.0.0.1:{flow.port}/done?ticket={spell(result.release)}", gone)

    # The steps of these

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

    async def _completed(self, org: SsoOrg, state: State, code: str) -> Result:
        flow = state.flow
        ticket = ticket_of(flow.ticket, org)
        person, refresh_token = await self._provider(org).exchange(
            org, self._redirect_uri(org), code, spell(state.verifier), spell(state.nonce)
        )
        check_person(person, org, ticket.domains)
        session = None
        if refresh_token is not None:
            made = Session(
                org=org.uid,
                provider=provider_hash(org),
                ticket=ticket_hash(flow.ticket),
                signed_in_ms=self._clock.unix_ms(),
                subject=person.subject,
                email=person.email,
                refresh_token=refresh_token,
            )
            session = seal_session(org, made)
        release = None if flow.port is None else aead.random_bytes(SECRET_BYTES)
        return Result(person.email, session, release)

    async def _away(self, org: SsoOrg, flow: Flow, cookie: bytes) -> str:
        """The provider's URL for one trip of the browser with that cookie."""
        state = State.new(flow, cookie)
        text = state.seal(org)
        assert len(text) <= TEXT_MAX_CHARS
        return await self._provider(org).authorization_url(
            org, self._redirect_uri(org), text, spell(state.nonce), spell(state.verifier)
        )

    def _flow(self, ticket: bytes, commitment: bytes, port: int | None, ip: str | None) -> Flow:
        flow_id = aead.random_bytes(16)
        return Flow(flow_id, self._clock.unix_ms(), commitment, port, ip or "", ticket)

    # Its surroundings

    @property
    def _base(self) -> str:
        if self.public_url is None:
            raise unavailable(
                "nobody can sign in before the cluster's public address is known; an operator sets "
                "[sso] url in petsem.toml"
            )
        return self.public_url

    def _redirect_uri(self, org: SsoOrg) -> str:
        return f"{self._base}{CALLBACK_PATH}/{org.name}"

    @property
    def _secure(self) -> bool:
        return self._base.startswith("https:")

    def _provider(self, org: SsoOrg) -> Provider:
        if self._providers is None:
            # What speaks to providers takes a tenth of a node's start to import, and most nodes
            # never speak to one.
            from petsem.sso.provider import Providers

            self._providers = Providers(self._clock)
        return self._providers.of(org)

    def _count(self, org: SsoOrg, ip: str | None) -> None:
        """Count what may lead to a call to the org's provider."""
        self._addresses.take((org.uid, ip))
        self._orgs.take(org.uid)
