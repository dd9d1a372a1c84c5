"""Minting, revoking, listing: nobody passes on more than he has, and what is stored is no token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from petsem import limits
from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.limits import CAVEATS_MAX, CAVEATS_MINTED_MAX
from petsem.model import Kind
from petsem.server import policy
from petsem.server.principal import Names, Request
from petsem.server.service.kinds import LIFE_MAX_S, kind_for
from petsem.server.service.writes import KEPT_MS
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import parse_token
from petsem.wire import http
from tests.support.nodes import (
    ORG_ACTIONS,
    REGION,
    Running,
    call,
    id_of,
    narrowed,
    refusal,
    running,
)

INVALID, DENIED = Code.INVALID, Code.DENIED
WEB = Names("acme", "web", filterable=True)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


def caveats_of(token: str) -> list[str]:
    """What a token says of itself."""
    return [caveat.cid.decode() for caveat in parse_token(token).root.caveats]


async def refused(node: Running, *caveats: str, **more: Any) -> tuple[Code, str | None, str | None]:
    """How a mint is refused. Nothing may have been stored by then."""
    before = node.rows("SELECT count(*) FROM tokens")
    with pytest.raises(PetsemError) as error:
        await node.mint(*caveats, **more)
    assert node.rows("SELECT count(*) FROM tokens") == before
    return refusal(error.value)


# What a mint makes


async def test_what_a_mint_makes(node: Running) -> None:
    """The org's key signs; the org comes first, then what was asked for; the row says who it is,
    who asked and on whose authority, and the label is nobody's identity."""
    minted = await node.mint(
        "action = secrets:read", "app = web", kind="host", label="person:root@example.com"
    )
    until = rfc3339(node.clock.unix_ms() + 3_600_000)
    assert (minted.expires_at, minted.position) == (until, str(node.node.writer.position))
    expected = ["org = acme", "action = secrets:read", "app = web", f"time < {until}"]
    assert caveats_of(minted.token) == expected
    identifier = Identifier.parse(parse_token(minted.token).root.identifier)
    position = node.node.writer.position
    assert identifier == Identifier(
        node.site.cluster_id,
        Kind.HOST,
        node.root_secret("acme")[0],
        bytes.fromhex(minted.id),
        position.epoch,
        position.txid,
    )
    info = listed(node)[minted.id]
    operator = id_of(node.operator)
    assert info == http.TokenInfo(
        id=minted.id,
        kind="host",
        subject=f"host:{minted.id}",
        label="person:root@example.com",
        parent=operator,
        caveats=expected,
        created_at=rfc3339(node.clock.unix_ms()),
        created_by=f"operator:{operator}",
        expires_at=until,
        state="live",
        revoked_at=None,
    )
    found = node.principal(policy.SECRETS_READ, WEB, minted.token).token
    assert (found.subject, found.kind, found.depth) == (f"host:{minted.id}", Kind.HOST, 1)


def listed(node: Running, org: str | None = "acme") -> dict[str, http.TokenInfo]:
    """Issued tokens by id."""
    return {info.id: info for info in node.node.tokens.list(org, None, 500).tokens}


async def test_the_natural_kinds(node: Running) -> None:
    """Without an org the cluster's key signs an operator's token, with one an org's."""
    operator = await node.mint("action = orgs:admin", org=None)
    org = await node.mint("action = secrets:read")
    assert [
        Identifier.parse(parse_token(t.token).root.identifier).kind for t in (operator, org)
    ] == [
        Kind.OPERATOR,
        Kind.ORG,
    ]
    assert node.principal(policy.ORGS_ADMIN, Names("beta"), operator.token).token.org is None


@pytest.mark.parametrize(
    ("kind", "org", "made"),
    [
        (None, None, Kind.OPERATOR),
        (None, "acme", Kind.ORG),
        ("operator", None, Kind.OPERATOR),
        ("org", "acme", Kind.ORG),
        ("deploy", "acme", Kind.DEPLOY),
        ("read-only", "acme", Kind.READ_ONLY),
        ("host", "acme", Kind.HOST),
        ("service", "acme", Kind.SERVICE),
        ("operator", "acme", None),
        ("host", None, None),
        ("person", "acme", None),
        ("person", None, None),
        ("PERSON", "acme", None),
        ("7", "acme", None),
        ("", "acme", None),
    ],
)
def test_kinds_that_can_be_asked_for(kind: str | None, org: str | None, made: Kind | None) -> None:
    """An operator is of the cluster, all others of an org, and a person comes from signing in."""
    if made is not None:
        assert kind_for(kind, org) is made
        return
    with pytest.raises(PetsemError) as error:
        kind_for(kind, org)
    assert error.value.code is INVALID


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.PERSON])
async def test_a_life_is_as_long_as_the_kind_allows_whatever_the_askers(
    node: Running, kind: Kind
) -> None:
    """The longest life to the second; one more is refused. A token of one minute may ask."""
    org = None if kind is Kind.OPERATOR else "acme"
    asker = narrowed(node.operator, node.time_in(60))
    life_s = LIFE_MAX_S[kind]
    ask = {"org": org, "kind": kind.text, "token": asker}
    assert (await refused(node, "action = secrets:read", life_s=life_s + 1, **ask))[0] is INVALID
    minted = await node.mint("action = secrets:read", life_s=life_s, **ask)
    assert minted.expires_at == rfc3339(node.clock.unix_ms() + life_s * 1000)


