"""Revoking all of a person, an app or an org: nobody is left out, and nobody else is hit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Position
from petsem.server import policy
from petsem.server.changes import REVOCATIONS
from petsem.server.principal import Names, Request
from petsem.server.service import revoking
from petsem.server.store import revoking as rows
from petsem.server.writer import Txn
from petsem.tokens.reasons import Reason
from petsem.wire import http
from tests.support.nodes import Running, call, id_of, narrowed, outcome, refusal, running
from tests.unit.server.service.test_exchanging import HOST, exchange

ORG = Names("acme")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


async def revoke(
    node: Running,
    *,
    org: str = "acme",
    token: str | None = None,
    key: str | None = None,
    **body: Any,
) -> http.RevokedMany:
    """The operation, as its route calls it."""
    principal = node.principal(policy.TOKENS_REVOKE, Names(org), token)
    made = call(f"/v1/orgs/{org}/revocations", body, key)
    return await node.node.revoking.revoke(principal, made, org, http.RevokeMany(**body))


def state(node: Running, token: str) -> str | None:
    """None of a token that counts, else why it does not."""
    found = outcome(lambda: node.principal(policy.SECRETS_READ, Names("acme", "web"), token))
    return found[1] if isinstance(found, tuple) else None


async def person(node: Running, email: str, org: str = "acme", **more: Any) -> str:
    """A token of a person, as signing in leaves it in the database."""
    token = await node.reader(org=org, **more)
    subject = f"person:{email}"
    await node.tamper(
        "UPDATE tokens SET subject = ? WHERE nonce = ?", subject, bytes.fromhex(id_of(token))
    )
    return token


async def test_a_person(node: Running) -> None:
    """All of that subject in that org, in whatever case it was written down or is asked for, and
    what was minted on their authority; nobody of a similar name, of another org, or of the
    cluster."""
    await node.furnish("beta")
    ana = [await person(node, each) for each in ("ana@example.com", "Ana@Example.com")]
    others = [
        await person(node, "diana@example.com"),
        await person(node, "ana@example.com.au"),
        await person(node, "ana@example.co"),
        await node.reader(),
        node.operator,
    ]
    elsewhere = await person(node, "ana@example.com", org="beta")
    parent = await node.org_token()
    await node.tamper(
        "UPDATE tokens SET subject = 'person:ana@example.com' WHERE nonce = ?",
        bytes.fromhex(id_of(parent)),
    )
    child = await node.reader(token=parent)
    done = await revoke(node, subject="person:anA@example.com")
    assert done == http.RevokedMany(
        revoked=3,
        position=str(node.node.writer.position),
        durability=http.DurabilityReport(asked="local", met=True, replicated_to=[]),
    )
    assert [state(node, each) for each in (*ana, parent, child)] == [Reason.REVOKED] * 4
    assert [state(node, each) for each in others] == [None] * 5
    assert node.verdict(elsewhere, org="beta").allowed


@pytest.mark.parametrize(
    ("caveats", "ends"),
    [
        (["app = web"], True),
        (["app in api, web"], True),
        (["app in web, api"], True),
        (["app in api, web, worker"], True),
        (["app in api, web", "app = web"], True),
        (["app in api, web", "app = api"], False),
        (["app = api"], False),
        (["app = web-2"], False),
        (["app in web-2, my-web, webs"], False),
        (["machine = web"], False),
        (["secret = web"], False),
        ([], False),
    ],
)
async def test_an_app(node: Running, caveats: list[str], ends: bool) -> None:
    """Those that an `app` caveat lets act for it, also beside others; a token of the whole org is
    not one, whatever a holder has narrowed a copy to."""
    token = await node.reader(*caveats)
    before = state(node, token)
    done = await revoke(node, app="web")
    assert done.revoked == ends
    assert state(node, token) == (Reason.REVOKED if ends else before)


async def test_an_app_that_a_copy_was_narrowed_to(node: Running) -> None:
    """Nobody but its holder knows of a copy, so it does not end."""
    copy = narrowed(await node.reader(), "app = web")
    assert (await revoke(node, app="web")).revoked == 0
    assert state(node, copy) is None


async def test_an_org(node: Running) -> None:
    """Every token of it, expired ones and that of whoever asks too; not those of the cluster's key
    and of another org."""
    await node.furnish("beta")
    beta = await node.reader(org="beta")
    asker = await node.org_token()
    await node.reader(life_s=30)
    node.clock.advance(60)
    tokens = [await node.reader(), await person(node, "ana@example.com")]
    done = await revoke(node, token=asker, all=True)
    assert done.revoked == 4
    assert [state(node, each) for each in (*tokens, asker)] == [Reason.REVOKED] * 3
    assert state(node, node.operator) is None
    assert node.verdict(beta, org="beta").allowed
    listed = node.node.tokens.list("acme", None, 500).tokens
    assert {each.state for each in listed} == {"revoked"}
    fresh = await node.reader()
    assert state(node, fresh) is None


async def test_what_was_minted_on_the_authority_of_an_expired_one(node: Running) -> None:
    """It ends with it: the chain goes through tokens that nobody can use any more."""
    parent = await node.org_token(life_s=30)
    child = await node.reader(token=parent)
    node.clock.advance(60)
    await node.tamper(
        "UPDATE tokens SET subject = 'person:x@y' WHERE nonce = ?", bytes.fromhex(id_of(parent))
    )
    assert state(node, child) is None
    assert (await revoke(node, subject="person:x@y")).revoked == 1
    assert state(node, child) == Reason.REVOKED


async def test_who_ended_it_and_when(node: Running) -> None:
    """Each row says so; what had ended before keeps its time and is not counted."""
    first, second = await node.reader(), await node.reader()
    await node.revoke(id_of(first))
    at = node.clock.unix_ms()
    node.clock.advance(60)
    asker = await node.org_token()
    assert (await revoke(node, token=asker, all=True)).revoked == 2
    rows = {
        nonce.hex(): (at, subject, token.hex())
        for nonce, at, subject, token in node.rows(
            "SELECT nonce, at, subject, token FROM revocations"
        )
    }
    by = (f"org:{id_of(asker)}", id_of(asker))
    assert rows[id_of(first)][0] == at
    assert rows[id_of(second)] == (at + 60_000, *by)
    assert (await revoke(node, all=True)).revoked == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": False},
        {"subject": "person:a@example.com", "all": True},
        {"subject": "person:a@example.com", "app": "web"},
        {"app": "web", "all": True},
        {"app": "Web"},
        {"subject": ""},
        {"subject": "a@example.com"},
        {"subject": "people:a@example.com"},
        {"subject": "person:"},
        {"subject": "person:a b"},
        {"subject": "person:a\nb"},
        {"subject": "person:" + "a" * 321},
    ],
)
async def test_bodies_that_are_none(node: Running, body: dict[str, Any]) -> None:
    """One wish, and a subject or an app that there could be; otherwise nothing is written."""
    token = await node.reader()
    before = node.node.writer.position
    with pytest.raises(PetsemError) as error:
        await revoke(node, **body)
    assert error.value.code is Code.INVALID
    assert (node.node.writer.position, state(node, token)) == (before, None)


async def test_an_org_that_is_not_there(node: Running) -> None:
    """It is not found, as everywhere."""
    with pytest.raises(PetsemError) as error:
        await revoke(node, org="nobody", all=True)
    assert error.value.code is Code.NOT_FOUND


async def test_a_repeated_call(node: Running) -> None:
    """The same key answers the same and ends nothing that was issued since; with another body it
    conflicts."""
    await node.reader()
    first = await revoke(node, key="k", all=True)
    since = await node.reader()
    assert await revoke(node, key="k", all=True) == first
    assert state(node, since) is None
    with pytest.raises(PetsemError) as error:
        await revoke(node, key="k", app="web")
    assert refusal(error.value) == (Code.CONFLICT, None, None)
    assert (await revoke(node, key="k2", all=True)).revoked == 1
    assert state(node, since) == Reason.REVOKED


# More than one transaction


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a transaction."""
    monkeypatch.setattr(revoking, "PIECE_ROWS", 3)


