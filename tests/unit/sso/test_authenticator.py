"""Signing in, as those who may do it and as those who may not: the flow's attack stories."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable
from dataclasses import replace
from urllib.parse import urlencode

import pytest

from petsem.base64url import decode as unspell
from petsem.base64url import encode as spell
from petsem.clock import rfc3339
from petsem.crypto import aead
from petsem.errors import Code, PetsemError
from petsem.sso.answers import Asked, Discharged, Interactive, Waiting
from petsem.sso.sealing import parse
from petsem.sso.session import TEXT_MAX_CHARS, open_session
from tests.support.oidc import EvilProvider
from tests.unit.sso.world import URL, Requester, World, query_of

PORT = 41_999


async def refused(call: Awaitable[object]) -> Code:
    """The code that it is refused with."""
    with pytest.raises(PetsemError) as caught:
        await call
    return caught.value.code


async def test_by_code(world: World) -> None:
    """A person types the code of the terminal, signs in, and the terminal has the discharge."""
    ticket = world.ticket()
    who = await world.begin(ticket)
    assert who.answer.user_url == f"{URL}/sso?flow={who.flow}"
    assert who.answer.poll_url == f"{URL}/.well-known/petsem/3p/poll"
    assert await world.pending(who)
    going = await world.sign_in(who)
    assert "ana@example.com" in going.to.html  # type: ignore[union-attr]
    assert not await world.pending(who)
    found = await world.fetch(who)
    later = rfc3339(world.clock.unix_ms() + 3_600_000)
    assert world.caveats(ticket, found) == ["user = ana@example.com", f"time < {later}"]
    assert (found.user, found.expires_at) == ("ana@example.com", later)
    assert found.session is not None


async def test_by_loopback(world: World) -> None:
    """Where a browser is on the requester's machine, what arrives there fetches the result."""
    who = await world.begin(port=PORT)
    assert who.answer.code is None
    going = await world.sign_in(who)
    assert isinstance(going.to, str)
    assert going.to.startswith(f"http://127.0.0.1:{PORT}/done?ticket=")
    found = await world.fetch(who, query_of(going.to)["ticket"])
    assert found.user == "ana@example.com"


async def test_the_page_says_who_asks(world: World) -> None:
    """Org, token, address and time of whoever asked are on it, whether one is signed in or not."""
    who = await world.begin()
    page = await world.page(who.flow)
    for shown in ("acme", "192.0.2.7", rfc3339(world.clock.unix_ms()), world.provider.issuer):
        assert shown in page
    assert who.answer.code is not None
    assert who.answer.code not in page
    assert "/token" not in world.provider.asked


# A thief has a permission token, and so its ticket, and sends its owner a link.


async def test_a_link_to_the_provider(world: World) -> None:
    """The provider's own URL, which a thief got in his browser, ends in the owner's with nothing:
    that browser was given no cookie."""
    for port in (None, PORT):
        thief = await world.begin(port=port)
        came = world.provider.sign_in(await world.away(thief))
        assert await refused(world.back(came, cookie="")) is Code.DENIED
        assert await world.pending(thief)


async def test_the_cookie_of_another_browser(world: World) -> None:
    """Another cookie of the right name, or the right one under another name, is no better."""
    thief = await world.begin()
    came = world.provider.sign_in(await world.away(thief))
    (name,) = world.cookies
    right = world.cookies[name]
    wrong = spell(aead.random_bytes(32))
    for cookie in (f"{name}={wrong}", f"{name}x={right}", f"{name}={right}; {name}={wrong}"):
        assert await refused(world.back(came, cookie)) is Code.DENIED
    assert await refused(world.back(came, f"{name}={right[:-1]}")) is Code.DENIED


async def test_a_link_with_a_port(world: World) -> None:
    """The owner signs in by a thief's link with a port. The thief has the secret, and polls for
    ever: what would release the result went to the owner's own machine."""
    thief = await world.begin(port=PORT)
    going = await world.sign_in(thief)
    for _ in range(3):
        answer = await world.authenticator.poll(thief.flow, spell(thief.secret))
        assert answer == Waiting(ready=False)
        assert await world.pending(thief)
    guess = spell(aead.random_bytes(32))
    poll = world.authenticator.poll(thief.flow, spell(thief.secret), guess)
    assert await refused(poll) is Code.DENIED
    assert isinstance(going.to, str)
    assert (await world.fetch(thief, query_of(going.to)["ticket"])).user == "ana@example.com"


