"""Authority: what a token is worth, whatever its holder writes into it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from petsem.crypto.aead import random_bytes
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, random_id
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Role
from petsem.server import auth as auth_module
from petsem.server import policy, sql
from petsem.server.auth import Names, Principal, Request
from petsem.server.policy import Rule
from petsem.server.service.secrets import check_batch
from petsem.server.service.writes import Call
from petsem.server.store import orgs
from petsem.server.store.tokens import TokenRow, insert
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Caveat, Macaroon
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.text import encode_token, parse_token
from petsem.wire import http
from tests.support.nodes import (
    REGION,
    Running,
    Site,
    id_of,
    narrowed,
    outcome,
    refusal,
    running,
)

WEB = Names("acme", "web", filterable=True)
ALL_RULES = [rule for rule in policy.HTTP.values() if rule is not None]
CLUSTER_RULES = [policy.ORGS_ADMIN, policy.NODES_READ, policy.NODES_ADMIN]
UNAUTHENTICATED, DENIED = Code.UNAUTHENTICATED, Code.DENIED


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


class Thief:
    """Somebody who stole an org's root key (or the cluster's), and signs what he likes."""

    def __init__(self, node: Running, org: str | None) -> None:
        self.node = node
        self.org = org
        self.key_id, self.secret = node.root_secret(org)

    def sign(
        self,
        *caveats: str,
        nonce: bytes | None = None,
        kind: Kind = Kind.ORG,
        cluster_id: bytes | None = None,
        key_id: bytes | None = None,
        third_party: tuple[ThirdParty, ...] = (),
    ) -> str:
        identifier = Identifier(
            cluster_id or self.node.site.cluster_id,
            kind,
            key_id or self.key_id,
            nonce or random_id(),
            1,
            1,
        )
        return encode_token(mint(self.secret, identifier, caveats, third_party))

    async def issue(self, nonce: bytes, *caveats: str, kind: Kind = Kind.ORG) -> None:
        """What only the leader can do: write the row of an issued token, good for an hour."""
        now_ms = self.node.clock.unix_ms()

        def row(org: int | None) -> TokenRow:
            return TokenRow(
                nonce, org, self.key_id, kind, f"{kind.text}:{nonce.hex()}", None, 0,
                msgspec.json.encode(caveats).decode(), None, now_ms, "test", now_ms + 3_600_000,
                1, 1,
            )  # fmt: skip

        await self.node.node.writer.submit(
            lambda txn: insert(
                txn.db, row(None if self.org is None else orgs.get_org(txn.db, self.org).id)
            )
        )


def ask(
    node: Running,
    token: str | None,
    rule: Rule = policy.SECRETS_READ,
    names: Names = WEB,
    ip: str | None = None,
) -> str | tuple[Code, str | None, str | None]:
    """`allowed`, or the refusal."""

    def authorize() -> str:
        with node.node.pool.reading() as db:
            node.node.auth.authorize(db, Request(token, ip), rule, names)
        return "allowed"

    return outcome(authorize)


# Authority comes from the root key's row


async def test_the_cluster_key_allows_everything_in_every_org(node: Running) -> None:
    """The operator's token clears each rule of the policy, in orgs that do not exist too."""
    for rule in ALL_RULES:
        for org in ("acme", "nowhere"):
            assert ask(node, node.operator, rule, Names(org, "web", filterable=True)) == "allowed"


async def test_an_orgs_key_acts_in_its_org_only_whatever_its_caveats_say(node: Running) -> None:
    """An issued token of acme's key with no limiting caveat at all is still acme's: not another
    org's, not the cluster's."""
    await node.furnish("beta")
    thief, nonce = Thief(node, "acme"), random_id()
    await thief.issue(nonce)
    for token in (thief.sign(nonce=nonce), narrowed(thief.sign(nonce=nonce), "org = beta")):
        assert ask(node, token, names=Names("beta", "web", filterable=True)) == (
            DENIED, "WRONG_ORG", None,
        )  # fmt: skip
        for rule in CLUSTER_RULES:
            for names in (Names(), WEB):
                assert ask(node, token, rule, names) == (DENIED, "WRONG_ORG", None)
    for rule in ALL_RULES:
        if not rule.cluster_only:
            assert ask(node, thief.sign(nonce=nonce), rule) == "allowed"


