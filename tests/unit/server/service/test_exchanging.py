"""Exchange: a service token never holds more, or lives longer, than what it was exchanged for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.server import policy
from petsem.server.host_key import given
from petsem.server.principal import Names, Request
from petsem.server.service.boot import Fetch
from petsem.tokens.text import parse_token
from petsem.wire import http
from tests.support import people
from tests.support.following import follow
from tests.support.nodes import Running, call, id_of, narrowed, refusal, running

DENIED, INVALID, UNAUTHENTICATED = Code.DENIED, Code.INVALID, Code.UNAUTHENTICATED
HOST, OTHER = "a" * 64, "b" * 64
ASKER = "action in tokens:exchange, secrets:read, secrets:list"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        await node.patch({"A": "alpha"})
        yield node


async def exchange(
    node: Running,
    token: str,
    *,
    shown: str | None = None,
    key: str | None = None,
    **asked: Any,
) -> http.Exchanged:
    """As the route does it, from a client that shows a certificate of the key `shown`."""
    body = msgspec.convert(
        {"org": "acme", "app": "web", "machine": "m1", "actions": ["secrets:read"], **asked},
        http.Exchange,
    )
    request = Request(token, "192.0.2.7", host_key=given(shown or ""))
    names = Names(body.org, body.app, body.machine)
    with node.node.pool.reading() as db:
        principal = node.node.auth.authorize(db, request, policy.TOKENS_EXCHANGE, names)
    made = call("/v1/tokens/exchange", asked, key)
    return await node.node.exchanging.exchange(principal, made, body)


async def refused(node: Running, token: str, **asked: Any) -> tuple[Code, str | None, str | None]:
    with pytest.raises(PetsemError) as error:
        await exchange(node, token, **asked)
    return refusal(error.value)


async def reads(node: Running, token: str, *, shown: str | None = HOST, **asked: str) -> object:
    """What a fetch with the token says, twice: the second time it is a token seen before."""
    machine, app = asked.get("machine", "m1"), asked.get("app", "web")
    request = Request(token, "192.0.2.7", host_key=given(shown or ""))
    found = []
    for _ in range(2):
        try:
            await node.node.boot.fetch(request, machine, Fetch("acme", app))
            found.append("read")
        except PetsemError as error:
            found.append(str(error.detail.caveat or error.detail.reason))
    assert found[0] == found[1]
    return found[0]


def caveats_of(token: str) -> list[str]:
    return [c.cid.decode() for c in parse_token(token).root.caveats]


async def test_what_is_made(node: Running) -> None:
    """A token of kind service, bound to org, app, machine and host key, with the asker's caveats
    but for time and user, as a child of the asker's."""
    asker = narrowed((await node.mint(ASKER, "ip = 192.0.2.0/24")).token, "region = ams")
    made = await exchange(node, asker, host_key=HOST, ttl_s=600)
    until = rfc3339(node.clock.unix_ms() + 600_000)
    assert caveats_of(made.token) == [
        *("org = acme", "app = web", "machine = m1", f"host_key = {HOST}"),
        *("action in secrets:read, tokens:exchange", f"time < {until}"),
        *(ASKER, "ip = 192.0.2.0/24", "region = ams"),
    ]
    assert (made.expires_at, made.renew_until) == (
        until,
        rfc3339(node.clock.unix_ms() + 3_600_000),
    )
    rows = node.rows(
        "SELECT kind, subject, lower(hex(parent)), depth FROM tokens WHERE nonce = unhex(?)",
        made.id,
    )
    depth = node.rows("SELECT depth FROM tokens WHERE nonce = unhex(?)", id_of(asker))[0][0]
    assert rows == [(6, f"service:{made.id}", id_of(asker), depth + 1)]


async def test_where_it_is_good(node: Running) -> None:
    """It reads with the host's key for its app and machine; without that key, nothing."""
    await node.create_app(app="api")
    made = await exchange(node, (await node.mint(ASKER)).token, host_key=HOST)
    assert await reads(node, made.token) == "read"
    key = f"host_key = {HOST}"
    assert await reads(node, made.token, shown=None) == key
    assert await reads(node, made.token, shown=OTHER) == key
    assert await reads(node, made.token, machine="m2") == "machine = m1"
    assert await reads(node, made.token, machine="") == "machine = m1"
    assert await reads(node, made.token, app="api") == "app = web"


async def test_in_verify_the_api_server_says_whose_key(node: Running) -> None:
    """It is an attribute of the access like others, and absent denies."""
    made = await exchange(node, (await node.mint(ASKER)).token, host_key=HOST)
    access = {"app": "web", "machine": "m1"}
    assert node.verdict(made.token, host_key=HOST, **access).allowed
    assert not node.verdict(made.token, host_key=OTHER, **access).allowed
    assert not node.verdict(made.token, **access).allowed