async def test_a_form_sent_past_the_page(world: World) -> None:
    """A thief's site that posts flow and code for the owner gets nowhere without the page's
    cookie."""
    thief = await world.begin()
    assert await refused(world.confirm(thief)) is Code.DENIED


async def test_a_code_where_none_is_asked(world: World) -> None:
    """A flow with a port has no form that would lead past its port."""
    thief = await world.begin(port=PORT)
    await world.away(thief)
    assert await refused(world.confirm(thief, "BCDF-GHJK")) is Code.INVALID


async def test_guessing_the_code(world: World) -> None:
    """Five codes a flow, then not even the right one."""
    who = await world.begin()
    await world.page(who.flow)
    for _ in range(5):
        assert await refused(world.confirm(who, "BBBB-BBBB")) is Code.DENIED
    assert await refused(world.confirm(who)) is Code.LIMIT
    other = await world.begin()
    await world.page(other.flow)
    assert (await world.confirm(other)).to


async def test_a_code_as_people_type_it(world: World) -> None:
    """Case, spaces and hyphens do not matter."""
    who = await world.begin()
    await world.page(who.flow)
    assert who.answer.code is not None
    assert await world.confirm(who, " " + who.answer.code.lower().replace("-", " ") + " ")


# Who fetches the result


async def test_the_secret(world: World) -> None:
    """The result is for whoever began the flow, once."""
    who = await world.begin()
    await world.sign_in(who)
    stranger = Requester(aead.random_bytes(32), who.answer)
    assert await refused(world.fetch(stranger)) is Code.DENIED
    assert await refused(world.authenticator.poll(who.flow, "x")) is Code.INVALID
    assert await refused(world.authenticator.poll(who.flow, None, "x")) is Code.INVALID
    assert await world.fetch(who)
    assert await refused(world.fetch(who)) is Code.NOT_FOUND
    assert await refused(world.pending(who)) is Code.NOT_FOUND


async def test_nothing_comes_back_to_life(world: World) -> None:
    """A flow whose result was fetched is begun, confirmed and completed no more."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    cookie = world.cookie
    await world.back(came)
    assert await refused(world.back(came, cookie)) is Code.CONFLICT
    await world.fetch(who)
    assert await refused(world.back(came, cookie)) is Code.CONFLICT
    assert await refused(world.page(who.flow)) is Code.CONFLICT
    assert await refused(world.authenticator.confirm(who.flow, "x", cookie, None)) is Code.CONFLICT


async def test_a_ticket_twice(world: World) -> None:
    """Somebody else who has the ticket gets a discharge that names himself."""
    ticket = world.ticket()
    ana, bob = await world.begin(ticket), await world.begin(ticket)
    await world.sign_in(ana)
    world.provider.person = {"sub": "bob-1", "email": "bob@example.com", "email_verified": True}
    await world.sign_in(bob)
    assert world.caveats(ticket, await world.fetch(ana))[0] == "user = ana@example.com"
    assert world.caveats(ticket, await world.fetch(bob))[0] == "user = bob@example.com"


# What was sealed, altered


async def test_ten_minutes(world: World) -> None:
    """Everything of a flow is over ten minutes after it was begun."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    world.clock.advance(599)
    assert await world.pending(who)
    world.clock.advance(1)
    assert await refused(world.back(came)) is Code.NOT_FOUND
    assert await refused(world.page(who.flow)) is Code.NOT_FOUND
    assert await refused(world.pending(who)) is Code.NOT_FOUND
    assert await refused(world.fetch(who)) is Code.NOT_FOUND


async def test_altered(world: World) -> None:
    """A flow or a state with one bit changed, cut short, of another org or another use is none."""
    who = await world.begin()
    state = world.provider.sign_in(await world.away(who))["state"]
    for text, use in ((who.flow, world.page), (state, None)):
        data = unspell(text)
        assert data is not None
        other = data[:1] + world.other.key_id + data[17:]
        unknown = data[:1] + bytes(16) + data[17:]
        flipped = [data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :] for at in range(len(data))]
        for bad in (*flipped, data[:-1], data + b"\0", other, unknown, b""):
            call = world.page(spell(bad)) if use else world.back({"state": spell(bad), "code": "c"})
            assert await refused(call) is Code.INVALID
    for text in (who.flow + "=", who.flow + "\n", " ", "é", "A" * 5_000):
        assert await refused(world.page(text)) is Code.INVALID
    assert await refused(world.page(state)) is Code.INVALID
    assert await refused(world.back({"state": who.flow, "code": "c"})) is Code.INVALID