async def test_a_route_without_an_org_is_not_an_orgs(node: Running) -> None:
    """A request that names no org needs the cluster key."""
    token = await node.org_token()
    assert ask(node, token, policy.TOKENS_LIST, Names()) == (DENIED, "WRONG_ORG", None)
    assert ask(node, node.operator, policy.TOKENS_LIST, Names()) == "allowed"


async def test_a_root_key_moved_to_another_row_opens_nothing(node: Running) -> None:
    """Whoever can write to the disk makes of acme's key neither beta's nor the cluster's, while
    the key is known in memory or after a restart."""
    await node.furnish("beta")
    token = await node.reader()
    assert ask(node, token) == "allowed"
    rowid = node.rows("SELECT id FROM orgs WHERE name = 'beta'")[0][0]
    for org in (rowid, None):
        await node.tamper("UPDATE root_keys SET is_primary = 0")
        await node.tamper("UPDATE root_keys SET org = ? WHERE id = ?", org, key_of(token))
        found = ask(node, token)
        assert isinstance(found, tuple)
        assert found[0] is Code.CORRUPT


def key_of(token: str) -> bytes:
    """The root key's id that a token names."""
    return Identifier.parse(parse_token(token).root.identifier).root_key_id


# A token counts only if it was issued


async def test_a_stolen_root_key_forges_nothing(node: Running) -> None:
    """A token with a perfect signature and a nonce that was never issued is refused, with an org's
    key and with the cluster's."""
    for org in ("acme", None):
        thief = Thief(node, org)
        assert ask(node, thief.sign()) == (UNAUTHENTICATED, "NOT_ISSUED", None)
        assert ask(node, thief.sign("action = secrets:read")) == (
            UNAUTHENTICATED, "NOT_ISSUED", None,
        )  # fmt: skip


async def test_a_stolen_root_key_widens_no_token_that_was_issued(node: Running) -> None:
    """Ids of tokens are no secret: with the key, somebody who saw one signs it again without its
    caveats, with others, or as another kind. None of these was issued."""
    minted = await node.mint("action = secrets:list", "app = api")
    thief, nonce = Thief(node, "acme"), bytes.fromhex(minted.id)
    issued = node.rows("SELECT caveats FROM tokens WHERE nonce = ?", nonce)[0][0]
    caveats = msgspec.json.decode(issued)
    for forged in (
        thief.sign(nonce=nonce),
        thief.sign(*caveats[:-1], nonce=nonce),
        thief.sign(*caveats[1:], nonce=nonce),
        thief.sign(*reversed(caveats), nonce=nonce),
        thief.sign(*caveats, nonce=nonce, kind=Kind.HOST),
    ):
        assert ask(node, forged) == (UNAUTHENTICATED, "NOT_ISSUED", None)
    assert thief.sign(*caveats, nonce=nonce) != minted.token  # another position
    assert ask(node, narrowed(minted.token, "app = api"), policy.SECRETS_LIST) == (
        DENIED, "CAVEAT", "app = api",
    )  # fmt: skip


async def test_the_key_of_one_org_signs_no_token_of_another(node: Running) -> None:
    """An issued nonce of beta, or of the cluster, under acme's key is not issued, with whichever
    caveats; under beta's id it is not signed."""
    await node.furnish("beta")
    other = await node.mint("action = secrets:read", org="beta")
    thief = Thief(node, "acme")
    nonce = bytes.fromhex(other.id)
    assert ask(node, thief.sign(nonce=nonce)) == (UNAUTHENTICATED, "NOT_ISSUED", None)
    for token, kind in ((other.token, Kind.ORG), (node.operator, Kind.OPERATOR)):
        root = parse_token(token).root
        caveats = [caveat.cid.decode() for caveat in root.caveats]
        forged = thief.sign(*caveats, nonce=bytes.fromhex(id_of(token)), kind=kind)
        assert ask(node, forged) == (UNAUTHENTICATED, "NOT_ISSUED", None)
    forged = thief.sign(nonce=nonce, key_id=key_of(other.token))
    assert ask(node, forged) == (UNAUTHENTICATED, "BAD_SIGNATURE", None)