async def test_the_host_s_key(node: Running) -> None:
    """It is the certificate's where there is one, which a body cannot change, else the body's."""
    asker = (await node.mint(ASKER)).token
    for asked in ({"host_key": HOST}, {"shown": HOST}, {"host_key": HOST, "shown": HOST}):
        made = await exchange(node, asker, **asked)
        assert f"host_key = {HOST}" in caveats_of(made.token)
    for wrong in (
        {},
        {"host_key": OTHER, "shown": HOST},
        {"host_key": "A" * 64},
        {"host_key": "a, " + "b" * 61},
    ):
        assert await refused(node, asker, **wrong) == (INVALID, None, None)


async def test_no_more_than_the_asker_s(node: Running) -> None:
    """Each action must be one that he clears for exactly that app and machine, and the org's."""
    asker = (await node.mint(ASKER, "app = web", "machine = m1")).token
    got = await refused(node, asker, host_key=HOST, actions=["secrets:read", "secrets:write"])
    assert got == (DENIED, "CAVEAT", ASKER)
    got = await refused(node, asker, host_key=HOST, machine="m2")
    assert got == (DENIED, "CAVEAT", "machine = m1")
    got = await refused(node, asker, host_key=HOST, app="api")
    assert got == (DENIED, "CAVEAT", "app = web")
    wide = (await node.mint("action in tokens:exchange, nodes:admin", org=None)).token
    got = await refused(node, wide, host_key=HOST, actions=["nodes:admin"])
    assert got == (DENIED, "CAVEAT", None)
    without = (await node.mint("action = secrets:read")).token
    assert (await refused(node, without, host_key=HOST))[0] is DENIED


async def test_another_org(node: Running) -> None:
    """An org's token makes none for another; an operator's makes one of the org's own key."""
    await node.furnish("umbrella")
    other = (await node.mint(ASKER, org="umbrella")).token
    assert await refused(node, other, host_key=HOST) == (DENIED, "WRONG_ORG", None)
    of_cluster = (await node.mint(ASKER, org=None)).token
    made = await exchange(node, of_cluster, host_key=HOST)
    assert await reads(node, made.token) == "read"
    assert node.verdict(made.token, org="umbrella").reason == "WRONG_ORG"


@pytest.mark.parametrize(
    "asked",
    [
        *({"ttl_s": 59}, {"ttl_s": 3_601}, {"ttl_s": 0}, {"actions": []}),
        *({"actions": ["a:b"] * 33}, {"host_key": "ab"}, {"machine": ""}),
    ],
    ids=str,
)
async def test_bounds(node: Running, asked: dict[str, Any]) -> None:
    """A life of a minute to an hour, at least one action and not many, a whole key."""
    with pytest.raises(msgspec.ValidationError):
        await exchange(node, node.operator, **{"host_key": HOST, **asked})


async def test_never_beyond_the_one_behind_it(node: Running) -> None:
    """It ends with the asker's token, and is not made when that ends now."""
    asker = (await node.mint(ASKER, life_s=100)).token
    made = await exchange(node, asker, host_key=HOST, ttl_s=3_600)
    assert made.expires_at == rfc3339(node.clock.unix_ms() + 100_000)
    node.clock.advance(99.5)
    assert await refused(node, asker, host_key=HOST) == (INVALID, None, None)


async def test_the_end_of_the_one_behind_it(node: Running) -> None:
    """Revoking the asker's token ends the child and its successors, at a read and in verify, and
    lists them in the feed; neither can be renewed."""
    asker = (await node.mint(ASKER)).token
    made = await exchange(node, asker, host_key=HOST)
    later = await exchange(node, made.token, shown=HOST)
    position = node.node.writer.position
    await node.revoke(id_of(asker))
    for token in (made.token, later.token):
        assert await reads(node, token) == "REVOKED"
        assert node.verdict(token, app="web", machine="m1", host_key=HOST).reason == "REVOKED"
        assert (await refused(node, token, shown=HOST))[:2] == (DENIED, "REVOKED")
    asking = Request(node.operator, None)
    found, _ = await node.node.verification.revocations(asking, "acme", position, 0)
    assert {row.nonce.hex() for row in found} == {id_of(asker), made.id, later.id}
    follow(node.node)
    assert await reads(node, later.token) == "REVOKED"


