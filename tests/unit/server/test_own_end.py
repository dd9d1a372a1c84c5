"""A token ends itself if it comes whole; whoever has less of it ends nothing, nobody another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from petsem.cli.narrowing import Scope, narrow
from petsem.clock import rfc3339
from petsem.server.api.app import App, create_app
from petsem.server.forward import FORWARDED, Forwarded
from petsem.server.host_key import given
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge
from petsem.tokens.text import encode_part, encode_token, parse_token
from petsem.tokens.ticket import Ticket, discharge, new_caveat_key, seal_ticket
from tests.support import people
from tests.support.nodes import Running, id_of, narrowed, running
from tests.support.people import ALICE, SSO, bound, login, set_up
from tests.unit.tokens.build import required

HOST = "a" * 64
EXCHANGING = msgspec.structs.replace(
    SSO, actions=["secrets:list", "secrets:read", "tokens:exchange"]
)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        await set_up(node, EXCHANGING)
        yield node


async def asked(
    node: Running,
    method: str,
    path: str,
    token: str | None,
    body: Any = None,
    *,
    host_key: str = "",
    ip: str = "192.0.2.7",
) -> httpx.Response:
    """One request through the door, from a client with that key."""
    app: App = create_app(node.node)

    async def shown(scope: Any, receive: Any, send: Any) -> None:
        scope[FORWARDED] = Forwarded(None, 0, given(host_key))
        await app(scope, receive, send)

    transport = httpx.ASGITransport(shown, client=(ip, 50_000))
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        return await client.request(method, path, json=body, headers=headers)


async def end(
    node: Running, token: str | None, token_id: str, org: str = "acme", **of_client: str
) -> tuple[int, str | None]:
    """Status and reason of an attempt to end a token."""
    path = f"/v1/orgs/{org}/tokens/{token_id}"
    answer = await asked(node, "DELETE", path, token, **of_client)
    return answer.status_code, answer.json().get("details", {}).get("reason")


async def exchanged(node: Running, token: str) -> str:
    """A service token on the authority of another."""
    wish = {"org": "acme", "app": "web", "machine": "m1", "actions": ["secrets:read"]}
    answer = await asked(node, "POST", "/v1/tokens/exchange", token, {**wish, "host_key": HOST})
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["token"]
    return found


def live(node: Running, token: str, **access: str) -> bool:
    """Whether a token still stands, as the node says to others."""
    return node.verdict(token, **access).reason != "REVOKED"


async def test_a_person_ends_his_own_token(node: Running) -> None:
    """Without `tokens:revoke`; what was exchanged for it ends too; whose doing it was is kept."""
    token, made = await login(node)
    whole, child = bound(token, made), await exchanged(node, bound(token, made))
    assert "tokens:revoke" not in EXCHANGING.actions
    assert await end(node, whole, id_of(token)) == (200, None)
    assert not live(node, whole)
    assert not live(node, child)
    by = node.rows("SELECT subject, token FROM revocations")
    assert by == [(f"person:{ALICE}", bytes.fromhex(id_of(token)))]
    assert await end(node, whole, id_of(token)) == (403, "REVOKED")


async def test_a_narrower_copy_ends_nothing(node: Running) -> None:
    """Whoever overhears a call has a copy for a minute; narrowed in whatever way, it ends only
    what it may by its actions, which is nothing."""
    token, made = await login(node)
    root = parse_token(token).root
    minute = f"time < {rfc3339(node.clock.unix_ms() + 60_000)}"
    now_ms = node.clock.unix_ms()
    text = f"{token},{encode_part(made)}"
    own_key, own_ticket = new_caveat_key(), b"a ticket of the holder's own"
    with_third = required(root, own_key, own_ticket)
    asking = required(made, own_key, own_ticket)
    own = discharge(own_ticket, own_key, [f"user = {ALICE}", minute])
    copies = {
        "as the command line narrows": narrow(text, Scope(("secrets:list",), "acme"), now_ms),
        "by time alone": narrow(text, Scope(()), now_ms),
        "by what it says already": bound_to(attenuate(root, [root.caveats[0].cid.decode()]), made),
        "by its discharge's time": bound_to(root, attenuate(made, [minute])),
        "by its discharge's action": bound_to(root, attenuate(made, ["action = secrets:list"])),
        "by its discharge's user": bound_to(root, attenuate(made, [f"user = {ALICE}"])),
        "by a third party": bound_to(with_third, made, own),
        "by its discharge's": bound_to(root, asking, own),
    }
    for how, copy in copies.items():
        # Each is a good token: it is not for want of a signature that it ends nothing.
        assert node.verdict(copy, action="secrets:list").allowed, how
        assert await end(node, copy, id_of(token)) == (403, "CAVEAT"), how
    assert live(node, bound(token, made))


async def test_a_copy_that_may_revoke_still_revokes(node: Running) -> None:
    """The action allows no less than before: a narrowed copy with it ends any of its org."""
    other = await node.reader()
    revoker = narrowed(await node.org_token(), "action = tokens:revoke")
    assert await end(node, revoker, id_of(other)) == (200, None)
    assert await end(node, revoker, id_of(revoker)) == (200, None)


async def test_nobody_ends_anothers(node: Running) -> None:
    """A whole token of a sibling, a child that names its parent, a parent that names its child, and
    a stranger's id: each is refused as without this, and tells nobody which ids there are."""
    token, made = await login(node)
    whole = bound(token, made)
    other, others = await login(node, "bob@example.com")
    child = await exchanged(node, whole)
    for sent, token_id, host_key in (
        (whole, id_of(other), ""),
        (whole, id_of(child), ""),
        (child, id_of(token), HOST),
        (whole, "0" * 32, ""),
        (whole, id_of(token).upper(), ""),
    ):
        assert await end(node, sent, token_id, host_key=host_key) == (403, "CAVEAT")
    assert await end(node, None, id_of(token)) == (401, None)
    await node.furnish("beta")
    assert await end(node, whole, id_of(token), "beta") == (403, "WRONG_ORG")
    for each in (whole, bound(other, others), child):
        assert live(node, each)


