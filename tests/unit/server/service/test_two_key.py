"""Two-key boots: a host's token reads nothing until somebody of the org has asked for the machine,
and then that machine of that app, for as long as he may ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from petsem import base64url
from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server import policy
from petsem.server.principal import Names, Request
from petsem.server.service import boot, two_key, waiting
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.macaroon import Macaroon, attenuate
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import Ticket, discharge, new_caveat_key, seal_ticket
from petsem.wire import http
from tests.support import people
from tests.support.following import follow
from tests.support.nodes import Running, call, id_of, narrowed, refusal, running, soon

DENIED, INVALID, UNAUTHENTICATED = Code.DENIED, Code.INVALID, Code.UNAUTHENTICATED
MISSING = (UNAUTHENTICATED, "DISCHARGE_MISSING", None)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        await node.patch({"A": "alpha"})
        await turn(node, on=True)
        yield node


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that wait give up at once, so that a test need not."""
    monkeypatch.setattr(waiting.until_fresh, "__defaults__", (0.0,))


async def turn(node: Running, *, on: bool, org: str = "acme") -> None:
    principal = node.principal(policy.ORGS_ADMIN, Names(org))
    patch = http.SettingsPatch(two_key=on)
    await node.node.orgs.patch_settings(principal, call("/settings", on), org, patch)


async def host(node: Running, *caveats: str, **more: Any) -> str:
    return await node.reader(*caveats, kind="host", **more)


async def service(node: Running, *caveats: str, **more: Any) -> str:
    """A service of the org that may ask for machines."""
    minted = await node.mint("action = machines:boot", *caveats, kind="service", **more)
    return minted.token


def ticket_of(token: str) -> str:
    (found,) = [c.cid for c in parse_token(token).root.caveats if c.vid is not None]
    return base64url.encode(found)


async def allow(
    node: Running,
    asker: str,
    ticket: str,
    *,
    org: str = "acme",
    app: str = "web",
    machine: str = "m1",
    key: str | None = None,
    **more: Any,
) -> http.BootAllowed:
    """As the route does it."""
    asked = {"app": app, "machine": machine, "ticket": ticket, **more}
    body = msgspec.convert(asked, http.Boot)
    principal = node.principal(policy.MACHINES_BOOT, Names(org, app, machine), asker)
    return await node.node.boots.allow(principal, call("/boots", asked, key), org, body)


async def refused(node: Running, *args: str, **more: Any) -> tuple[Code, str | None, str | None]:
    with pytest.raises(PetsemError) as error:
        await allow(node, *args, **more)
    return refusal(error.value)


def made(allowed: http.BootAllowed) -> Macaroon:
    return parse_token(allowed.discharge).root


def with_discharge(token: str, allowed: http.BootAllowed, *caveats: str) -> str:
    """What the host sends: its token, narrowed, with the discharge bound to that."""
    return people.bound(narrowed(token, *caveats) if caveats else token, made(allowed))


async def reads(node: Running, token: str, **asked: Any) -> object:
    """What a fetch says, twice: the second time of a token seen before."""
    machine = asked.pop("machine", "m1")
    found = []
    for _ in range(2):
        try:
            await node.fetch(token=token, machine=machine, **asked)
            found.append("read")
        except PetsemError as error:
            found.append(error.detail.caveat or error.detail.reason or error.code)
    assert found[0] == found[1]
    return found[0]


async def test_both_keys(node: Running) -> None:
    """The host's token alone reads nothing; with the discharge it reads that app for that machine,
    also when it is narrowed before it is sent."""
    token, asker = await host(node), await service(node)
    assert await reads(node, token) == "DISCHARGE_MISSING"
    allowed = await allow(node, asker, ticket_of(token))
    whole = with_discharge(token, allowed)
    assert await reads(node, whole) == "read"
    caveats = ("org = acme", "app = web", "machine = m1", node.time_in(60))
    assert await reads(node, with_discharge(token, allowed, *caveats)) == "read"
    await node.create_app(app="api")
    assert await reads(node, whole, app="api") == "app = web"
    assert await reads(node, whole, machine="m2") == "machine = m1"
    assert await reads(node, whole, machine="") == "machine = m1"