@pytest.mark.parametrize("body", [{"all": True}, {"app": "web"}, {"subject": "person:x@y"}])
async def test_in_pieces(node: Running, small_pieces: None, body: dict[str, Any]) -> None:
    """All of them, a few at a time, whatever the order; the answer is that of one transaction, and
    so is that of a repeated call."""
    tokens = [await node.reader("app = web") for _ in range(8)]
    await node.tamper("UPDATE tokens SET subject = 'person:x@y' WHERE org IS NOT NULL")
    spared = [node.operator]
    if "all" not in body:
        spared += [await node.reader("machine = m") for _ in range(5)]
    before = node.node.writer.position.txid
    first = await revoke(node, key="k", **body)
    assert first.revoked == 8
    assert first.position == str(node.node.writer.position)
    assert node.node.writer.position.txid - before == 4
    assert [state(node, each) for each in tokens] == [Reason.REVOKED] * 8
    later = await node.reader("app = web")
    await node.tamper(
        "UPDATE tokens SET subject = 'person:x@y' WHERE nonce = ?", bytes.fromhex(id_of(later))
    )
    assert await revoke(node, key="k", **body) == first
    assert [state(node, each) for each in (node.operator, later)] == [None, None]
    listed = {each.id: each.state for each in node.node.tokens.list("acme", None, 500).tokens}
    assert [listed[id_of(each)] for each in spared[1:]] == ["live"] * (len(spared) - 1)


