"""People's tokens: minted against a discharge, for whom it names, and worth nothing without one."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from petsem.errors import Code, PetsemError
from petsem.model import Kind
from petsem.server.service.login import TICKET_LIFE_MS
from petsem.server.writer import Writer
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge
from petsem.tokens.text import encode_part, encode_token, parse_token
from petsem.tokens.ticket import Ticket, discharge, new_caveat_key, seal_ticket
from petsem.wire import http
from tests.support import people
from tests.support.nodes import Running, call, id_of, running
from tests.support.people import ALICE, SSO, bound, login, new_ticket, set_up, signed_in, token_for


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        await set_up(node)
        yield node


async def test_the_token_of_a_person(node: Running) -> None:
    """It stands for whom the discharge names, writes and lists, and ends after 12 hours."""
    token, made = await login(node)
    verdict = node.verdict(bound(token, made), action="secrets:write")
    assert (verdict.allowed, verdict.subject) == (True, f"person:{ALICE}")
    assert not node.verdict(bound(token, made), action="secrets:read").allowed
    node.clock.advance(12 * 3600)
    assert node.verdict(bound(token, made), action="secrets:write").reason == "EXPIRED"


async def test_alone_it_opens_nothing(node: Running) -> None:
    """Whoever steals the token without its discharge has nothing."""
    token, made = await login(node)
    assert node.verdict(token, action="secrets:write").reason == "DISCHARGE_MISSING"
    unbound = f"{token},{encode_part(made)}"
    assert node.verdict(unbound, action="secrets:write").reason == "DISCHARGE_INVALID"


async def test_somebody_elses_discharge_does_not_help(node: Running) -> None:
    """Another person of the org cannot make a stolen token his own."""
    ticket = new_ticket(node)
    token = (await token_for(node, ticket, signed_in(node, ticket))).token
    other = signed_in(node, ticket, "mallory@example.com")
    verdict = node.verdict(bound(token, other), action="secrets:write")
    assert (verdict.reason, verdict.caveat) == ("CAVEAT", "user = mallory@example.com")
    token_of_another, _ = await login(node)
    mine = signed_in(node, ticket)
    assert node.verdict(bound(token_of_another, mine)).reason == "DISCHARGE_MISSING"


async def test_a_discharge_ends_before_the_token(node: Running) -> None:
    """Then it has to be asked for again."""
    token, made = await login(node)
    node.clock.advance(3600)
    assert node.verdict(bound(token, made), action="secrets:list").reason == "EXPIRED"


async def test_its_caveat_cannot_be_left_out(node: Running) -> None:
    """Even whoever stole the org's root key cannot sign the token without its third party."""
    token, made = await login(node)
    row = node.rows("SELECT ticket FROM tokens WHERE kind = ?", int(Kind.PERSON))[0]
    assert row[0] == parse_token(token).root.caveats[-1].cid
    other = new_ticket(node)
    await node.tamper("UPDATE tokens SET ticket = ? WHERE ticket IS NOT NULL", other)
    assert node.verdict(bound(token, made), action="secrets:list").reason == "NOT_ISSUED"


async def test_asked_again_it_is_the_same_token(node: Running) -> None:
    """An answer that was lost costs nothing; the id, the caveats and the time are the same."""
    ticket = new_ticket(node)
    made = signed_in(node, ticket)
    first = await token_for(node, ticket, made, key="drawn")
    node.clock.advance(5)
    again = await token_for(node, ticket, made, key="drawn")
    assert (again.id, again.expires_at) == (first.id, first.expires_at)
    assert node.verdict(bound(again.token, made), action="secrets:list").allowed
    for email, actions in (("bob@example.com", None), (ALICE, ["secrets:list"])):
        with pytest.raises(PetsemError) as caught:
            await token_for(node, ticket, signed_in(node, ticket, email), actions, key="drawn")
        assert caught.value.code is Code.CONFLICT