async def test_renewal(node: Running) -> None:
    """A successor stands on the first parent, as deep and with as many caveats, however often; it
    needs the host's key, and ends when the first parent does."""
    asker = (await node.mint(ASKER)).token
    first = held = await exchange(node, asker, host_key=HOST)
    for _ in range(12):
        held = await exchange(node, held.token, shown=HOST)
    assert [c for c in caveats_of(held.token) if "time" not in c] == [
        c for c in caveats_of(first.token) if "time" not in c
    ]
    shape = "SELECT parent, depth FROM tokens WHERE nonce = unhex(?)"
    assert node.rows(shape, held.id) == node.rows(shape, first.id)
    assert held.renew_until == first.renew_until
    node.clock.advance(899)
    assert await reads(node, held.token) == "read"
    held = await exchange(node, held.token, shown=HOST, ttl_s=3_600)
    assert held.expires_at == first.renew_until
    for key in (None, OTHER):
        got = await refused(node, held.token, shown=key)
        assert got == (DENIED, "CAVEAT", f"host_key = {HOST}")
    got = await refused(node, held.token, host_key=HOST)
    assert got == (DENIED, "CAVEAT", f"host_key = {HOST}")


async def test_a_renewal_is_no_wider(node: Running) -> None:
    """Other machines, other actions and what is renewed once to less stay out of reach."""
    asker = (await node.mint(ASKER)).token
    made = await exchange(node, asker, host_key=HOST, actions=["secrets:read", "secrets:list"])
    got = await refused(node, made.token, shown=HOST, machine="m2")
    assert got == (DENIED, "CAVEAT", "machine = m1")
    assert (await refused(node, made.token, shown=HOST, actions=["secrets:write"]))[0] is DENIED
    less = await exchange(node, made.token, shown=HOST, actions=["secrets:list"])
    assert (await refused(node, less.token, shown=HOST))[0] is DENIED
    assert await reads(node, less.token) == "action in secrets:list, tokens:exchange"


async def test_one_that_cannot_be_renewed(node: Running) -> None:
    """With renewable off it holds no tokens:exchange, which is never asked for as an action."""
    asker = (await node.mint(ASKER)).token
    made = await exchange(node, asker, host_key=HOST, renewable=False)
    assert made.renew_until is None
    assert "action = secrets:read" in caveats_of(made.token)
    assert await refused(node, made.token, shown=HOST) == (
        *(DENIED, "CAVEAT", "action = secrets:read"),
    )
    both = ["tokens:exchange", "secrets:read"]
    assert (await refused(node, asker, host_key=HOST, actions=both))[0] is INVALID


async def test_a_revoked_service_token(node: Running) -> None:
    """It cannot renew itself; the successor that it made before stays."""
    made = await exchange(node, (await node.mint(ASKER)).token, host_key=HOST)
    later = await exchange(node, made.token, shown=HOST)
    await node.revoke(made.id)
    assert (await refused(node, made.token, shown=HOST))[:2] == (DENIED, "REVOKED")
    assert await reads(node, later.token) == "read"


async def test_a_service_token_that_was_minted(node: Running) -> None:
    """One that is not bound to the machine and key is a parent like any other: revoking it ends
    what it was exchanged for."""
    minted = (await node.mint(ASKER, kind="service")).token
    made = await exchange(node, minted, host_key=HOST)
    await node.revoke(id_of(minted))
    assert await reads(node, made.token) == "REVOKED"


async def test_again(node: Running) -> None:
    """A repeated call answers with the same token; one with a narrower copy does not get it."""
    asker = (await node.mint(ASKER)).token
    first = await exchange(node, asker, host_key=HOST, key="k")
    node.clock.advance(5)
    assert await exchange(node, asker, host_key=HOST, key="k") == first
    got = await refused(node, narrowed(asker, "region = ams"), host_key=HOST, key="k")
    assert got[0] is Code.CONFLICT


async def test_a_person(node: Running) -> None:
    """A person's token with its discharge is exchanged; without it, not. The service token asks
    nobody to sign in, and ends with the person's token."""
    sso = msgspec.structs.replace(people.SSO, actions=["tokens:exchange", "secrets:read"])
    await people.set_up(node, sso)
    token, made = await people.login(node)
    assert await refused(node, token, host_key=HOST) == (UNAUTHENTICATED, "DISCHARGE_MISSING", None)
    service = await exchange(node, people.bound(token, made), host_key=HOST)
    assert not any(c.startswith("user ") for c in caveats_of(service.token))
    assert await reads(node, service.token) == "read"
    await node.revoke(id_of(token))
    assert await reads(node, service.token) == "REVOKED"


async def test_an_exchange_is_in_the_log(node: Running) -> None:
    """Who asked, with which token, for what, and the id of what was made; no token."""
    asker = await node.mint(ASKER)
    with capture_logs() as logged:
        made = await exchange(node, asker.token, host_key=HOST)
    assert logged == [
        {
            "event": "exchanged",
            "log_level": "info",
            "issued": made.id,
            "asker": f"org:{asker.id}",
            "by": asker.id,
            "org": "acme",
            "app": "web",
            "machine": "m1",
        }
    ]
    with capture_logs() as logged:
        await refused(node, asker.token)
    assert logged == []