async def test_every_way_to_be_unknown(node: Running) -> None:
    """No token, nonsense, a truncated paste, another cluster's, an unknown key: each its reason."""
    token, thief = await node.reader(), Thief(node, "acme")
    found = {
        "none": ask(node, None),
        "empty": ask(node, ""),
        "nonsense": ask(node, "petsem-nonsense"),
        "cut": ask(node, token[:-1]),
        "cluster": ask(node, thief.sign(cluster_id=random_bytes(16))),
        "key": ask(node, thief.sign(key_id=random_bytes(16))),
    }
    assert found == {
        "none": (UNAUTHENTICATED, None, None),
        "empty": (UNAUTHENTICATED, None, None),
        "nonsense": (UNAUTHENTICATED, "MALFORMED", None),
        "cut": (UNAUTHENTICATED, "TRUNCATED", None),
        "cluster": (UNAUTHENTICATED, "WRONG_CLUSTER", None),
        "key": (UNAUTHENTICATED, "UNKNOWN_KEY", None),
    }


async def test_a_third_party_caveat_without_its_discharge(node: Running) -> None:
    """A token that somebody else must vouch for counts only with his discharge."""
    thief, nonce = Thief(node, "acme"), random_id()
    await thief.issue(nonce)
    asked = ThirdParty("sso", random_bytes(32), b"ticket")
    token = thief.sign(nonce=nonce, third_party=(asked,))
    assert ask(node, token) == (UNAUTHENTICATED, "DISCHARGE_MISSING", None)


# Revocation


async def test_revoking_kills_what_was_attenuated_and_what_was_minted_on_it(node: Running) -> None:
    """A child and a grandchild end with the token they come from; its siblings do not."""
    parent = await node.org_token()
    child = await node.org_token(token=parent)
    grandchild = await node.reader(token=child)
    sibling = await node.reader()
    family = [parent, narrowed(parent, "app = web"), child, grandchild]
    assert [ask(node, each) for each in (*family, sibling)] == ["allowed"] * 5
    await node.revoke(id_of(parent))
    revoked = (DENIED, "REVOKED", None)
    assert [ask(node, each) for each in family] == [revoked] * 4
    assert ask(node, sibling) == "allowed"


@pytest.mark.parametrize("generation", range(9))
async def test_revocation_reaches_through_the_longest_chain(node: Running, generation: int) -> None:
    """Whichever ancestor is revoked, the ninth in a chain of mints has lost its authority."""
    chain = [node.operator]
    for _ in range(8):
        chain.append(await node.org_token(token=chain[-1]))
    assert ask(node, chain[-1]) == "allowed"
    await node.revoke(id_of(chain[generation]), "acme" if generation else None, node.operator)
    found = [ask(node, each) for each in chain]
    assert found == ["allowed"] * generation + [(DENIED, "REVOKED", None)] * (9 - generation)


async def test_a_revocation_is_looked_up_each_time(node: Running) -> None:
    """One that another process wrote, without a word to this one, counts at the next request."""
    token = await node.reader()
    assert ask(node, token) == "allowed"
    await node.tamper(
        "INSERT INTO revocations SELECT nonce, org, 0, 's', x'', 1, 1 FROM tokens WHERE nonce = ?",
        bytes.fromhex(id_of(token)),
    )
    assert ask(node, token) == (DENIED, "REVOKED", None)


@pytest.mark.parametrize("end", ["revoke", "parent", "expire", "delete", "follow"])
async def test_what_is_recalled_ends_with_the_token(node: Running, end: str) -> None:
    """A write's token that was verified a moment ago is not asked for again, unless something was
    committed since that takes authority away, time has run out, or this node leads no more."""
    parent = await node.org_token()
    token = await node.org_token(token=parent, life_s=5)
    request = Request(token, None)
    auth = node.node.auth
    assert auth.recall(request) is None
    with node.node.pool.reading() as db:
        # The first time its signatures are remembered, the second time what the rows say.
        assert auth.identify(db, request) == (verified := auth.identify(db, request))
    await node.furnish("other")
    assert auth.recall(request) is verified
    assert auth.recall(Request(narrowed(token, "app = web"), None)) is None
    if end in ("revoke", "parent"):
        await node.revoke(id_of(token if end == "revoke" else parent))
    elif end == "expire":
        node.clock.advance(5)
    elif end == "delete":
        await node.delete_org()
    else:
        node.node.view.role = Role.REPLICA
    assert auth.recall(request) is None


