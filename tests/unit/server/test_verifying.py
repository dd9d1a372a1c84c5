"""What a token stands for: issued or not, revoked, in time, and of an org that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from petsem.crypto.aead import random_bytes
from petsem.crypto.keys import random_id
from petsem.errors import PetsemError
from petsem.model import Kind, Role
from petsem.server import policy, sql
from petsem.server.principal import Names, Principal, Request
from petsem.server.service.batches import check_batch
from petsem.server.service.writes import Call
from petsem.tokens.mint import ThirdParty
from petsem.tokens.text import parse_token
from petsem.wire import http
from tests.support.nodes import Running, id_of, narrowed, refusal, running
from tests.unit.server.thief import DENIED, UNAUTHENTICATED, Thief, ask, key_of


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


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