async def test_tickets_that_are_none(world: World) -> None:
    """Altered, of another org's key, of an org that lets nobody sign in, or not even base64url."""
    good = world.ticket()
    data = unspell(good)
    assert data is not None
    for at in range(len(data)):
        bad = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        assert await refused(world.begin(spell(bad))) is Code.UNAUTHENTICATED
    other = data[:1] + world.other.key_id + data[17:]
    assert await refused(world.begin(spell(other))) is Code.UNAUTHENTICATED
    for text in ("*", good + "=", "A" * 4_096):
        assert await refused(world.begin(text)) is Code.INVALID
    del world.orgs[world.acme.key_id]
    assert await refused(world.begin(good)) is Code.UNAUTHENTICATED


async def test_a_ticket_of_another_org_under_this_key(world: World) -> None:
    """The org in a ticket is the one that its key is of."""
    world.acme = world.add("twin", key_id=world.acme.key_id, key=world.acme.key)
    mine = world.ticket()
    world.add("acme", key_id=world.acme.key_id, key=world.acme.key)
    assert await refused(world.begin(mine)) is Code.UNAUTHENTICATED


@pytest.mark.parametrize("port", [0, -1, 80, 1_023, 65_536, 10**9])
async def test_ports(world: World, port: int) -> None:
    """A port is one that a person's own program can listen on; there is no host to choose."""
    assert await refused(world.begin(port=port)) is Code.INVALID


async def test_commitments(world: World) -> None:
    """Without a session a commitment is needed, and it is 32 bytes."""
    for text in (None, "", "x", spell(bytes(31)), spell(bytes(33)), spell(bytes(32)) + "="):
        asked = Asked(ticket=world.ticket(), commitment=text)
        assert await refused(world.authenticator.discharge(asked)) is Code.INVALID


async def test_the_ticket_needs_the_domain(world: World) -> None:
    """What the sealed ticket asks for counts beside what the org asks for today."""
    who = await world.begin(world.ticket(domains=("example.org",)))
    assert await refused(world.sign_in(who)) is Code.DENIED
    assert await refused(world.fetch(who)) is Code.DENIED
    world.change(domains=())
    again = await world.begin(world.ticket(domains=("example.com",)))
    await world.sign_in(again)
    assert await world.fetch(again)


async def test_a_setting_that_was_narrowed(world: World) -> None:
    """A result is given out by the org's settings of now."""
    who = await world.begin()
    await world.sign_in(who)
    world.change(domains=("example.org",))
    assert await refused(world.fetch(who)) is Code.DENIED


async def test_names_cannot_be_markup(world: World) -> None:
    """Whatever an org, an issuer or an address is called, it is text on the page."""
    world.orgs[world.acme.key_id] = world.acme = world.add(
        '<script>alert("1")</script>', key_id=world.acme.key_id, key=world.acme.key
    )
    asked = Asked(
        ticket=world.ticket(),
        commitment=spell(hashlib.sha256(b"").digest()),
        ip="\"><img src=x onerror='1'>",
    )
    answer = await world.authenticator.discharge(asked)
    assert isinstance(answer, Interactive)
    page = await world.page(answer.flow)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


async def test_the_provider_says_no(world: World) -> None:
    """After an error that need not be the last word the person may try again."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    for error in ("server_error", "login_required", "ACCESS_DENIED"):
        gone = {"state": came["state"], "error": error}
        assert await refused(world.back(gone)) is Code.DENIED
        assert await world.pending(who)
    assert await world.back(came)


async def test_the_answer_of_another_provider(world: World) -> None:
    """RFC 9207: an answer that says that it is another issuer's is not taken to this one's."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    assert await refused(world.back({**came, "iss": "https://evil.example"})) is Code.DENIED
    assert await world.back({**came, "iss": world.provider.issuer})