async def test_a_write_that_was_authorised_is_held_against_what_came_before_it(
    node: Running,
) -> None:
    """A token revoked, expired or with its org deleted between the check and the transaction
    writes nothing."""
    for end in ("revoke", "parent", "expire", "delete"):
        parent = await node.org_token(life_s=5)
        token = await node.org_token(token=parent, life_s=60)
        principal = node.principal(
            policy.SECRETS_WRITE, Names("acme", "web", secrets=("A",)), token
        )
        if end in ("revoke", "parent"):
            await node.revoke(id_of(token if end == "revoke" else parent))
            expected = (DENIED, "REVOKED", None)
        elif end == "expire":
            node.clock.advance(60)
            expected = (UNAUTHENTICATED, "EXPIRED", None)
        else:
            await node.delete_org()
            expected = (DENIED, "REVOKED", None)
        assert await written(node, principal) == expected, end


async def test_a_write_in_the_group_of_its_revocation_comes_too_late(node: Running) -> None:
    """When both wait for the same COMMIT, the order in which they were asked for decides."""
    token = await node.org_token()
    names = Names("acme", "web", secrets=("A",))
    principal = node.principal(policy.SECRETS_WRITE, names, token)
    first, _, last = await asyncio.gather(
        written(node, principal), node.revoke(id_of(token)), written(node, principal)
    )
    assert (first, last) == ("written", (DENIED, "REVOKED", None))


async def written(node: Running, principal: Principal) -> object:
    """`written`, or why not."""
    batch = check_batch(http.SecretsPatch(set={"A": "x"}))
    try:
        await node.node.secrets.patch(principal, Call("PATCH", "/", b""), "acme", "web", batch)
    except PetsemError as e:
        return refusal(e)
    return "written"


# Time


async def test_a_token_ends_with_its_row_and_with_each_time_caveat(node: Running) -> None:
    """At the second itself it has expired; a holder's earlier time counts, a later one does not;
    before `time >=` it is not valid yet."""
    token = await node.reader(life_s=100)
    caveat = node.time_in(10)
    early, late = narrowed(token, caveat), narrowed(token, node.time_in(1000))
    later = narrowed(token, node.time_in(50).replace("<", ">="))
    assert [ask(node, t) for t in (token, early, late)] == ["allowed"] * 3
    assert ask(node, later) == (
        UNAUTHENTICATED, "NOT_YET_VALID", node.time_in(50).replace("<", ">="),
    )  # fmt: skip
    node.clock.advance(10)
    assert ask(node, early) == (UNAUTHENTICATED, "EXPIRED", caveat)
    node.clock.advance(40)
    assert ask(node, later) == "allowed"
    node.clock.advance(49.999)
    assert ask(node, late) == "allowed"
    node.clock.advance(0.001)
    assert [ask(node, t) for t in (token, late, later)] == [(UNAUTHENTICATED, "EXPIRED", None)] * 3


async def test_the_row_ends_a_token_whose_caveats_do_not(node: Running) -> None:
    """No token lives for ever: the issued row's time counts without any caveat."""
    thief, nonce = Thief(node, "acme"), random_id()
    await thief.issue(nonce)
    assert ask(node, thief.sign(nonce=nonce)) == "allowed"
    node.clock.advance(3600)
    assert ask(node, thief.sign(nonce=nonce)) == (UNAUTHENTICATED, "EXPIRED", None)


# What the server sets, and what a holder adds


@pytest.mark.parametrize(
    ("caveat", "allowed"),
    [
        ("org = acme", True),
        ("org in beta, acme", True),
        ("org = beta", False),
        ("app = web", True),
        ("app = api", False),
        ("machine = m1", True),
        ("machine = m2", False),
        ("action in secrets:list, secrets:read", True),
        ("action = secrets:list", False),
        (f"region = {REGION}", True),
        ("region = fra", False),
        ("ip = 192.0.2.7", True),
        ("ip in 198.51.100.0/24, 192.0.2.0/24", True),
        ("ip = 192.0.2.8", False),
        ("user = a@example.com", False),
        ("color = blue", False),
        ("secret = A", True),
    ],
)
async def test_a_caveat_is_held_against_what_the_server_knows(
    node: Running, caveat: str, allowed: bool
) -> None:
    """Names of the request, the action of the route, the node's region, the peer's address: and
    an attribute that nobody set denies."""
    token = narrowed(await node.reader(), caveat)
    names = Names("acme", "web", "m1", None, filterable=True)
    expected = "allowed" if allowed else (DENIED, "CAVEAT", caveat)
    assert ask(node, token, names=names, ip="192.0.2.7") == expected