async def test_the_earliest_time_is_the_tokens(node: Running) -> None:
    """Of several times the first one ends it; one that is past is refused."""
    early, late = node.time_in(60), node.time_in(600)
    minted = await node.mint("action = secrets:read", late, early, life_s=None)
    assert minted.expires_at == rfc3339(node.clock.unix_ms() + 60_000)
    assert await refused(node, "action = secrets:read", late, node.time_in(0), life_s=None) == (
        INVALID, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "caveats",
    [
        ("app = web", "time < 2027-01-15T09:00:00Z"),
        ("action = secrets:read",),
        ("action = secrets:read", "time >= 2027-01-15T09:00:00Z"),
        ("action = secrets:read", "action = secrets:list", "time < 2027-01-15T09:00:00Z"),
        ("action = secrets:read", "app=web", "time < 2027-01-15T09:00:00Z"),
        ("action = secrets:read", "time < 2027-02-30T09:00:00Z"),
        ("action = secrets:réad", "time < 2027-01-15T09:00:00Z"),
        (),
    ],
)
async def test_action_and_time_are_required_in_the_grammar(
    node: Running, caveats: tuple[str, ...]
) -> None:
    """A mint without an end, without an action that can ever be, or with text that means nothing,
    is refused."""
    assert await refused(node, *caveats, life_s=None) == (INVALID, None, None)


async def test_the_org_comes_from_its_field(node: Running) -> None:
    """A caveat that says the same is written once; one that says otherwise is refused."""
    minted = await node.mint("org = acme", "action = secrets:read", "action = secrets:read")
    assert caveats_of(minted.token) == ["org = acme", "action = secrets:read", node.time_in(3600)]
    for caveat in ("org = beta", "org in acme, beta"):
        assert await refused(node, caveat, "action = secrets:read") == (INVALID, None, None)
    narrow = await node.mint("org = acme", "action = secrets:read", org=None)
    assert node.principal(policy.SECRETS_READ, WEB, narrow.token)
    with pytest.raises(PetsemError) as error:
        node.principal(policy.SECRETS_READ, Names("beta", "web", filterable=True), narrow.token)
    assert refusal(error.value) == (DENIED, "CAVEAT", "org = acme")


@pytest.mark.parametrize("label", ["", "x" * 129, "two\nlines", "\x1b[31m", "\u202e"])
async def test_a_label_is_short_and_printable(node: Running, label: str) -> None:
    """What people will see on a terminal drives no terminal."""
    assert (await refused(node, "action = secrets:read", label=label))[0] is INVALID


async def test_an_org_that_is_not_there(node: Running) -> None:
    """Whoever may mint everywhere is told that there is no such org."""
    assert await refused(node, "action = secrets:read", org="gone") == (Code.NOT_FOUND, None, None)


# Nobody passes on more than he has


@pytest.mark.parametrize("action", ["orgs:admin", "nodes:read", "nodes:admin", "apps:read"])
async def test_an_org_token_never_holds_what_only_the_cluster_key_gives(
    node: Running, action: str
) -> None:
    """The operator himself cannot put it into a token of an org."""
    assert await refused(node, f"action in secrets:read, {action}") == (DENIED, "CAVEAT", None)


async def test_each_action_asked_for_must_be_ones_own(node: Running) -> None:
    """A token for minting and reading mints readers, and nothing that writes, lists or deletes."""
    asker = (await node.mint("action in tokens:mint, secrets:read")).token
    minted = await node.mint("action = secrets:read", token=asker)
    assert node.principal(policy.SECRETS_READ, WEB, minted.token)
    for action in ("secrets:write", "secrets:read, secrets:list", "tokens:revoke"):
        found = await refused(node, f"action in {action}", token=asker)
        assert found == (DENIED, "CAVEAT", "action in tokens:mint, secrets:read")


