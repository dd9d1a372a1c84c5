"""An authenticator with two orgs, a provider that can lie, and a browser of sorts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from petsem import base64url
from petsem.clock import ManualClock
from petsem.crypto import aead
from petsem.sso.answers import Asked, Callback, Discharged, Going, Interactive, Waiting
from petsem.sso.authenticator import Authenticator
from petsem.sso.orgs import SsoOrg
from petsem.sso.pages import Page
from petsem.tokens.text import parse_token
from petsem.tokens.ticket import Ticket, discharge_caveats, new_caveat_key, seal_ticket
from tests.support.oidc import CLIENT_ID, CLIENT_SECRET, EvilProvider

URL = "http://127.0.0.1:7400"


@dataclass
class Requester:
    """A command line that has begun a sign-in."""

    secret: bytes
    answer: Interactive

    @property
    def flow(self) -> str:
        return self.answer.flow


@dataclass
class World:
    """Everything there is. `cookies` is the one browser's."""

    provider: EvilProvider
    clock: ManualClock = field(default_factory=ManualClock)
    orgs: dict[bytes, SsoOrg] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    caveat_keys: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.provider.now_s = lambda: self.clock.unix_ms() // 1000
        self.acme = self.add("acme")
        self.other = self.add("other")
        self.authenticator = Authenticator(self.clock, URL, lambda key_id: self.orgs.get(key_id))

    def add(self, name: str, **more: Any) -> SsoOrg:
        given = {
            "uid": hashlib.md5(name.encode()).digest(),
            "name": name,
            "key_id": aead.random_bytes(16),
            "key": aead.random_bytes(32),
            "issuer": self.provider.issuer,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "domains": ("example.com",),
            "discharge_s": 3_600,
            "session_s": 43_200,
        }
        org = SsoOrg(**{**given, **more})
        self.orgs[org.key_id] = org
        return org

    def change(self, **more: Any) -> None:
        """Set something of acme anew."""
        self.acme = msgspec.structs.replace(self.acme, **more)
        self.orgs[self.acme.key_id] = self.acme

    def ticket(self, org: SsoOrg | None = None, domains: tuple[str, ...] = ()) -> str:
        org = org or self.acme
        caveat_key = new_caveat_key()
        made = Ticket(org.uid, aead.random_bytes(16), caveat_key, self.clock.unix_ms(), domains)
        text = base64url.encode(seal_ticket(org.key_id, org.key, made))
        self.caveat_keys[text] = caveat_key
        return text

    def caveats(self, ticket: str, found: Discharged) -> list[str]:
        """What a discharge of that ticket says; it is checked to be one."""
        macaroon = parse_token(found.discharge).root
        cids = discharge_caveats(macaroon, macaroon.identifier, self.caveat_keys[ticket])
        assert base64url.encode(macaroon.identifier) == ticket
        return [cid.decode() for cid in cids]

    async def begin(self, ticket: str | None = None, port: int | None = None) -> Requester:
        secret = aead.random_bytes(32)
        answer = await self.authenticator.discharge(
            Asked(
                ticket=ticket or self.ticket(),
                commitment=base64url.encode(hashlib.sha256(secret).digest()),
                redirect_port=port,
                ip="192.0.2.7",
            )
        )
        assert isinstance(answer, Interactive)
        return Requester(secret, answer)

    # The browser

    def take(self, going: Going) -> Going:
        """Keep the cookie."""
        if going.cookie is not None:
            name, _, value = going.cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return going

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)

    async def page(self, flow: str) -> str:
        """The page that asks for a code."""
        going = self.take(await self.authenticator.begin(flow, "192.0.2.8"))
        assert isinstance(going.to, Page)
        return going.to.html

    async def away(self, who: Requester) -> str:
        """The provider's URL, by the way that the flow is of."""
        if who.answer.code is None:
            going = self.take(await self.authenticator.begin(who.flow, "192.0.2.8"))
        else:
            await self.page(who.flow)
            going = await self.confirm(who)
        assert isinstance(going.to, str)
        return going.to

    async def confirm(self, who: Requester, code: str | None = None) -> Going:
        typed = who.answer.code if code is None else code
        assert typed is not None
        return await self.authenticator.confirm(who.flow, typed, self.cookie, "192.0.2.8")

    async def refuse(self, who: Requester, cookie: str | None = None) -> Going:
        """The other button of the page."""
        sent = self.cookie if cookie is None else cookie
        return self.take(await self.authenticator.refuse(who.flow, sent, "192.0.2.8"))

    async def back(
        self, came: dict[str, str], cookie: str | None = None, org: str = "acme"
    ) -> Going:
        """The browser comes back from the provider, to the redirect URI that that one knows."""
        denied = came.get("error") == "access_denied"
        answer = Callback(org, came["state"], came.get("code"), came.get("iss"), denied)
        sent = self.cookie if cookie is None else cookie
        return self.take(await self.authenticator.callback(answer, sent, "192.0.2.8"))

    async def sign_in(self, who: Requester) -> Going:
        """All of it."""
        return await self.back(self.provider.sign_in(await self.away(who)))

    async def fetch(self, who: Requester, release: str | None = None) -> Discharged:
        found = await self.authenticator.poll(who.flow, base64url.encode(who.secret), release)
        assert isinstance(found, Discharged), found
        return found

    async def pending(self, who: Requester) -> bool:
        found = await self.authenticator.poll(who.flow)
        assert isinstance(found, Waiting)
        return not found.ready

    async def renew(self, ticket: str, session: str, **more: Any) -> Any:
        return await self.authenticator.discharge(
            Asked(ticket=ticket, session=session, ip="192.0.2.7", **more)
        )


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