@pytest.mark.parametrize("caveat", ["app = web", "machine = m1", "ip in 0.0.0.0/0", "secret = *"])
async def test_what_the_request_does_not_say_denies(node: Running, caveat: str) -> None:
    """A caveat on something that this request does not name is not met by its absence."""
    token = narrowed(await node.org_token(), caveat)
    assert ask(node, token, policy.TOKENS_LIST, Names("acme")) == (DENIED, "CAVEAT", caveat)


async def test_secret_caveats_filter_reads_and_bound_writes(node: Running) -> None:
    """What may leave names out is filtered by all such caveats together; a write needs every name;
    what names none is denied."""
    token = narrowed(await node.org_token(), "secret in A, DB_*", "secret in DB_*, Z")
    principal = node.principal(policy.SECRETS_READ, WEB, token)
    assert principal.filter is not None
    assert [n for n in ("A", "DB_URL", "DB_", "Z", "dB_") if principal.filter.admits(n)] == [
        "DB_URL",
        "DB_",
    ]
    writes = {
        names: Names("acme", "web", secrets=names) for names in (("DB_A", "DB_B"), ("DB_A", "A"))
    }
    assert ask(node, token, policy.SECRETS_WRITE, writes["DB_A", "DB_B"]) == "allowed"
    assert ask(node, token, policy.SECRETS_WRITE, writes["DB_A", "A"]) == (
        DENIED, "CAVEAT", "secret in DB_*, Z",
    )  # fmt: skip
    denied = (DENIED, "CAVEAT", "secret in A, DB_*")
    assert ask(node, token, policy.SECRETS_WRITE, Names("acme", "web")) == denied
    assert ask(node, token, policy.SECRETS_WRITE, Names("acme", "web", secrets=())) == denied


async def test_a_user_caveat_restricts_an_identity_and_is_none(node: Running) -> None:
    """Only the issued row says who somebody is: what a holder adds can deny and never name."""
    thief, nonce = Thief(node, "acme"), random_id()
    await thief.issue(nonce, kind=Kind.PERSON)
    await node.tamper("UPDATE tokens SET subject = 'person:a@example.com' WHERE nonce = ?", nonce)
    person = thief.sign(nonce=nonce, kind=Kind.PERSON)
    assert ask(node, narrowed(person, "user = a@example.com")) == "allowed"
    caveat = "user = b@example.com"
    assert ask(node, narrowed(person, caveat)) == (DENIED, "CAVEAT", caveat)
    host = await node.reader()
    subject = f"org:{id_of(host)}"
    assert node.principal(policy.SECRETS_READ, WEB, host).token.subject == subject
    assert ask(node, narrowed(host, "user = a@example.com"))[0] is DENIED
    assert ask(node, narrowed(host, f"user = {subject}"))[0] is DENIED


async def test_a_caveat_outside_the_grammar_denies(node: Running) -> None:
    """A token may come with caveats that this version does not know; each of them denies."""
    root = parse_token(await node.reader()).root
    for text in (b"app=web", b"app > web", b"\xff\xfe", b"time < tomorrow", b"app in web,api"):
        signature = hmac.digest(root.signature, text, "sha256")
        token = Macaroon(root.location, root.identifier, (*root.caveats, Caveat(text)), signature)
        found = ask(node, encode_token(token))
        assert found[:2] == (DENIED, "CAVEAT"), text


async def test_a_stranger_cannot_tell_absent_from_forbidden(node: Running) -> None:
    """The same refusal for an org or app that exists and for one that does not."""
    await node.furnish("beta")
    token = await node.reader("app = api")
    for exists, not_there in ((("beta", "web"), ("gone", "web")), (("acme", "web"), ("acme", "x"))):
        found = [
            ask(node, token, names=Names(*names, filterable=True)) for names in (exists, not_there)
        ]
        assert found[0] == found[1]
        assert found[0][0] is DENIED


