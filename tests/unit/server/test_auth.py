"""Authority: what a token is worth, whatever its holder writes into it."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem.crypto.keys import random_id
from petsem.errors import PetsemError
from petsem.model import Kind
from petsem.server import policy
from petsem.server.principal import Names
from petsem.tokens.macaroon import Caveat, Macaroon
from petsem.tokens.text import encode_token, parse_token
from tests.support.nodes import REGION, Running, id_of, narrowed, running
from tests.unit.server.thief import DENIED, WEB, Thief, ask

ALL_RULES = [rule for rule in policy.HTTP.values() if rule is not None]

CLUSTER_RULES = [policy.ORGS_ADMIN, policy.NODES_READ, policy.NODES_ADMIN]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


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
    """A request that names no org needs the cluster key; who has another is told to name one."""
    token = await node.org_token()
    with pytest.raises(PetsemError, match=r"no org was named; name its org, as with --org ORG"):
        node.principal(policy.TOKENS_LIST, Names(), token)
    assert ask(node, token, policy.TOKENS_LIST, Names()) == (DENIED, "WRONG_ORG", None)
    assert ask(node, node.operator, policy.TOKENS_LIST, Names()) == "allowed"


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