async def test_what_the_discharge_says(node: Running) -> None:
    """App, machine, its end, and the grant with the position from which on it is known."""
    token = await host(node)
    start_ms = node.clock.unix_ms()
    node.clock.advance(0.9)
    allowed = await allow(node, await service(node), ticket_of(token), ttl_s=60)
    assert [c.cid.decode() for c in made(allowed).caveats] == [
        *("app = web", "machine = m1", node.time_in(60)),
        f"boot = {allowed.grant}.{allowed.position}",
    ]
    assert all(parse_predicate(c.cid) for c in made(allowed).caveats)
    (row,) = node.rows(
        "SELECT a.name, g.machine, g.subject, g.expires_at FROM boot_grants g"
        " JOIN apps a ON a.id = g.app"
    )
    asker = row[2]
    assert row == ("web", "m1", asker, start_ms + 60_000)
    assert asker.startswith("service:")


async def test_discharges_of_others(node: Running) -> None:
    """One for another host's token, unbound, bound to something else, or of another org, is
    none."""
    await node.furnish("umbrella")
    await turn(node, on=True, org="umbrella")
    mine, other, asker = await host(node), await host(node), await service(node)
    theirs = await host(node, org="umbrella")
    for_other = await allow(node, asker, ticket_of(other))
    for_mine = await allow(node, asker, ticket_of(mine))
    assert await reads(node, with_discharge(mine, for_other)) == "DISCHARGE_MISSING"
    unbound = encode_token(parse_token(mine).root, [made(for_mine)])
    assert await reads(node, unbound) == "DISCHARGE_INVALID"
    root = parse_token(narrowed(mine, "x = y")).root
    bound_to_whole = parse_token(with_discharge(mine, for_mine)).discharges
    assert await reads(node, encode_token(root, bound_to_whole)) == "DISCHARGE_INVALID"
    both = people.bound(mine, made(for_mine), made(for_other))
    assert await reads(node, both) == "DISCHARGE_INVALID"
    their_service = await service(node, org="umbrella")
    assert await refused(node, their_service, ticket_of(mine), org="umbrella") == (
        *(INVALID, None, None),
    )
    assert (await refused(node, asker, ticket_of(theirs), org="umbrella"))[1] == "WRONG_ORG"


async def test_the_end_of_the_grant(node: Running) -> None:
    """It ends with its time, with the asker's token, and with a token that stands behind that."""
    token = await host(node)
    parent = (await node.mint("action in tokens:mint, machines:boot")).token
    askers = [
        await service(node),
        await service(node, token=parent),
    ]
    for asker, ended in zip(askers, (askers[0], parent), strict=True):
        whole = with_discharge(token, allowed := await allow(node, asker, ticket_of(token)))
        assert await reads(node, whole) == "read"
        await node.revoke(id_of(ended))
        assert await reads(node, whole) == f"boot = {allowed.grant}.{allowed.position}"
        with pytest.raises(PetsemError, match="again with 'petsem boot allow'"):
            await node.fetch(token=whole, machine="m1")
    brief = with_discharge(token, await allow(node, await service(node), ticket_of(token)))
    node.clock.advance(599)
    assert await reads(node, brief) == "read"
    node.clock.advance(2)
    assert str(await reads(node, brief)).startswith("time < ")


