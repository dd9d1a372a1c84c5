"""Answering API servers: what a token may do, why not, and which tokens were revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from petsem import limits
from petsem.crypto.aead import random_bytes
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position
from petsem.server.principal import Request
from petsem.server.service import verify as verify_module
from petsem.server.service.verify import Verdict, VerifyItem
from petsem.server.store.tokens import RevocationRow
from petsem.tokens.identifier import Identifier
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.text import encode_token, parse_token
from tests.support.nodes import Running, Site, id_of, narrowed, outcome, refusal, running, soon

DENIED, INVALID = Code.DENIED, Code.INVALID
READ = {"org": "acme", "action": "secrets:read"}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


def why(verdict: Verdict) -> tuple[bool, str, str]:
    """Allowed, or reason and caveat."""
    return verdict.allowed, verdict.reason, verdict.caveat


# Verdicts


async def test_a_damaged_root_key_is_its_own_org_s_trouble(node: Running) -> None:
    """A batch about one org is answered, whatever state the keys of another org are in whose
    token somebody slipped in; a question about the damaged org itself is an error."""
    await node.furnish("beta")
    ours, theirs = await node.reader(), await node.reader(org="beta")
    which = "org = (SELECT id FROM orgs WHERE name = 'beta')"
    envelope = node.rows(f"SELECT envelope FROM root_keys WHERE {which}")[0][0]
    flipped = envelope[:-1] + bytes((envelope[-1] ^ 1,))
    await node.tamper(f"UPDATE root_keys SET envelope = ? WHERE {which}", flipped)
    items = [VerifyItem(token, READ) for token in (ours, theirs)]
    verdicts = node.node.verification.verify(Request(node.operator, None), items)
    assert [why(verdict) for verdict in verdicts] == [(True, "", ""), (False, "WRONG_ORG", "")]
    assert outcome(lambda: node.verdict(theirs, org="beta")) == (Code.CORRUPT, None, None)


async def test_an_allowed_token_says_whose_it_is(node: Running) -> None:
    """Id, org, subject, the end of its life and the position of the answer; a refused one says
    nothing but why."""
    minted = await node.mint("action = secrets:read", kind="host", life_s=100)
    end_ms = node.clock.unix_ms() + 100_000
    position = node.node.writer.position
    assert node.verdict(minted.token) == Verdict(
        allowed=True, position=position, token_id=minted.id, org="acme",
        subject=f"host:{minted.id}", expires_at_ms=end_ms,
    )  # fmt: skip
    narrow = narrowed(minted.token, node.time_in(10), node.time_in(1000))
    assert node.verdict(narrow).expires_at_ms == end_ms - 90_000
    refused = node.verdict(minted.token, action="secrets:write")
    assert refused == Verdict(
        allowed=False, position=position, reason="CAVEAT", caveat="action = secrets:read",
        message=refused.message,
    )  # fmt: skip
    assert refused.message


async def test_each_reason(node: Running) -> None:
    """Every way in which a token can be no good has its own word, and none is an error."""
    await node.furnish("beta")
    token, other = await node.reader(life_s=60), await node.reader(org="beta")
    revoked, parent = await node.reader(), await node.org_token()
    child = await node.reader(token=parent)
    await node.revoke(id_of(revoked))
    await node.revoke(id_of(parent))
    key_id, secret = node.root_secret("acme")
    cluster_id = node.site.cluster_id

    def forge(cluster: bytes = cluster_id, key: bytes = key_id, **more: Any) -> str:
        identifier = Identifier(cluster, Kind.ORG, key, more.pop("nonce", random_bytes(16)), 1, 1)
        return encode_token(mint(more.pop("secret", secret), identifier, [], **more))

    nonce = bytes.fromhex(id_of(token))
    asked = (ThirdParty("sso", random_bytes(32), b"ticket"),)
    early = node.time_in(50).replace("<", ">=")
    tokens = {
        "MALFORMED": "no token at all",
        "TRUNCATED": token[:-3],
        "BAD_SIGNATURE": forge(secret=random_bytes(32)),
        "UNKNOWN_KEY": forge(key=random_bytes(16)),
        "WRONG_CLUSTER": forge(cluster=random_bytes(16)),
        "WRONG_ORG": other,
        "NOT_ISSUED": forge(nonce=nonce),
        "REVOKED": revoked,
        "EXPIRED": narrowed(token, node.time_in(0)),
        "NOT_YET_VALID": narrowed(token, early),
        "CAVEAT": narrowed(token, "app = web"),
        "DISCHARGE_MISSING": forge(third_party=asked),
    }
    assert {reason: node.verdict(each).reason for reason, each in tokens.items()} == {
        reason: reason for reason in tokens
    }
    assert node.verdict(child).reason == "REVOKED"
    assert node.verdict(tokens["CAVEAT"]).caveat == "app = web"
    discharge = mint(secret, Identifier.parse(parse_token(token).root.identifier), [])
    alien = f"{token},{encode_token(discharge)}"
    assert node.verdict(alien).reason == "DISCHARGE_INVALID"


async def test_the_org_must_be_the_keys(node: Running) -> None:
    """An org's token is good in its org; the cluster's in any, within its caveats."""
    await node.furnish("beta")
    token = await node.org_token()
    assert why(node.verdict(token, org="acme")) == (True, "", "")
    assert why(node.verdict(token, org="beta")) == (False, "WRONG_ORG", "")
    for org in ("acme", "beta", "nowhere"):
        verdict = node.verdict(node.operator, org=org)
        assert (verdict.allowed, verdict.org) == (True, org)
    narrow = narrowed(node.operator, "org = acme")
    assert why(node.verdict(narrow, org="beta")) == (False, "CAVEAT", "org = acme")


@pytest.mark.parametrize("action", ["orgs:admin", "nodes:read", "nodes:admin", "apps:delete"])
async def test_an_orgs_token_is_never_good_for_the_clusters_actions(
    node: Running, action: str
) -> None:
    """Even one without an action caveat; actions of other API servers are theirs to name."""
    minted = await node.mint("action = secrets:read")
    await node.tamper("UPDATE tokens SET caveats = '[]' WHERE nonce = ?", bytes.fromhex(minted.id))
    key_id, secret = node.root_secret("acme")
    identifier = Identifier(node.site.cluster_id, Kind.ORG, key_id, bytes.fromhex(minted.id), 1, 1)
    bare = encode_token(mint(secret, identifier, []))
    assert node.verdict(bare, action=action).reason == "WRONG_ORG"
    for theirs in ("machines:boot", "apps:admin", "secrets:delete"):
        assert node.verdict(bare, action=theirs).allowed


async def test_attributes_come_from_the_access_only(node: Running) -> None:
    """Region, ip and anything else are what the caller says; what he does not say denies."""
    caveats = {
        "app = web": {"app": "web"},
        "region = fra": {"region": "fra"},
        "ip in 10.0.0.0/8": {"ip": "10.1.2.3"},
        "machine = m1": {"machine": "m1"},
        "secret in A, DB_*": {"secret": "DB_URL"},
        "color = blue": {"color": "blue"},
    }
    base = await node.reader()
    for caveat, access in caveats.items():
        token = narrowed(base, caveat)
        assert why(node.verdict(token, **access)) == (True, "", "")
        assert why(node.verdict(token)) == (False, "CAVEAT", caveat)
        wrong = dict.fromkeys(access, "198.51.100.1")
        assert why(node.verdict(token, **wrong)) == (False, "CAVEAT", caveat)


async def test_time_and_user_of_the_access_are_ignored(node: Running) -> None:
    """The server's clock and the issued row count, whatever the caller claims."""
    base = await node.reader()
    expired = narrowed(base, node.time_in(0))
    early = narrowed(base, node.time_in(10).replace("<", ">="))
    person = narrowed(base, "user = a@example.com")
    assert node.verdict(expired, time="2001-01-01T00:00:00Z").reason == "EXPIRED"
    assert node.verdict(early, time="2099-01-01T00:00:00Z").reason == "NOT_YET_VALID"
    assert why(node.verdict(person, user="a@example.com")) == (
        False, "CAVEAT", "user = a@example.com",
    )  # fmt: skip


