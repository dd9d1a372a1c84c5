"""What browsers ask of the authenticator: the way to the org's provider, and back.

Guarantees: only the browser that was given a flow's cookie goes any further; where no browser is on
the requester's machine it was shown who asks, and its person has typed the code or refused. What a
provider answers counts only at its own org's redirect URI. What leads to a call to a provider, or
is kept in memory, is counted first.

It gives nothing out that is worth anything: results are for whoever began the flow, who polls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from petsem import base64url
from petsem.clock import Clock, rfc3339
from petsem.crypto import aead
from petsem.errors import PetsemError, unavailable
from petsem.sso.answers import Callback, Going
from petsem.sso.claims import check_person
from petsem.sso.cookies import clear_cookie, new_cookie, read_cookie, set_cookie
from petsem.sso.flow import SECRET_BYTES, TEXT_MAX_CHARS, Flow, State
from petsem.sso.issuing import seal_session
from petsem.sso.opening import Opening, ticket_of
from petsem.sso.orgs import OrgOf, SsoOrg
from petsem.sso.outcomes import Failure, NotSignedIn, Outcomes, Step
from petsem.sso.pages import confirm_page, done_page, refused_page
from petsem.sso.rates import Rates, block_of
from petsem.sso.refusals import other_browser, refused, said_no, wrong_code
from petsem.sso.results import Result, SignIns
from petsem.sso.sealing import not_ours
from petsem.sso.session import Session, provider_hash, ticket_hash
from petsem.sso.urls import leads_to

if TYPE_CHECKING:
    from petsem.sso.provider import Provider, Providers

log = structlog.get_logger(__name__)

PAGE_PATH: Final = "/sso"
CALLBACK_PATH: Final = "/sso/callback"

_ORG_PER_S: Final = 3.0
_ORG_BURST: Final = 60
_ADDRESS_PER_S: Final = 0.5
_ADDRESS_BURST: Final = 20
_RATES_MAX: Final = 10_000


class Browsing:
    """The part of the authenticator that browsers meet, and what it stands on.

    `public_url` is where browsers and the CLI reach the cluster's HTTP door, without a slash at
    its end; None where the node has none, and then nobody can sign in here.
    """

    def __init__(self, clock: Clock, public_url: str | None, org_of: OrgOf) -> None:
        self.public_url = public_url
        self.outcomes = Outcomes()
        self._clock = clock
        self._opening = Opening(clock, org_of)
        self._providers: Providers | None = None
        self._sign_ins = SignIns(clock)
        self._orgs = Rates(clock, per_s=_ORG_PER_S, burst=_ORG_BURST, keys_max=_RATES_MAX)
        self._addresses = Rates(
            clock, per_s=_ADDRESS_PER_S, burst=_ADDRESS_BURST, keys_max=_RATES_MAX
        )

    async def begin(self, flow: str, ip: str | None) -> Going:
        """Where the link of the command line leads: to the provider at once, if the answer can come
        to nobody but whoever asked; else to a page that asks for the code."""
        with self.outcomes.judging():
            return await self._begun(flow, ip)

    async def confirm(self, flow: str, code: str, cookies: str | None, ip: str | None) -> Going:
        """On to the provider, if the code is the one that the command line shows, and the browser
        is the one that was shown the page."""
        with self.outcomes.judging():
            org, found, cookie = self._shown(flow, cookies, ip)
            self._sign_ins.count_code(org.uid, found)
            if not found.is_code(org, code):
                raise wrong_code()
            going = Going(await self._away(org, found, cookie))
        self.outcomes.steps[Step.CONFIRMED] += 1
        return going

    async def refuse(self, flow: str, cookies: str | None, ip: str | None) -> Going:
        """The end of a sign-in that the person who was shown the page does not want. No code is
        asked for: who was sent a stranger's link has none."""
        with self.outcomes.judging():
            org, found, _ = self._shown(flow, cookies, ip)
            self._fail(org, found, said_no())
        return Going(refused_page(), clear_cookie(found, secure=self._secure))

    async def callback(self, answer: Callback, cookies: str | None, ip: str | None) -> Going:
        """What the provider sent the browser back with: the end of a sign-in."""
        with self.outcomes.judging():
            return await self._ended(answer, cookies, ip)

    # The steps of these

    async def _begun(self, flow: str, ip: str | None) -> Going:
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

    def _shown(self, flow: str, cookies: str | None, ip: str | None) -> tuple[SsoOrg, Flow, bytes]:
        """The flow of a form, if it was sent by the browser that was shown its page, and the cookie
        that shows it."""
        org, found = self._opening.flow(flow)
        if found.port is not None:
            raise not_ours()
        cookie = read_cookie(found, cookies, secure=self._secure)
        if cookie is None:
            raise other_browser()
        self._sign_ins.refuse_done(found)
        self._count(org, ip)
        return org, found, cookie

    async def _ended(self, answer: Callback, cookies: str | None, ip: str | None) -> Going:
        org, state = self._opening.state(answer.state)
        flow = state.flow
        cookie = read_cookie(flow, cookies, secure=self._secure)
        if cookie is None or not state.is_of(cookie):
            raise other_browser()
        # A provider knows its own org's redirect URI. What comes to another one is the code of
        # another provider, perhaps, which must not be shown to this one.
        if answer.org != org.name or answer.issuer not in (None, org.issuer):
            raise refused("the answer is of another provider than the org's")
        self._count(org, ip)
        if answer.code is None:
            if not answer.denied:
                raise refused("the provider did not sign you in")
            no = refused("the sign-in was refused at the org's provider", None)
            self._fail(org, flow, no)
            raise no
        sign_in = self._sign_ins.begin(org.uid, flow)
        try:
            result = sign_in.result = await self._completed(org, state, answer.code)
        except PetsemError as error:
            if isinstance(error, NotSignedIn) and error.why is Failure.NOT_ALLOWED:
                # It was somebody else's account, and the terminal need not wait for another.
                sign_in.failure = error.message
            log.warning("sign_in_refused", org=org.name, why=error.message)
            raise
        finally:
            sign_in.asking = False
        self.outcomes.steps[Step.SIGNED_IN] += 1
        log.info("signed_in", org=org.name, user=result.email)
        gone = clear_cookie(flow, secure=self._secure)
        if result.release is None:
            return Going(done_page(result.email), gone)
        # Always this host: a port alone leads nowhere but to the machine that the browser is on.
        return Going(
            f"http://127.0.0.1:{flow.port}/done?ticket={base64url.encode(result.release)}", gone
        )

    def _fail(self, org: SsoOrg, flow: Flow, no: NotSignedIn) -> None:
        """The person's own no: whoever waits for the sign-in is told."""
        self._sign_ins.fail(org.uid, flow, no.message)
        self.outcomes.steps[Step.REFUSED] += 1
        log.warning("sign_in_refused", org=org.name, why=no.message)

    async def _completed(self, org: SsoOrg, state: State, code: str) -> Result:
        flow = state.flow
        ticket = ticket_of(flow.ticket, org)
        person, refresh_token = await self._provider(org).exchange(
            org,
            self._redirect_uri(org),
            code,
            base64url.encode(state.verifier),
            base64url.encode(state.nonce),
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
            org,
            self._redirect_uri(org),
            text,
            base64url.encode(state.nonce),
            base64url.encode(state.verifier),
        )

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
        self._addresses.take((org.uid, block_of(ip)))
        self._orgs.take(org.uid)