# Deleted orgs, missing and damaged keys


async def test_tokens_of_a_deleted_org_are_unknown_until_it_is_undeleted(node: Running) -> None:
    """A soft deletion takes all authority away at once, and undelete gives it back."""
    token = await node.reader()
    await node.delete_org()
    assert ask(node, token) == (UNAUTHENTICATED, "UNKNOWN_KEY", None)
    principal = node.principal(policy.ORGS_ADMIN, Names("acme"))
    await node.node.orgs.undelete_org(principal, Call("POST", "/u", b""), "acme")
    assert ask(node, token) == "allowed"
    await node.delete_org(now=True)
    await node.furnish()
    assert ask(node, token) == (UNAUTHENTICATED, "UNKNOWN_KEY", None)


async def test_a_node_without_the_key_says_which(tmp_path: Path) -> None:
    """A node that cannot authenticate an org's tokens says so, and goes on with operators'."""
    site = Site(tmp_path / "node")
    async with site.running() as node:
        await node.furnish()
        token = await node.reader()
    path = site.datadir.default_keyring
    keyring = Keyring.parse(path.read_bytes())
    lacking = Keyring()
    for purpose in (Purpose.CLUSTER, Purpose.SECRETS):
        key = keyring.get(purpose, keyring.ids(purpose)[0])
        assert key is not None
        lacking = lacking.with_key(purpose, key)
    path.write_bytes(lacking.encode())
    async with site.running() as node:
        assert ask(node, node.operator) == "allowed"
        with pytest.raises(PetsemError) as refused:
            node.principal(policy.SECRETS_READ, WEB, token)
    assert refused.value.code is Code.UNAVAILABLE
    assert keyring.ids(Purpose.TOKENS)[0].hex() in refused.value.message


async def test_a_damaged_root_key_is_corrupt_and_names_it(tmp_path: Path) -> None:
    """One org's damaged key refuses its tokens and nobody else's."""
    site = Site(tmp_path / "node")
    async with site.running() as node:
        await node.furnish()
        await node.furnish("beta")
        token, other = await node.reader(), await node.reader(org="beta")
        key_id = key_of(token)
    envelope = site.offline("SELECT envelope FROM root_keys WHERE id = ?", key_id)[0][0]
    flipped = envelope[:-1] + bytes((envelope[-1] ^ 1,))
    site.offline("UPDATE root_keys SET envelope = ? WHERE id = ?", flipped, key_id)
    async with site.running() as node:
        with pytest.raises(PetsemError) as refused:
            node.principal(policy.SECRETS_READ, WEB, token)
        assert refused.value.code is Code.CORRUPT
        assert key_id.hex() in refused.value.message
        assert ask(node, other, names=Names("beta", "web", filterable=True)) == "allowed"


async def test_what_is_remembered_is_bounded_and_shows_no_token(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many root keys verify, only so many are held; no repr spells a token or a key."""
    monkeypatch.setattr(auth_module, "_ROOT_KEYS_MAX", 2)
    tokens = []
    for org in ("b1", "b2", "b3"):
        await node.furnish(org)
        tokens.append(await node.reader(org=org))
    for org, token in zip(("b1", "b2", "b3"), tokens, strict=True):
        assert ask(node, token, names=Names(org, "web", filterable=True)) == "allowed"
    assert len(node.node.auth._derived) <= 2
    request = Request(tokens[0], "192.0.2.7")
    with node.node.pool.reading() as db:
        principal = node.node.auth.authorize(
            db, request, policy.SECRETS_READ, Names("b1", "web", filterable=True)
        )
    assert tokens[0] not in f"{request!r} {principal!r} {node.node.auth!r}"


async def test_the_rows_vanish_under_a_valid_token(node: Running) -> None:
    """A token whose row is gone was, as far as this node can know, never issued."""
    token = await node.reader()
    assert ask(node, token) == "allowed"
    await node.node.writer.submit(
        lambda txn: sql.run(
            txn.db, "DELETE FROM tokens WHERE nonce = ?", (bytes.fromhex(id_of(token)),)
        )
    )
    assert ask(node, token) == (UNAUTHENTICATED, "NOT_ISSUED", None)