async def test_a_grant_is_no_longer_than_its_asker_s_token(node: Running) -> None:
    """It ends when that was issued to end, to the second, and a copy that is good for a moment only
    asks for as much as the whole."""
    token = await host(node)
    minted = await node.mint("action = machines:boot", kind="service", life_s=1_000)
    copy = narrowed(minted.token, node.time_in(60))
    node.clock.advance(0.9)
    for asker in (minted.token, copy):
        allowed = await allow(node, asker, ticket_of(token), ttl_s=3_600)
        assert allowed.expires_at == minted.expires_at
    whole = with_discharge(token, allowed)
    node.clock.advance(999)
    assert await reads(node, whole) == "read"
    await node.tamper("UPDATE boot_grants SET expires_at = expires_at - 1000")
    assert str(await reads(node, whole)).startswith("boot = ")
    node.clock.advance(1)
    assert await reads(node, whole) == f"time < {minted.expires_at}"


async def test_an_app_of_the_same_name(node: Running) -> None:
    """A grant is of the app that it was asked for. Whoever makes another one under its name starts
    with none; undeleted, the app has those that it had."""
    token, asker = await host(node), await service(node)
    whole = with_discharge(token, allowed := await allow(node, asker, ticket_of(token), key="k"))
    await node.delete_app()
    assert await reads(node, whole) is Code.NOT_FOUND
    admin = node.principal(policy.APPS_ADMIN, Names("acme", "web"))
    await node.node.orgs.undelete_app(admin, call("/undelete"), "acme", "web")
    assert await reads(node, whole) == "read"
    await node.delete_app(now=True)
    await node.create_app()
    await node.patch({"A": "another life"})
    assert await reads(node, whole) == f"boot = {allowed.grant}.{allowed.position}"
    assert (await refused(node, asker, ticket_of(token), key="k"))[0] is Code.NOT_FOUND
    again = await allow(node, asker, ticket_of(token))
    assert await reads(node, with_discharge(token, again)) == "read"


async def test_all_of_an_app_is_revoked(node: Running) -> None:
    """Then its grants end too, also those that a token of the whole org asked for, and that may ask
    anew; another app's stay."""
    await node.create_app(app="api")
    await node.patch({"A": "alpha"}, app="api")
    token, asker = await host(node), await service(node)
    mine = await allow(node, asker, ticket_of(token))
    other = await allow(node, asker, ticket_of(token), app="api")
    principal = node.principal(policy.TOKENS_REVOKE, Names("acme"))
    body = http.RevokeMany(app="web")
    done = await node.node.revoking.revoke(principal, call("/revocations", "web"), "acme", body)
    assert done.revoked == 0
    assert await reads(node, with_discharge(token, mine)) == f"boot = {mine.grant}.{mine.position}"
    assert await reads(node, with_discharge(token, other), app="api") == "read"
    anew = await allow(node, asker, ticket_of(token))
    assert await reads(node, with_discharge(token, anew)) == "read"
    assert str(await reads(node, with_discharge(token, mine))).startswith("boot = ")


async def test_a_row_that_says_less_than_the_caveats(node: Running) -> None:
    """The row counts too: of another machine, app, org, expired, or gone, it is no grant."""
    token = await host(node)
    await node.create_app(app="api")
    allowed = await allow(node, await service(node), ticket_of(token))
    whole = with_discharge(token, allowed)
    api = "app = (SELECT id FROM apps WHERE name = 'api')"
    for change in ("machine = 'm2'", api, "expires_at = 1"):
        before = node.rows("SELECT machine, app, expires_at FROM boot_grants")[0]
        await node.tamper(f"UPDATE boot_grants SET {change}")
        assert str(await reads(node, whole)).startswith("boot = "), change
        await node.tamper("UPDATE boot_grants SET machine = ?, app = ?, expires_at = ?", *before)
    assert await reads(node, whole) == "read"
    await node.tamper("DELETE FROM boot_grants")
    assert str(await reads(node, whole)).startswith("boot = ")