async def test_the_dry_run_has_its_own_time(node: Running) -> None:
    """`can` asks about another moment; a token that has ended or was revoked by now stays so."""
    token = await node.reader(life_s=100)
    early = narrowed(token, node.time_in(50).replace("<", ">="))
    now_s = node.clock.unix_ms() // 1000
    request, item = Request(node.operator, None), VerifyItem(early, READ)
    can = node.node.verification.can
    assert [can(request, item, now_s + at).reason for at in (0, 49, 50, 99, 100)] == [
        "NOT_YET_VALID", "NOT_YET_VALID", "", "", "EXPIRED",
    ]  # fmt: skip
    assert can(request, item).reason == "NOT_YET_VALID"
    node.clock.advance(100)
    assert can(request, item, now_s + 60).reason == "EXPIRED"


@pytest.mark.parametrize(
    "access",
    [
        {},
        {"org": "acme"},
        {"action": "secrets:read"},
        {**READ, "org": "Not An Org"},
        {**READ, "org": ""},
        {**READ, "k" * 65: "v"},
        {**READ, "k": "v" * 256},
        {**READ, **{f"k{n}": "v" for n in range(63)}},
    ],
)
async def test_an_access_that_cannot_be_evaluated_is_an_error(
    node: Running, access: dict[str, str]
) -> None:
    """Neither leave nor denial, before anybody's token is looked at; the largest one is taken."""
    item = VerifyItem(await node.reader(), access)
    request = Request(node.operator, None)
    for ask in (node.node.verification.verify, node.node.verification.can):
        argument: Any = item if ask == node.node.verification.can else [item]
        assert outcome(lambda ask=ask, argument=argument: ask(request, argument)) == (
            INVALID, None, None,
        )  # fmt: skip
    largest = {**READ, **{f"k{n}": "v" * 255 for n in range(61)}, "k" * 64: ""}
    assert node.verdict(item.token, **largest).allowed