async def test_calls_to_a_provider_are_bounded(world: World) -> None:
    """Somebody who sends made-up codes does not have the provider asked without end."""
    who = await world.begin()
    came = world.provider.sign_in(await world.away(who))
    codes = [await refused(world.back({**came, "code": f"c{n}"})) for n in range(40)]
    assert codes[0] is Code.DENIED
    assert codes[-1] is Code.LIMIT
    assert world.provider.asked.count("/token") <= 20
    world.clock.advance(60)
    assert await world.back(came)


async def test_the_addresses_of_one_network_are_one(world: World) -> None:
    """Somebody with a /64 of IPv6 has no more sign-ins than with one address, and whoever is in
    another one still has his."""
    codes: list[Code | None] = []
    for number in range(40):
        who = await world.begin()
        await world.page(who.flow)
        ip = f"2001:db8:0:{1 if number < 39 else 2}::{number:x}"
        try:
            await world.authenticator.confirm(who.flow, who.answer.code or "", world.cookie, ip)
        except PetsemError as error:
            codes.append(error.code)
        else:
            codes.append(None)
    assert codes == [None] * 20 + [Code.LIMIT] * 19 + [None]


async def test_without_a_public_url(world: World) -> None:
    """A node that does not know where it is reached says so."""
    world.authenticator.public_url = None
    assert await refused(world.begin()) is Code.UNAVAILABLE


async def test_over_https_the_cookie_is_of_this_host_alone(world: World) -> None:
    """Nobody else on the domain can plant it, and no plain-text connection carries it."""
    world.authenticator.public_url = "https://petsem.example"
    who = await world.begin(port=PORT)
    going = await world.authenticator.begin(who.flow, None)
    assert going.cookie is not None
    assert going.cookie.startswith("__Host-petsem-sso-")
    rest = going.cookie.split("; ")[1:]
    assert rest == ["Max-Age=600", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"]


# Renewal


async def _session(world: World, ticket: str) -> str:
    who = await world.begin(ticket)
    await world.sign_in(who)
    session = (await world.fetch(who)).session
    assert session is not None
    return session


async def test_renewal(world: World) -> None:
    """A session gives another discharge for its ticket as long as the provider stands by it; each
    time with the provider's next refresh token."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    for _ in range(3):
        world.clock.advance(600)
        found = await world.renew(ticket, session)
        assert isinstance(found, Discharged)
        later = rfc3339(world.clock.unix_ms() + 3_600_000)
        assert world.caveats(ticket, found) == ["user = ana@example.com", f"time < {later}"]
        assert found.session not in (None, session)
        session = found.session
        assert session is not None
    world.provider.revoke()
    assert await refused(world.renew(ticket, session)) is Code.INVALID
    commitment = spell(bytes(32))
    again = await world.renew(ticket, session, commitment=commitment)
    assert isinstance(again, Interactive)


async def test_a_renewal_without_an_id_token(world: World) -> None:
    """The provider need not say again who it is, unless the org asks for groups."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    world.provider.id_token_on_refresh = False
    world.provider.rotate = False
    assert isinstance(await world.renew(ticket, session), Discharged)
    world.change(groups=("staff",))
    assert await refused(world.renew(ticket, session)) is Code.INVALID


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "bob-1"},
        {"email": "bob@example.com"},
        {"email_verified": False},
        {"aud": "another"},
        {"iss": "https://evil.example"},
    ],
    ids=str,
)
async def test_a_renewal_for_somebody_else(world: World, claims: dict[str, object]) -> None:
    """What the provider says of a refresh token must be of the same person, for this client."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    world.provider.claims = claims
    assert await refused(world.renew(ticket, session)) is Code.INVALID


async def test_a_session_from_when_addresses_kept_their_case(world: World) -> None:
    """It goes on for the token that it is of, which names the person in that case."""
    ticket = world.ticket()
    old = open_session(parse(await _session(world, ticket), TEXT_MAX_CHARS), world.acme)
    session = replace(old, email="Ana@example.com").seal(world.acme)
    found = await world.renew(ticket, session)
    assert isinstance(found, Discharged)
    assert world.caveats(ticket, found)[0] == "user = Ana@example.com"


async def test_a_session_is_for_one_ticket(world: World) -> None:
    """With another ticket, of another org, with another provider, or altered, it is none, and the
    provider is not even asked."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    asked = world.provider.asked.count("/token")
    for other in (world.ticket(), world.ticket(world.other)):
        assert await refused(world.renew(other, session)) is Code.INVALID
    for text in (session[:-1], session + "A", "x", "A" * 20_000):
        assert await refused(world.renew(ticket, text)) is Code.INVALID
    world.change(client_id="another")
    assert await refused(world.renew(ticket, session)) is Code.INVALID
    assert world.provider.asked.count("/token") == asked