async def test_caveats_that_a_holder_adds(node: Running) -> None:
    """A grant that he names himself gives nothing: not to his token, not to one from before the
    setting, not to one of another kind."""
    await turn(node, on=False)
    old, org_token = await host(node), await node.org_token()
    await turn(node, on=True)
    token = await host(node)
    allowed = await allow(node, await service(node), ticket_of(token))
    grant = f"boot = {allowed.grant}.{allowed.position}"
    assert await reads(node, narrowed(token, grant)) == "DISCHARGE_MISSING"
    assert await reads(node, narrowed(old, grant)) == grant
    assert await reads(node, narrowed(org_token, grant)) == grant
    # A caveat of his own, which he discharges with the grant of another.
    key = new_caveat_key()
    root = require_discharge(parse_token(old).root, b"", key, b"mine")
    own = people.bound(encode_token(root), discharge(b"mine", key, [grant]))
    assert await reads(node, own) == grant
    for wrong in ("boot = x", "boot = " + "0" * 32, grant + "0", grant.replace("=", "in") + ", x"):
        assert await reads(node, with_discharge(token, allowed, wrong)) == wrong


async def test_who_asked_is_who_the_discharge_says(node: Running) -> None:
    """A holder who names another's grant beside it, for the same app and machine, before or behind
    the discharge's own caveat or in a discharge of his making, reads nothing; saying the same twice
    takes nothing away."""
    token = await host(node)
    alice = await allow(node, await service(node), ticket_of(token))
    bob = await allow(node, await service(node), ticket_of(token))
    grants = [f"boot = {each.grant}.{each.position}" for each in (alice, bob)]
    later = Position.parse(alice.position)
    other_position = f"boot = {alice.grant}.{Position(later.epoch, later.txid + 1)}"
    for added in (grants[1], other_position):
        behind = people.bound(token, attenuate(made(alice), [added]))
        assert await reads(node, behind) == added
        before = narrowed(token, added)
        assert await reads(node, people.bound(before, made(alice))) == grants[0]
        key = new_caveat_key()
        root = require_discharge(parse_token(token).root, b"", key, b"mine")
        own = people.bound(encode_token(root), made(alice), discharge(b"mine", key, [added]))
        assert await reads(node, own) == added
    same = people.bound(
        narrowed(token, grants[0]), attenuate(made(alice), [grants[0].replace("=", "in")])
    )
    with structlog.testing.capture_logs() as logs:
        assert await reads(node, same) == "read"
    assert {each["grant"] for each in logs if each["event"] == "boot_read"} == {alice.grant}


async def test_switched_on_later(node: Running) -> None:
    """Host tokens from before read nothing any more, and pass nothing on; tokens of other kinds
    are as they were. Switched off, the old ones read again."""
    await turn(node, on=False)
    actions = "action in secrets:read, tokens:mint, tokens:exchange"
    old = (await node.mint(actions, kind="host")).token
    other = await node.reader(kind="read-only")
    assert await reads(node, old) == "read"
    await turn(node, on=True)
    assert await reads(node, old) == "DISCHARGE_MISSING"
    assert await reads(node, other) == "read"
    with pytest.raises(PetsemError) as error:
        await node.reader(token=old)
    assert error.value.code is DENIED
    await turn(node, on=False)
    assert await reads(node, old) == "read"


async def test_switched_off_later(node: Running) -> None:
    """A token that was minted for two keys goes on needing both."""
    token = await host(node)
    await turn(node, on=False)
    assert await reads(node, token) == "DISCHARGE_MISSING"
    allowed = await allow(node, await service(node), ticket_of(token))
    assert await reads(node, with_discharge(token, allowed)) == "read"


async def test_a_discharged_token_reads_only(node: Running) -> None:
    """The grant is for reading: the host's token mints and exchanges nothing on it."""
    minted = await node.mint("action in secrets:read, tokens:mint, secrets:list", kind="host")
    allowed = await allow(node, await service(node), ticket_of(minted.token))
    whole = with_discharge(minted.token, allowed)
    assert await reads(node, whole) == "read"
    for rule in (policy.TOKENS_MINT, policy.SECRETS_LIST):
        with pytest.raises(PetsemError) as error:
            node.principal(rule, Names("acme", "web", "m1"), whole)
        assert str(error.value.detail.caveat).startswith("boot = ")