# Who may ask


async def test_whoever_asks_needs_the_action_for_every_org(node: Running) -> None:
    """One org's verifier asks about its org alone; the cluster's about any; a batch is answered
    whole or not at all."""
    await node.furnish("beta")
    verify = node.node.verification.verify
    token = await node.reader()
    asker = (await node.mint("action = tokens:verify")).token
    mute = (await node.mint("action = secrets:read")).token
    acme, beta = VerifyItem(token, READ), VerifyItem(token, {**READ, "org": "beta"})

    def ask(who: str | None, *items: VerifyItem) -> object:
        return outcome(lambda: [v.reason for v in verify(Request(who, None), items)])

    assert ask(asker, acme, acme) == ["", ""]
    assert ask(asker, acme, beta) == (DENIED, "WRONG_ORG", None)
    assert ask(node.operator, acme, beta) == ["", "WRONG_ORG"]
    assert ask(mute, acme) == (DENIED, "CAVEAT", "action = secrets:read")
    assert ask(None, acme) == (Code.UNAUTHENTICATED, None, None)
    assert ask(asker) == (DENIED, "WRONG_ORG", None)
    assert ask(node.operator) == []
    narrow = narrowed(node.operator, "org = acme")
    assert ask(narrow, acme) == [""]
    assert ask(narrow, beta) == (DENIED, "CAVEAT", "org = acme")
    await node.revoke(id_of(asker))
    assert ask(asker, acme) == (DENIED, "REVOKED", None)


async def test_a_batch_is_answered_in_order_at_one_position(node: Running) -> None:
    """512 of them; one more is refused."""
    good, bad = await node.reader(), "nonsense"
    items = [VerifyItem((good, bad)[n % 2], READ) for n in range(limits.VERIFY_BATCH_MAX)]
    request = Request(node.operator, None)
    verdicts = node.node.verification.verify(request, items)
    assert [v.allowed for v in verdicts] == [True, False] * 256
    assert {v.position for v in verdicts} == {node.node.writer.position}
    assert outcome(lambda: node.node.verification.verify(request, [*items, items[0]])) == (
        INVALID, None, None,
    )  # fmt: skip