async def test_a_token_narrowed_by_action_mints_no_more(node: Running) -> None:
    """What a holder took away from his own token is not in what it mints."""
    asker = narrowed(await node.org_token(), "action in tokens:mint, secrets:list")
    assert await refused(node, "action = secrets:read", token=asker) == (
        DENIED, "CAVEAT", "action in tokens:mint, secrets:list",
    )  # fmt: skip
    minted = await node.mint("action = secrets:list", token=asker)
    assert "action in tokens:mint, secrets:list" in caveats_of(minted.token)
    mute = narrowed(await node.org_token(), "action = secrets:list")
    assert await refused(node, "action = secrets:list", token=mute) == (
        DENIED, "CAVEAT", "action = secrets:list",
    )  # fmt: skip


async def test_caveats_are_inherited_but_for_time_and_user(node: Running) -> None:
    """Region, network and action bind the child, in order and once, though it did not ask for
    them; the parent's end does not."""
    wide = f"action in {', '.join(ORG_ACTIONS)}"
    asker = narrowed(
        await node.org_token(),
        f"region in {REGION}, fra",
        "ip in 192.0.2.0/24",
        "org = acme",
        node.time_in(60),
        f"region in {REGION}, fra",
    )
    minted = await node.mint("action = secrets:read", token=asker, ip="192.0.2.7")
    assert caveats_of(minted.token) == [
        "org = acme",
        "action = secrets:read",
        node.time_in(3600),
        wide,
        f"region in {REGION}, fra",
        "ip in 192.0.2.0/24",
    ]
    node.clock.advance(120)
    assert node.principal(policy.SECRETS_READ, WEB, minted.token, ip="192.0.2.9")
    with pytest.raises(PetsemError) as error:
        node.principal(policy.SECRETS_READ, WEB, minted.token, ip="198.51.100.1")
    assert refusal(error.value) == (DENIED, "CAVEAT", "ip in 192.0.2.0/24")


@pytest.mark.parametrize("caveat", ["app = web", "machine = m1", "secret = A", "user = a@b.c"])
async def test_what_a_mint_does_not_name_stops_the_asker(node: Running, caveat: str) -> None:
    """A token bound to an app, a machine, a secret or a person's name mints nothing, because a mint
    is decided on the org alone: so such a caveat cannot be lost on the way either."""
    asker = narrowed(await node.org_token(), caveat)
    assert await refused(node, "action = secrets:read", token=asker) == (DENIED, "CAVEAT", caveat)


async def test_an_orgs_token_mints_in_its_org_only(node: Running) -> None:
    """Neither another org's key signs for it, nor the cluster's."""
    await node.furnish("beta")
    asker = await node.org_token()
    for org in ("beta", None, "gone"):
        assert await refused(node, "action = secrets:read", org=org, token=asker) == (
            DENIED, "WRONG_ORG", None,
        )  # fmt: skip


async def test_the_service_asks_again_whoever_calls_it(node: Running) -> None:
    """A principal that was authorised for one org gets nothing in another through the service."""
    await node.furnish("beta")
    asker = node.principal(policy.TOKENS_MINT, Names("acme"), await node.org_token())
    for org in ("beta", None):
        body = http.Mint(caveats=["action = secrets:read", node.time_in(60)], org=org)
        with pytest.raises(PetsemError) as error:
            await node.node.tokens.mint(asker, call(), body)
        assert refusal(error.value) == (DENIED, "WRONG_ORG", None)


async def test_authority_is_passed_on_eight_times(node: Running) -> None:
    """The ninth token of a chain mints nothing; it can still be attenuated."""
    token = node.operator
    for _ in range(limits.TOKEN_CHAIN_MAX):
        token = await node.org_token(token=token)
    assert (await refused(node, "action = secrets:read", token=token))[0] is INVALID
    assert node.principal(policy.SECRETS_READ, WEB, narrowed(token, "app = web"))