async def test_whoever_asks_may_end_his_own_first(node: Running, small_pieces: None) -> None:
    """The rest ends all the same, and so does what he minted meanwhile."""
    asker = await node.org_token()
    tokens = [await node.reader(token=asker) for _ in range(6)]
    assert (await revoke(node, token=asker, all=True)).revoked == 7
    assert [state(node, each) for each in tokens] == [Reason.REVOKED] * 6


@pytest.mark.parametrize("body", [{"all": True}, {"app": "web"}])
async def test_what_is_renewed_meanwhile(
    node: Running, small_pieces: None, body: dict[str, Any]
) -> None:
    """A service token of which the turn has not come yet leaves no successor that lives on; what
    was exchanged meanwhile on the authority of others does."""
    for _ in range(6):
        await node.reader("app = web")
    service = (await exchange(node, node.operator, host_key=HOST)).token
    spared, made = node.operator, list[str]()
    own = node.node.writer.submit

    async def submit(job: Any) -> Any:
        done = await own(job)
        if not made:
            node.node.writer.submit = own  # type: ignore[method-assign]
            for token, shown in ((service, HOST), (spared, None)):
                made.append((await exchange(node, token, shown=shown, host_key=HOST)).token)
            made.append((await exchange(node, made[0], shown=HOST)).token)
        return done

    node.node.writer.submit = submit  # type: ignore[method-assign]
    await revoke(node, **body)
    listed = {each.id: each.state for each in node.node.tokens.list("acme", None, 500).tokens}
    assert [listed[id_of(each)] for each in (service, *made)] == [
        *("revoked", "revoked", "live", "revoked")
    ]


async def test_each_piece_counts_at_once(node: Running, small_pieces: None) -> None:
    """Whoever was authorised a moment before is refused inside his own write."""
    tokens = [await node.org_token() for _ in range(7)]
    asked = [node.principal(policy.APPS_ADMIN, Names("acme", "api"), each) for each in tokens]
    told = 0
    with node.node.changes.subscribed(REVOCATIONS) as event:
        own = node.node.writer.submit

        async def submit(job: Any) -> Any:
            nonlocal told
            event.clear()
            done = await own(job)
            told += event.is_set()
            return done

        node.node.writer.submit = submit  # type: ignore[method-assign]
        await revoke(node, all=True)
        node.node.writer.submit = own  # type: ignore[method-assign]
    assert told == 1 + 3
    for principal in asked:
        with pytest.raises(PetsemError) as error:
            await node.node.orgs.create_app(principal, call(), "acme", "api")
        assert refusal(error.value) == (Code.DENIED, "REVOKED", None)