async def test_an_end_is_the_earliest(node: Running) -> None:
    """Of the row's time and every `time <` a holder added."""
    token = await node.reader(life_s=100)
    with node.node.pool.reading() as db:
        plain = node.node.auth.verify(db, token)
        narrow = node.node.auth.verify(db, narrowed(token, node.time_in(30), node.time_in(20)))
    assert plain.ends_at_ms - node.clock.unix_ms() == 100_000
    assert narrow.ends_at_ms - node.clock.unix_ms() == 20_000


# The feed of revocations


async def page(
    node: Running, after: Position | None, org: str | None = "acme", wait_s: float = 0.0
) -> tuple[list[str], Position]:
    """Ids in a page, and where to go on."""
    request = Request(node.operator, None)
    found, position = await node.node.verification.revocations(request, org, after, wait_s)
    return [row.nonce.hex() for row in found], position


async def revoke_together(node: Running, tokens: list[str]) -> list[str]:
    """Revoke several in one transaction; their ids in the order of the feed."""
    before = node.node.writer.position
    await asyncio.gather(*(node.revoke(id_of(token)) for token in tokens))
    assert node.node.writer.position.txid == before.txid + 1
    return sorted(id_of(token) for token in tokens)


async def test_the_feed_begins_now_and_goes_on_from_where_it_was(node: Running) -> None:
    """Without `after` it tells where to begin; then each revocation once, in order."""
    old, *tokens = [await node.reader() for _ in range(4)]
    await node.revoke(id_of(old))
    empty, at = await page(node, None)
    assert (empty, at) == ([], node.node.writer.position)
    for token in tokens:
        await node.revoke(id_of(token))
    found, after = await page(node, at)
    assert (found, after) == ([id_of(t) for t in tokens], node.node.writer.position)
    assert await page(node, after) == ([], after)
    every, _ = await page(node, Position(0, 0))
    assert every == [id_of(t) for t in (old, *tokens)]


async def test_the_feed_of_one_org_and_of_all(node: Running) -> None:
    """An org's feed has its own revocations; the cluster's has all, with the org of each."""
    await node.furnish("beta")
    ours, theirs = await node.reader(), await node.reader(org="beta")
    cluster = await node.mint("action = tokens:verify", org=None)
    for token_id, org in ((id_of(ours), "acme"), (id_of(theirs), "beta"), (cluster.id, None)):
        await node.revoke(token_id, org)
    start = Position(0, 0)
    assert (await page(node, start))[0] == [id_of(ours)]
    assert (await page(node, start, "beta"))[0] == [id_of(theirs)]
    request = Request(node.operator, None)
    found, _ = await node.node.verification.revocations(request, None, start, 0)
    position = node.node.writer.position
    now = node.clock.unix_ms()
    assert found == [
        RevocationRow(bytes.fromhex(each), org, now, position.epoch, position.txid - back)
        for each, org, back in (
            (id_of(ours), "acme", 2), (id_of(theirs), "beta", 1), (cluster.id, None, 0),
        )
    ]  # fmt: skip


async def test_what_was_minted_on_a_revoked_token_is_in_the_feed_with_it(node: Running) -> None:
    """Whoever remembers verdicts by token id hears of each token that ended, also in an org's feed
    when it was the cluster's token that was revoked, and whatever page that falls on."""
    parent = await node.mint("action in tokens:mint, secrets:read", org=None)
    child = await node.mint("action in tokens:mint, secrets:read", token=parent.token)
    grandchild = await node.mint("action = secrets:read", token=child.token)
    other = await node.reader()
    at = node.node.writer.position
    await node.revoke(parent.id, None)
    await node.revoke(id_of(other))
    here = node.node.writer.position
    first = sorted((child.id, grandchild.id))
    assert await page(node, at) == ([*first, id_of(other)], here)
    every, _ = await page(node, at, None)
    assert every == [*sorted((parent.id, *first)), id_of(other)]
    for token in (child, grandchild):
        assert node.verdict(token.token).reason == "REVOKED"