async def test_a_narrower_copy_does_not_give_the_token(node: Running) -> None:
    """An API server has the copy and, from its verdict, the discharge as it was before it was
    bound; that is no sign-in."""
    token, made = await login(node, key="drawn")
    root = attenuate(parse_token(token).root, ["action = secrets:list"])
    sent = encode_token(root, [bind_discharge(root, made)])
    verdict = node.verdict(sent, action="secrets:list")
    seen = parse_token(sent).discharges[0]
    unbound = Macaroon(seen.location, seen.identifier, seen.caveats, verdict.discharges[0])
    assert unbound == made
    for key in (None, "guessed"):
        with pytest.raises(PetsemError) as caught:
            await token_for(node, seen.identifier, unbound, key=key)
        assert caught.value.code is Code.CONFLICT


async def test_who_has_not_signed_in_does_not_reach_the_writer(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue of writes is not open to everybody, as this route is."""
    asked: list[object] = []
    monkeypatch.setattr(Writer, "submit", lambda _, job: asked.append(job))
    ticket = new_ticket(node)
    forged = discharge(ticket, new_caveat_key(), [f"user = {ALICE}"])
    for data in (ticket, ticket[:-1] + bytes((ticket[-1] ^ 1,)), bytes(len(ticket))):
        with pytest.raises(PetsemError) as caught:
            await token_for(node, data, forged)
        assert caught.value.code is Code.UNAUTHENTICATED
    assert not asked


async def test_actions_are_those_that_the_org_lets_people_do(node: Running) -> None:
    """Fewer if asked for, and never more."""
    token, made = await login(node, actions=["secrets:list"])
    assert node.verdict(bound(token, made), action="secrets:list").allowed
    assert not node.verdict(bound(token, made), action="secrets:write").allowed
    with pytest.raises(PetsemError) as caught:
        await login(node, actions=["secrets:list", "hunter2:x"])
    assert caught.value.code is Code.DENIED
    # Who has signed in is told what he may do, and that he did sign in; what he typed is not said.
    said = caught.value.message
    assert said.startswith("you have signed in, but no token was made")
    assert "may do secrets:list, secrets:write, and not all" in said
    assert "hunter2" not in said


async def test_strangers_are_not_told_what_people_may_do(node: Running) -> None:
    """Whose people may read values is worth knowing to whoever looks for somebody to deceive: the
    beginning is the same whatever they may, and the end is refused for want of a discharge."""
    ticket = new_ticket(node)
    stranger = discharge(ticket, new_caveat_key(), [f"user = {ALICE}"])
    for actions in (["secrets:list"], ["secrets:read"]):
        with pytest.raises(PetsemError) as caught:
            await token_for(node, ticket, stranger, actions)
        assert caught.value.code is Code.UNAUTHENTICATED
        assert "secrets:" not in caught.value.message
    assert set(http.Login.__struct_fields__) == {"org"}


async def test_a_finished_sign_in_is_in_the_log(node: Running) -> None:
    """Who, where and which token: its id, and nothing that could be used."""
    with capture_logs() as logged:
        token, _ = await login(node)
    assert logged == [
        {
            "event": "sign_in_finished",
            "log_level": "info",
            "org": "acme",
            "user": ALICE,
            "issued": id_of(token),
        }
    ]
    with capture_logs() as logged, pytest.raises(PetsemError):
        await login(node, actions=["secrets:read"])
    assert logged == []


async def test_an_org_without_sign_in(node: Running) -> None:
    """It looks like one that does not exist, but for its name."""
    await node.furnish("beta")
    said = []
    for org in ("beta", "nobody"):
        with pytest.raises(PetsemError) as caught:
            node.node.login.ticket(org)
        said.append((caught.value.code, caught.value.message.replace(org, "X")))
    assert said[0] == said[1]
    assert said[0][0] is Code.NOT_FOUND


async def test_turned_off_nobody_signs_in(node: Running) -> None:
    """Tickets that are out are worth nothing any more, also after it is turned on again."""
    ticket = new_ticket(node)
    made = signed_in(node, ticket)
    await set_up(node, None)
    for _ in range(2):
        with pytest.raises(PetsemError) as caught:
            await token_for(node, ticket, made)
        assert caught.value.code is Code.UNAUTHENTICATED
        await set_up(node)


async def test_a_ticket_lasts_for_minutes(node: Running) -> None:
    """Signing in is not put off for hours."""
    ticket = new_ticket(node)
    made = signed_in(node, ticket)
    node.clock.advance(TICKET_LIFE_MS / 1000)
    with pytest.raises(PetsemError) as caught:
        await token_for(node, ticket, made)
    assert caught.value.detail.reason == "DISCHARGE_INVALID"


async def test_forged_discharges(node: Running) -> None:
    """Nothing that the authenticator did not write gives a token."""
    ticket = new_ticket(node)
    org = node.node.login.org_of(ticket[1:17])
    assert org is not None
    secret = people.opened(node, ticket).caveat_key
    good = signed_in(node, ticket)
    foreign = Ticket(b"\0" * 16, b"\1" * 16, new_caveat_key(), node.clock.unix_ms())
    elsewhere = seal_ticket(org.key_id, org.key, foreign)
    forgeries = [
        (ticket, discharge(ticket, new_caveat_key(), [f"user = {ALICE}"])),
        (ticket, discharge(ticket, secret, [])),
        (ticket, discharge(ticket, secret, ["time < 2100-01-01T00:00:00Z", f"user = {ALICE}"])),
        (ticket, discharge(ticket, secret, ["user in a@example.com, b@example.com"])),
        (ticket, discharge(ticket, secret, [f"user = {ALICE}", "moon = full"])),
        (ticket, signed_in(node, ticket, ALICE.upper())),
        (ticket, signed_in(node, ticket, life_s=-1)),
        (new_ticket(node), good),
        (ticket[:-1] + bytes((ticket[-1] ^ 1,)), good),
        (elsewhere, discharge(elsewhere, foreign.caveat_key, [f"user = {ALICE}"])),
    ]
    before = node.rows("SELECT count(*) FROM tokens")
    for data, made in forgeries:
        with pytest.raises(PetsemError) as caught:
            await token_for(node, data, made)
        assert caught.value.code in (Code.UNAUTHENTICATED, Code.DENIED), caught.value
    assert node.rows("SELECT count(*) FROM tokens") == before


@pytest.mark.parametrize("text", ["", "=", "AA==", "A", "\u00e9", "AAAA\n"])
async def test_what_is_no_ticket(node: Running, text: str) -> None:
    """It is refused before anything is looked up."""
    with pytest.raises(PetsemError) as caught:
        await node.node.login.mint(http.LoginToken(text, "x"), call())
    assert caught.value.code is Code.INVALID


async def test_what_is_no_discharge(node: Running) -> None:
    """The sentence says what is wrong with the text, and quotes nothing."""
    ticket = new_ticket(node)
    text = base64.urlsafe_b64encode(ticket).rstrip(b"=").decode()
    token, made = await login(node)
    for sent in ("nonsense", "", bound(token, made)):
        with pytest.raises(PetsemError) as caught:
            await node.node.login.mint(http.LoginToken(text, sent), call())
        assert caught.value.code is Code.UNAUTHENTICATED


async def test_the_org_of_a_key(node: Running) -> None:
    """The authenticator has what is set now, and nothing for another key or a deleted org."""
    ticket = new_ticket(node)
    key_id = ticket[1:17]
    org = node.node.login.org_of(key_id)
    assert org is not None
    assert (org.name, org.issuer, org.client_secret) == ("acme", SSO.issuer, None)
    assert org.key.hex() not in repr(org)
    assert node.node.login.org_of(b"\0" * 16) is None
    root_key = node.rows("SELECT id FROM root_keys WHERE use = 'tokens' AND org IS NOT NULL")[0][0]
    assert node.node.login.org_of(root_key) is None
    await node.delete_org()
    assert node.node.login.org_of(key_id) is None


async def test_an_authenticators_key_signs_no_token(node: Running) -> None:
    """It is no root key, though it lies beside them."""
    key_id = new_ticket(node)[1:17]
    token, _ = await login(node)
    row = "UPDATE tokens SET root_key = ? WHERE ticket IS NOT NULL"
    await node.tamper(row, key_id)
    forged = parse_token(token).root
    data = forged.identifier[:18] + key_id + forged.identifier[34:]
    org = node.node.login.org_of(key_id)
    assert org is not None
    text = encode_token(
        discharge(data, org.key, [c.cid.decode() for c in forged.caveats if c.vid is None])
    )
    assert node.verdict(text).reason == "UNKNOWN_KEY"