async def test_who_may_ask(node: Running) -> None:
    """A person or a service of the org, with the action, for what it allows; nobody else."""
    ticket = ticket_of(await host(node))
    for kind in ("org", "deploy", "read-only", "host"):
        other = (await node.mint("action = machines:boot", kind=kind)).token
        if kind == "host":
            assert await refused(node, other, ticket) == MISSING
        else:
            assert await refused(node, other, ticket) == (DENIED, None, None)
    assert await refused(node, node.operator, ticket) == (DENIED, None, None)
    weak = (await node.mint("action = secrets:read", kind="service")).token
    assert (await refused(node, weak, ticket))[:2] == (DENIED, "CAVEAT")
    narrow = await service(node, "app = web", "machine = m1")
    await node.create_app(app="api")
    assert (await refused(node, narrow, ticket, app="api"))[2] == "app = web"
    assert (await refused(node, narrow, ticket, machine="m2"))[2] == "machine = m1"
    await allow(node, narrow, ticket)


async def test_a_person_asks(node: Running) -> None:
    """Whoever signed in; the log of each read names him, and what he allowed ends with his
    token."""
    sso = msgspec.structs.replace(people.SSO, actions=["machines:boot"])
    await people.set_up(node, sso)
    signed, proof = await people.login(node)
    token = await host(node)
    assert await refused(node, signed, ticket_of(token)) == MISSING
    whole = with_discharge(
        token, allowed := await allow(node, people.bound(signed, proof), ticket_of(token))
    )
    with structlog.testing.capture_logs() as logs:
        await node.fetch(token=whole, machine="m1")
    assert logs == [
        {
            "event": "boot_read",
            "log_level": "info",
            "grant": allowed.grant,
            "asker": f"person:{people.ALICE}",
            "host": id_of(token),
            "org": "acme",
            "app": "web",
            "machine": "m1",
        }
    ]
    await node.revoke(id_of(signed))
    assert str(await reads(node, whole)).startswith("boot = ")


async def test_tickets_that_are_none(node: Running) -> None:
    """Altered, of a person, made up under another key, or of a token that has ended."""
    token, asker = await host(node), await service(node)
    ticket = ticket_of(token)
    nothing = (INVALID, None, None)
    altered = ticket[:-2] + ("AA" if ticket[-2:] != "AA" else "BA")
    await people.set_up(node)
    of_person = base64url.encode(people.new_ticket(node))
    signed, _ = await people.login(node)
    stranger = Ticket(bytes(16), bytes.fromhex(id_of(token)), new_caveat_key(), 0)
    forged = base64url.encode(seal_ticket(bytes(16), bytes(32), stranger))
    for wrong in (
        altered,
        of_person,
        ticket_of(signed),
        forged,
        "",
        "AAAA",
        "ü",
        ticket + "=",
        "x" * 500,
    ):
        assert await refused(node, asker, wrong) == nothing, wrong
    assert await refused(node, asker, ticket, app="gone") == (Code.NOT_FOUND, None, None)
    await node.revoke(id_of(token))
    assert await refused(node, asker, ticket) == nothing


@pytest.mark.parametrize("asked", [{"ttl_s": 59}, {"ttl_s": 3601}, {"ticket": "x" * 8193}], ids=str)
async def test_bounds(node: Running, asked: dict[str, Any]) -> None:
    """A minute to an hour, and a ticket that can be one."""
    with pytest.raises(msgspec.ValidationError):
        await allow(node, node.operator, **{"ticket": "AAAA", **asked})


async def test_again(node: Running) -> None:
    """A repeated call answers with the same discharge, and makes no second grant."""
    token, asker = await host(node), await service(node)
    first = await allow(node, asker, ticket_of(token), key="k")
    node.clock.advance(5)
    assert await allow(node, asker, ticket_of(token), key="k") == first
    assert node.rows("SELECT count(*) FROM boot_grants") == [(1,)]
    got = await refused(node, asker, ticket_of(token), key="k", machine="m2")
    assert got[0] is Code.CONFLICT