async def test_a_token_that_could_not_be_written_is_not_issued(node: Running) -> None:
    """Too many caveats, inherited ones included, or too many bytes: refused, and nothing stored."""
    many = [f"k{n} = v" for n in range(CAVEATS_MINTED_MAX - 3)]
    minted = (await node.mint("action = secrets:read", *many)).token
    assert len(caveats_of(minted)) == CAVEATS_MINTED_MAX
    room = [f"narrow{n} = v" for n in range(CAVEATS_MAX - CAVEATS_MINTED_MAX)]
    assert len(caveats_of(narrowed(minted, *room))) == CAVEATS_MAX
    assert (await refused(node, "action = secrets:read", *many, "one = more"))[0] is INVALID
    asker = narrowed(node.operator, f"region = {REGION}")
    assert (await refused(node, "action = secrets:read", *many, token=asker))[0] is INVALID
    long = [f"k{n} in {', '.join(c * 250 for c in 'abcdefg')}" for n in range(3)]
    assert (await refused(node, "action = secrets:read", *long))[0] is INVALID


async def test_a_damaged_root_key_issues_nothing(node: Running) -> None:
    """A mint that this node could not hand out leaves no row behind."""
    envelope = node.rows("SELECT envelope FROM root_keys WHERE org IS NOT NULL")[0][0]
    flipped = envelope[:-1] + bytes((envelope[-1] ^ 1,))
    await node.tamper("UPDATE root_keys SET envelope = ? WHERE org IS NOT NULL", flipped)
    assert await refused(node, "action = secrets:read") == (Code.CORRUPT, None, None)
    rotate = node.principal(policy.ORGS_ADMIN, Names("acme"))
    await node.node.tokens.rotate_root_key(rotate, call(), "acme")
    assert node.principal(policy.SECRETS_READ, WEB, await node.reader())


# Idempotency


async def test_the_same_key_gives_the_same_token(node: Running) -> None:
    """A repeated mint answers the same bytes and position, and issues nothing more; what is stored
    is no token."""
    until = node.time_in(60)
    ask = ("action = secrets:read", until)
    first = await node.mint(*ask, life_s=None, key="k1")
    node.clock.advance(5)
    await node.patch({"A": "another commit in between"})
    assert await node.mint(*ask, life_s=None, key="k1") == first
    assert node.rows("SELECT count(*) FROM tokens WHERE org IS NOT NULL") == [(1,)]
    other = await node.mint(*ask, life_s=None, key="k2")
    assert other.id != first.id
    root = parse_token(first.token).root
    stored = node.on_disk()
    assert bytes.fromhex(first.id) in stored
    assert root.signature not in stored
    assert first.token.encode() not in stored


async def test_the_same_key_with_another_body_conflicts(node: Running) -> None:
    """A key stands for one request; the token that it made is not handed to another."""
    await node.mint("action = secrets:read", key="k1")
    found = await refused(node, "action = secrets:list", key="k1")
    assert found == (Code.CONFLICT, None, None)


async def test_a_narrower_token_of_the_same_id_does_not_get_the_wider_ones(node: Running) -> None:
    """Whoever holds an attenuated copy and knows key and body cannot fetch what the original
    minted, because for him it would have been another token."""
    original = await node.org_token()
    copy = narrowed(original, f"region = {REGION}")
    until = node.time_in(60)
    ask: dict[str, Any] = {"life_s": None, "key": "k1"}
    first = await node.mint("action = secrets:read", until, token=original, **ask)
    found = await refused(node, "action = secrets:read", until, token=copy, **ask)
    assert found == (Code.CONFLICT, None, None)
    later = narrowed(original, node.time_in(50))
    assert await node.mint("action = secrets:read", until, token=later, **ask) == first


async def test_a_key_is_forgotten_after_a_day(node: Running) -> None:
    """After 24 hours the same request is another one."""
    operator = await node.mint("action in tokens:mint, secrets:read", org=None, life_s=200_000)
    until = node.time_in(180_000)
    ask: dict[str, Any] = {"life_s": None, "key": "k1", "token": operator.token}
    first = await node.mint("action = secrets:read", until, **ask)
    node.clock.advance(KEPT_MS / 1000 - 0.001)
    assert await node.mint("action = secrets:read", until, **ask) == first
    node.clock.advance(0.001)
    assert (await node.mint("action = secrets:read", until, **ask)).id != first.id


# Revoking and listing


async def test_revoking_says_when_and_is_done_once(node: Running) -> None:
    """A second revocation changes nothing: the first one's time stays."""
    minted = await node.mint("action = secrets:read")
    first = await node.revoke(minted.id)
    at = rfc3339(node.clock.unix_ms())
    assert first == http.Revoked(
        id=minted.id,
        revoked_at=at,
        position=str(node.node.writer.position),
        durability=http.DurabilityReport(asked="local", met=True, replicated_to=[]),
    )
    node.clock.advance(60)
    assert (await node.revoke(minted.id)).revoked_at == at
    info = listed(node)[minted.id]
    assert (info.state, info.revoked_at) == ("revoked", at)
    subject, by = node.rows("SELECT subject, token FROM revocations")[0]
    assert (subject, by.hex()) == (f"operator:{id_of(node.operator)}", id_of(node.operator))