async def test_cut_off_on_the_way(
    node: Running, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told so repeats the call, which then ends the others, and answers for all."""
    tokens = [await node.reader() for _ in range(8)]
    own, pieces = node.node.writer.submit, 0

    async def submit(job: Any) -> Any:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            raise unavailable("the node is stopping")
        return await own(job)

    with monkeypatch.context() as patch:
        patch.setattr(node.node.writer, "submit", submit)
        with pytest.raises(PetsemError, match="only some of the tokens have ended") as error:
            await revoke(node, key="k", all=True)
    assert error.value.code is Code.UNAVAILABLE
    assert 0 < sum(state(node, each) is None for each in tokens) < 8
    done = await revoke(node, key="k", all=True)
    assert done.revoked == 8
    assert [state(node, each) for each in tokens] == [Reason.REVOKED] * 8


async def test_a_job_may_run_twice(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer begins a group anew if it must; the count is that of the run that counts."""
    await node.reader()
    own = node.node.writer.submit

    async def submit(job: Any) -> Any:
        def twice(txn: Txn) -> Any:
            txn.db.execute("SAVEPOINT first")
            job(txn)
            txn.db.execute("ROLLBACK TO first")
            txn.db.execute("RELEASE first")
            return job(txn)

        return await own(twice)

    monkeypatch.setattr(node.node.writer, "submit", submit)
    assert (await revoke(node, all=True)).revoked == 1


# The feed


async def test_the_feed_has_each_of_them(node: Running, small_pieces: None) -> None:
    """Also what was minted on their authority, page after page, of the org and of all; nothing is
    lost between two pages, and no page has a part of a transaction."""
    parents = [await node.org_token() for _ in range(4)]
    children = [await node.reader(token=each) for each in parents]
    await node.tamper("UPDATE tokens SET subject = 'person:x@y' WHERE depth = 1")
    before = node.node.writer.position
    await revoke(node, subject="person:x@y")
    expected = {id_of(each) for each in (*parents, *children)}
    for org in ("acme", None):
        found: list[str] = []
        at = before
        while True:
            rows, at = await node.node.verification.revocations(
                Request(node.operator, None), org, at, 0
            )
            if not rows:
                break
            found += [row.nonce.hex() for row in rows]
        assert (set(found), len(found)) == (expected, len(expected))
    request = Request(node.operator, None)
    stream = node.node.verification.watch_revocations(request, "acme", before)
    streamed = []
    async for row, _ in stream:
        if row is None:
            break
        streamed.append(row.nonce.hex())
    await stream.aclose()
    assert sorted(streamed) == sorted(expected)


async def test_the_feed_leaves_out_what_had_expired_long_before(node: Running) -> None:
    """Of what was minted on a revoked token's authority, that is: an orchestrator's parent may have
    had a million children. Those of the last hour stay, for whoever has a clock that is behind."""
    parent = await node.org_token(life_s=20_000)
    old = await node.reader(token=parent, life_s=60)
    node.clock.advance(4_000)
    recent = await node.reader(token=parent, life_s=60)
    live = await node.reader(token=parent, life_s=10_000)
    node.clock.advance(120)
    before = node.node.writer.position
    await node.revoke(id_of(parent))
    rows, _ = await node.node.verification.revocations(
        Request(node.operator, None), "acme", before, 0
    )
    assert {row.nonce.hex() for row in rows} == {id_of(each) for each in (parent, recent, live)}
    assert id_of(old) not in {row.nonce.hex() for row in rows}


async def test_the_cache_of_this_node_lets_go(node: Running) -> None:
    """A token that was verified a moment before is refused at once, in its own write too."""
    token = await node.org_token()
    principal = node.principal(policy.APPS_ADMIN, Names("acme", "api"), token)
    assert node.verdict(token).allowed
    await revoke(node, all=True)
    assert node.verdict(token).reason == Reason.REVOKED
    with pytest.raises(PetsemError) as error:
        await node.node.orgs.create_app(principal, call(), "acme", "api")
    assert refusal(error.value) == (Code.DENIED, "REVOKED", None)


async def test_a_position_of_before(node: Running) -> None:
    """What was issued after the named transaction is not touched, by any of the statements."""
    await node.reader()
    with node.node.pool.snapshot() as db:
        scope = rows.Scope(1, Position(0, 0))
        assert rows.not_ended(db, scope, (0, b""), 9) == []
        now = rows.Scope(1, node.node.writer.position)
        assert len(rows.not_ended(db, now, (0, b""), 9)) == 1
        assert rows.ended(db, now) == (0, node.node.writer.position)