async def test_a_replica_that_is_behind(
    node: Running, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says stale with the position that it needs, never that there is no grant; once it is
    there, a grant that is not there is none."""
    token = await host(node)
    allowed = await allow(node, await service(node), ticket_of(token))
    whole = with_discharge(token, allowed)
    need = Position.parse(allowed.position)
    saved = node.rows("SELECT * FROM boot_grants")[0]
    await node.tamper("DELETE FROM boot_grants")
    follow(node.node)
    before = Position(need.epoch, need.txid - 1)
    with monkeypatch.context() as patched:
        patched.setattr(two_key, "read_position", lambda _: before)
        with pytest.raises(PetsemError) as error:
            await node.fetch(token=whole, machine="m1")
    detail = error.value.detail
    assert (error.value.code, detail.have, detail.need) == (Code.STALE, before, need)
    assert str(await reads(node, whole)).startswith("boot = ")
    marks = ", ".join("?" * len(saved))
    await node.tamper(f"INSERT INTO boot_grants VALUES ({marks})", *saved)
    assert await reads(node, whole) == "read"


async def test_watch(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch needs both keys, logs one line, and ends with the grant."""
    monkeypatch.setattr(boot, "RECHECK_S", 0.01)
    token, asker = await host(node), await service(node)

    def watch(text: str) -> Any:
        return node.node.boot.watch(Request(text, None), "m1", "acme", "web", 0)

    async with aclosing(watch(token)) as stream:
        with pytest.raises(PetsemError) as error:
            await soon(anext(stream))
    assert error.value.detail.reason == "DISCHARGE_MISSING"
    whole = with_discharge(token, await allow(node, asker, ticket_of(token)))
    with structlog.testing.capture_logs() as logs:
        async with aclosing(watch(whole)) as stream:
            assert (await soon(anext(stream)))[0] == 1
            news = asyncio.ensure_future(anext(stream))
            await node.patch({"A": "beta"})
            assert (await soon(news))[0] == 2
            await node.revoke(id_of(asker))
            with pytest.raises(PetsemError) as ended:
                await soon(anext(stream))
    assert str(ended.value.detail.caveat).startswith("boot = ")
    assert [each["event"] for each in logs if each["event"] == "boot_read"] == ["boot_read"]


async def test_the_ordinary_read_asks_no_more(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting, a host's token that was seen before is answered in one statement; other
    kinds are in any case."""
    await turn(node, on=False)
    token, other = await host(node), await node.reader(kind="read-only")
    for each in (token, other):
        await node.fetch(token=each, machine="m1")

    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(two_key.BootReads, "authorize", never)
    await node.fetch(token=token, machine="m1")
    await turn(node, on=True)
    await node.fetch(token=other, machine="m1")
    with pytest.raises(AssertionError):
        await node.fetch(token=token, machine="m1")


async def test_expired_grants_are_forgotten(node: Running) -> None:
    """Housekeeping takes the rows away whose time is over, and no others."""
    token, asker = await host(node), await service(node)
    await allow(node, asker, ticket_of(token), ttl_s=60)
    kept = await allow(node, asker, ticket_of(token), ttl_s=600)
    node.clock.advance(61)
    await node.node.housekeeping.tick()
    assert node.rows("SELECT lower(hex(id)) FROM boot_grants") == [(kept.grant,)]


async def test_a_host_s_token_has_room_for_its_ticket(node: Running) -> None:
    """One that is nearly as long as a token can be is refused at minting, not found unusable."""
    filler = [f"{chr(97 + i)} = {'x' * 240}" for i in range(17)]
    before = node.rows("SELECT count(*) FROM tokens")
    with pytest.raises(PetsemError) as error:
        await host(node, *filler)
    assert refusal(error.value) == (INVALID, None, None)
    assert node.rows("SELECT count(*) FROM tokens") == before
    await node.reader(*filler, kind="deploy")