async def test_pages_that_hold_nothing_for_an_org_are_passed_over(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An org's feed does not stop at a page full of the cluster's own revocations."""
    monkeypatch.setattr(limits, "PAGE_MAX_ROWS", 2)
    cluster = [await node.mint("action = nodes:read", org=None) for _ in range(5)]
    ours = await node.reader()
    at = node.node.writer.position
    for minted in cluster:
        await node.revoke(minted.id, None)
    await node.revoke(id_of(ours))
    assert await page(node, at) == ([id_of(ours)], node.node.writer.position)


@pytest.mark.parametrize("org", ["acme", None])
async def test_a_page_never_parts_a_transaction(
    node: Running, monkeypatch: pytest.MonkeyPatch, org: str | None
) -> None:
    """Several revocations of one transaction come together, so that its position stands for all."""
    monkeypatch.setattr(limits, "PAGE_MAX_ROWS", 3)
    tokens = [await node.reader() for _ in range(9)]
    start = node.node.writer.position
    groups = [tokens[:2], tokens[2:6], tokens[6:7], tokens[7:9]]
    ids = [await revoke_together(node, group) for group in groups]
    pages, after = [], start
    while True:
        found, following = await page(node, after, org)
        if not found:
            break
        assert following != after
        pages.append(sorted(found))
        after = following
    assert pages == [sorted(ids[0] + ids[1]), sorted(ids[2] + ids[3])]
    assert after == node.node.writer.position


async def test_a_long_poll_waits_for_a_revocation(node: Running) -> None:
    """It is answered when there is one, not before, and empty when its time is over."""
    token = await node.reader()
    at = node.node.writer.position
    waits = asyncio.create_task(page(node, at, wait_s=30))
    await node.patch({"A": "no revocation"})
    assert not waits.done()
    await node.revoke(id_of(token))
    found, after = await soon(waits)
    assert (found, after) == ([id_of(token)], node.node.writer.position)
    assert await page(node, after, wait_s=0.01) == ([], after)
    assert node.node.changes.waited_for == set()


async def test_who_may_read_the_feed(node: Running) -> None:
    """A verifier of one org reads that org's; a revoked one nothing any more, though it waits."""
    asker = (await node.mint("action = tokens:verify")).token
    at = node.node.writer.position

    async def ask(org: str | None, wait_s: float = 0) -> object:
        try:
            request = Request(asker, None)
            return await node.node.verification.revocations(request, org, at, wait_s)
        except PetsemError as e:
            return refusal(e)

    assert await ask("acme") == ([], at)
    for org in ("beta", None):
        assert await ask(org) == (DENIED, "WRONG_ORG", None)
    assert await ask("No Org") == (INVALID, None, None)
    waits = asyncio.create_task(ask("acme", 30))
    await asyncio.sleep(0)
    await node.revoke(id_of(asker))
    assert await soon(waits) == (DENIED, "REVOKED", None)


async def test_an_org_that_is_not_there_has_an_empty_feed(node: Running) -> None:
    """The operator, who may ask about any org, is told the position and nothing else."""
    at = node.node.writer.position
    assert await page(node, at, "nowhere") == ([], at)


async def test_a_feed_of_a_lost_branch_is_lost(tmp_path: Path) -> None:
    """A position that this database never had is no place to go on from."""
    site = Site(tmp_path / "node")
    async with site.running() as node:
        await node.furnish()
        at = node.node.writer.position
    async with site.running() as node:
        assert await page(node, at) == ([], node.node.writer.position)
        with pytest.raises(PetsemError) as error:
            await page(node, Position(at.epoch, at.txid + 9))
        assert refusal(error.value) == (Code.CONFLICT, "LOST", None)
        ahead = Position(node.node.writer.position.epoch, node.node.writer.position.txid + 1)
        with pytest.raises(PetsemError) as error:
            await page(node, ahead)
        assert error.value.code is Code.STALE


# The stream


def stream(
    node: Running, after: Position | None = None, token: str | None = None
) -> AsyncGenerator[tuple[RevocationRow | None, Position], None]:
    """The stream of acme's revocations."""
    request = Request(token or node.operator, None)
    return node.node.verification.watch_revocations(request, "acme", after)


async def test_the_stream_tells_where_it_begins_then_each_revocation(node: Running) -> None:
    """A sign of life first, with the position; another after each burst."""
    token = await node.reader()
    async with aclosing(stream(node)) as feed:
        assert await soon(anext(feed)) == (None, node.node.writer.position)
        news = asyncio.ensure_future(anext(feed))
        await node.revoke(id_of(token))
        row, at = await soon(news)
        assert row is not None
        assert (row.nonce.hex(), at) == (id_of(token), node.node.writer.position)
        assert await soon(anext(feed)) == (None, node.node.writer.position)


async def test_a_stream_can_be_taken_up_after_any_of_its_rows(node: Running) -> None:
    """Each row comes with a position to go on from that loses nothing, also between the rows of
    one transaction."""
    tokens = [await node.reader() for _ in range(6)]
    start = node.node.writer.position
    ids = {*await revoke_together(node, tokens[:3])} | {*await revoke_together(node, tokens[3:])}
    rows: list[tuple[str, Position]] = []
    async with aclosing(stream(node, start)) as feed:
        async for row, at in feed:
            if row is None:
                break
            rows.append((row.nonce.hex(), at))
    assert {each for each, _ in rows} == ids
    for index, (_, at) in enumerate(rows):
        rest, _ = await page(node, at)
        seen = {each for each, _ in rows[: index + 1]}
        assert seen | set(rest) == ids
    assert rows[-1][1] == node.node.writer.position


async def test_the_stream_gives_a_sign_of_life(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to tell, it says from time to time where it stands."""
    monkeypatch.setattr(verify_module, "HEARTBEAT_S", 0.005)
    async with aclosing(stream(node)) as feed:
        first = await soon(anext(feed))
        await node.patch({"A": "x"})
        assert [await soon(anext(feed)) for _ in range(2)][-1] == (None, node.node.writer.position)
        assert first[0] is None


@pytest.mark.parametrize("end", ["revoke", "expire"])
async def test_the_stream_ends_with_its_token(
    node: Running, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The token is looked at again at each event and each sign of life."""
    monkeypatch.setattr(verify_module, "HEARTBEAT_S", 600 if end == "revoke" else 0.005)
    token = (await node.mint("action = tokens:verify", life_s=60)).token
    async with aclosing(stream(node, token=token)) as feed:
        await soon(anext(feed))
        news = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0)
        if end == "revoke":
            await node.revoke(id_of(token))
        else:
            node.clock.advance(60)
        with pytest.raises(PetsemError) as error:
            await soon(news)
    assert error.value.detail.reason == {"revoke": "REVOKED", "expire": "EXPIRED"}[end]


async def test_streams_are_bounded_and_give_their_place_back(node: Running) -> None:
    """One over the cap is refused with `limit`, also if an earlier one ended in a refusal."""
    node.node.verification._streams_left = 1
    mute = await node.reader()
    with pytest.raises(PetsemError) as error:
        await soon(anext(stream(node, token=mute)))
    assert error.value.code is DENIED
    async with aclosing(stream(node)) as feed:
        await soon(anext(feed))
        with pytest.raises(PetsemError) as limited:
            await soon(anext(stream(node)))
        assert limited.value.code is Code.LIMIT
    assert node.node.verification._streams_left == 1
    assert node.node.changes.waited_for == set()


async def test_a_question_shows_no_token(node: Running) -> None:
    """The token that is asked about stays out of reprs."""
    token = await node.reader()
    assert token not in repr(VerifyItem(token, READ))