async def test_an_org_revokes_its_own_tokens_only(node: Running) -> None:
    """An id of another org, of the cluster, or of nobody is not found, and still works."""
    await node.furnish("beta")
    other = await node.mint("action = secrets:read", org="beta")
    asker = await node.org_token()
    for token_id in (other.id, id_of(node.operator), "0" * 32):
        with pytest.raises(PetsemError) as error:
            await node.revoke(token_id, token=asker)
        assert error.value.code is Code.NOT_FOUND
    with pytest.raises(PetsemError) as error:
        await node.revoke(id_of(asker), org=None)
    assert error.value.code is Code.NOT_FOUND
    assert node.rows("SELECT count(*) FROM revocations") == [(0,)]


@pytest.mark.parametrize("token_id", ["", "00", "g" * 32, "A" * 32, " " + "0" * 31, "0" * 34])
async def test_an_id_is_32_lower_case_digits(node: Running, token_id: str) -> None:
    """Anything else is refused before the database is asked."""
    with pytest.raises(PetsemError) as error:
        await node.revoke(token_id)
    assert error.value.code is INVALID


async def test_a_listing_tells_what_still_works(node: Running) -> None:
    """A token whose parent was revoked is not shown as live; the cluster's tokens have a list of
    their own."""
    parent = await node.mint(f"action in {', '.join(ORG_ACTIONS)}", life_s=100)
    child = await node.mint("action = secrets:read", token=parent.token)
    grandparentless = await node.mint("action = secrets:read", life_s=10)
    await node.revoke(parent.id)
    node.clock.advance(10)
    at = rfc3339(node.clock.unix_ms() - 10_000)
    states = {i: (info.state, info.revoked_at) for i, info in listed(node).items()}
    assert states == {
        parent.id: ("revoked", at),
        child.id: ("revoked", at),
        grandparentless.id: ("expired", None),
    }
    assert set(listed(node, None)) == {id_of(node.operator)}


async def test_pages_of_a_listing_miss_nothing(node: Running) -> None:
    """Tokens made in the same millisecond are parted between pages without loss."""
    made = {(await node.mint("action = secrets:read")).id for _ in range(7)}
    found: list[str] = []
    after: str | None = None
    while True:
        page = node.node.tokens.list("acme", after, 2)
        found += [info.id for info in page.tokens]
        after = page.next
        if after is None:
            break
    assert len(found) == len(set(found)) == 7
    assert set(found) == made


@pytest.mark.parametrize(
    "after", ["", "x", "1.2", "²." + "0" * 32, "9" * 40 + "." + "0" * 32, "-1."]
)
async def test_a_page_is_asked_for_by_what_was_given(node: Running, after: str) -> None:
    """A made-up `after` is refused, not guessed at."""
    with pytest.raises(PetsemError) as error:
        node.node.tokens.list("acme", after, 2)
    assert error.value.code is INVALID


async def test_rotating_a_root_key(node: Running) -> None:
    """New tokens are of the new key, and those of the old one work until their time."""
    old = await node.reader()
    before, _ = node.root_secret("acme")
    principal = node.principal(policy.ORGS_ADMIN, Names("acme"))
    rotated = await node.node.tokens.rotate_root_key(principal, call(key="k"), "acme")
    after, _ = node.root_secret("acme")
    assert (rotated.key_id, rotated.retired) == (after.hex(), [before.hex()])
    assert await node.node.tokens.rotate_root_key(principal, call(key="k"), "acme") == rotated
    new = await node.reader()
    for token, key_id in ((old, before), (new, after)):
        found = node.principal(policy.SECRETS_READ, WEB, token)
        assert found.token.root_key == key_id


async def test_no_answer_but_the_mint_has_a_token_in_it(node: Running) -> None:
    """Neither listings, nor revocations, nor reprs of what goes around give a credential away."""
    minted = await node.mint("action = secrets:read", key="k1")
    signature = parse_token(minted.token).root.signature
    revoked = await node.revoke(minted.id)
    shown = f"{listed(node)!r} {revoked!r} {Request(minted.token, None)!r}"
    shown += repr(call("/v1/tokens", minted.token))
    assert minted.token not in shown
    assert signature.hex() not in shown
    assert msgspec.json.encode(revoked).decode().count(minted.id) == 1