async def test_a_service_token_ends_itself_from_its_host(node: Running) -> None:
    """A stolen one opens nothing without its host's TLS key, and ends nothing either."""
    token, made = await login(node)
    child = await exchanged(node, bound(token, made))
    assert await end(node, child, id_of(child)) == (403, "CAVEAT")
    assert await end(node, child, id_of(child), host_key="b" * 64) == (403, "CAVEAT")
    assert live(node, child)
    assert await end(node, child, id_of(child), host_key=HOST) == (200, None)
    assert not live(node, child)
    assert live(node, bound(token, made))


async def test_the_discharge_is_verified_as_ever(node: Running) -> None:
    """Missing, not bound, of another token, of somebody else, or over: the token stays."""
    token, made = await login(node)
    other, others = await login(node)
    ticket = parse_token(token).root.caveats[-1].cid
    eve = people.signed_in(node, ticket, "eve@example.com")
    foreign = Ticket(b"\0" * 16, b"\1" * 16, new_caveat_key(), node.clock.unix_ms())
    elsewhere = seal_ticket(b"k" * 16, b"k" * 32, foreign)
    extra = discharge(elsewhere, foreign.caveat_key, [f"user = {ALICE}"])
    for sent, answer in (
        (token, (401, "DISCHARGE_MISSING")),
        (f"{token},{encode_part(made)}", (401, "DISCHARGE_INVALID")),
        (encode_token(parse_token(token).root, [_bound_elsewhere(other, made)]), INVALID),
        (bound(token, others), (401, "DISCHARGE_MISSING")),
        (bound(token, made, extra), INVALID),
        (bound(token, eve), (403, "CAVEAT")),
    ):
        assert await end(node, sent, id_of(token)) == answer
    node.clock.advance(3600)
    assert await end(node, bound(token, made), id_of(token)) == (401, "EXPIRED")
    assert node.rows("SELECT count(*) FROM revocations") == [(0,)]


INVALID = (401, "DISCHARGE_INVALID")


async def test_other_kinds(node: Running) -> None:
    """What a token is good for does not matter to its end; from where it may be used does."""
    deploy = await node.mint("app = web", "action = secrets:write", "secret = DB_*", kind="deploy")
    assert await end(node, narrowed(deploy.token, "app = web"), deploy.id) == (403, "CAVEAT")
    assert await end(node, deploy.token, deploy.id) == (200, None)
    held = await node.mint("action = secrets:read", "ip = 198.51.100.0/24", "machine = m1")
    assert await end(node, held.token, held.id) == (403, "CAVEAT")
    assert await end(node, held.token, held.id, ip="198.51.100.9") == (200, None)


async def test_the_clusters_tokens_do_not(node: Running) -> None:
    """An operator's token takes the action, by either route."""
    operator = await node.mint("action = secrets:list", org=None)
    assert await end(node, operator.token, operator.id) == (403, "CAVEAT")
    answer = await asked(node, "DELETE", f"/v1/tokens/{operator.id}", operator.token)
    assert answer.status_code == 403
    assert node.rows("SELECT count(*) FROM revocations") == [(0,)]


def bound_to(root: Macaroon, *discharges: Macaroon) -> str:
    """A root with discharges bound to it."""
    return encode_token(root, [bind_discharge(root, each) for each in discharges])


def _bound_elsewhere(token: str, made: Macaroon) -> Macaroon:
    return bind_discharge(parse_token(token).root, made)