async def test_a_session_ends(world: World) -> None:
    """`session_s` after the person signed in, however often it was renewed."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    world.clock.advance(43_199)
    found = await world.renew(ticket, session)
    assert isinstance(found, Discharged)
    assert found.session is not None
    world.clock.advance(1)
    assert await refused(world.renew(ticket, found.session)) is Code.INVALID


async def test_no_refresh_token_no_session(world: World) -> None:
    """Without one of the provider's there is nothing to renew with; nor with one too long."""
    who = await world.begin()
    world.provider.refresh_tokens = False
    await world.sign_in(who)
    assert (await world.fetch(who)).session is None


async def test_a_narrowed_domain_ends_renewal(world: World) -> None:
    """A domain that the org refuses since gets no new discharge."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    world.change(domains=("example.org",))
    assert await refused(world.renew(ticket, session)) is Code.INVALID


async def test_a_provider_that_is_down_ends_no_session(world: World) -> None:
    """Then there is no answer; the person would fare no better."""
    ticket = world.ticket()
    session = await _session(world, ticket)
    world.provider.token_reply = lambda _: (503, {}, b"down")
    commitment = spell(bytes(32))
    assert await refused(world.renew(ticket, session, commitment=commitment)) is Code.UNAVAILABLE


async def test_a_slow_renewal_is_polled_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the provider takes its time, the result is fetched by polling, with the secret."""
    monkeypatch.setattr("petsem.sso.renewal.QUIET_S", 0.0)
    ticket = world.ticket()
    session = await _session(world, ticket)
    for fine in (True, False):
        if not fine:
            world.provider.revoke()
        world.provider.hold.clear()
        secret = aead.random_bytes(32)
        commitment = spell(hashlib.sha256(secret).digest())
        answer = await world.renew(ticket, session, commitment=commitment)
        who = Requester(secret, Interactive("", answer.poll_url, answer.flow, None))
        assert await world.pending(who)
        assert await refused(world.page(who.flow)) is Code.CONFLICT
        world.provider.hold.set()
        (task,) = world.authenticator._renewals._tasks
        await _ended(task)
        assert not await world.pending(who)
        assert await refused(world.fetch(Requester(bytes(32), who.answer))) is Code.DENIED
        if fine:
            found = await world.fetch(who)
            assert found.user == "ana@example.com"
        else:
            assert await refused(world.fetch(who)) is Code.DENIED
        assert await refused(world.fetch(who)) is Code.NOT_FOUND


async def _ended(task: Awaitable[object]) -> None:
    with contextlib.suppress(PetsemError):
        await task


async def test_a_code_is_not_shown_to_another_orgs_provider(world: World) -> None:
    """A thief whose org has a provider of his own begins a sign-in to acme, and has that provider
    send a person who followed his link on to acme's: the code that this gives never reaches him."""
    thief = await world.begin()
    begun = query_of(await world.away(thief))
    assert begun["redirect_uri"] == f"{URL}/sso/callback/acme"
    shown: list[str] = []

    def steal(form: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        shown.append(form["code"])
        return 400, {"content-type": "application/json"}, b'{"error":"invalid_grant"}'

    with EvilProvider() as theirs:
        theirs.token_reply = steal
        evil = world.add("evil", issuer=theirs.issuer)
        lure = await world.begin(world.ticket(evil), port=PORT)
        asked = query_of(await world.away(lure))
        assert asked["redirect_uri"] == f"{URL}/sso/callback/evil"
        sent = {**begun, "state": asked["state"]}
        came = world.provider.sign_in(f"{world.provider.issuer}/authorize?{urlencode(sent)}")
        assert await refused(world.back(came)) is Code.DENIED
    assert not shown
