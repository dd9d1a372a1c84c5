"""An org's `sso`: what is refused, what is kept, and what is never shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from petsem.errors import Code, PetsemError
from petsem.wire import http
from tests.support.nodes import Running, running
from tests.support.people import SSO, set_up

SECRET = "the-secret-of-our-client"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


def but(**changes: Any) -> http.Sso:
    return msgspec.structs.replace(SSO, **changes)


async def test_what_is_set_is_read_back(node: Running) -> None:
    """With its defaults; null turns it off, and the keys of it are gone."""
    shown = (await set_up(node)).sso
    assert shown is not None
    assert (shown.actions, shown.discharge_s) == (["secrets:list", "secrets:write"], 3600)
    assert shown == node.node.orgs.settings("acme").sso
    assert (await set_up(node, None)).sso is None
    assert node.rows("SELECT count(*) FROM root_keys WHERE use <> 'tokens'") == [(0,)]


async def test_the_clients_secret_is_sealed_and_never_shown(node: Running) -> None:
    """Only whether there is one; not in the row of the setting, and not in the answer."""
    shown = await set_up(node, but(client_secret=SECRET))
    assert shown.sso is not None
    assert shown.sso.client_secret_set
    assert SECRET.encode() not in msgspec.json.encode(shown)
    assert SECRET not in str(node.rows("SELECT key, value FROM org_settings"))
    assert (
        SECRET.encode()
        not in node.rows("SELECT envelope FROM root_keys WHERE use = 'client'")[0][0]
    )


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"domains": ["example.org"]}, True),
        ({"client_id": "other"}, False),
        ({"issuer": "https://evil.example.net"}, False),
        ({"client_secret": None}, False),
    ],
)
async def test_whose_secret_it_is(node: Running, change: dict[str, Any], kept: bool) -> None:
    """It stays while provider and client do, and is shown to no other provider."""
    await set_up(node, but(client_secret=SECRET))
    shown = (await set_up(node, but(**change))).sso
    assert shown is not None
    assert shown.client_secret_set is kept
    rows = node.rows("SELECT count(*) FROM root_keys WHERE use = 'client'")
    assert rows == [(1 if kept else 0,)]


async def test_a_change_keeps_the_key_of_tickets(node: Running) -> None:
    """So that people who are signing in are not turned away by another domain."""
    await set_up(node)
    key = node.rows("SELECT id FROM root_keys WHERE use = 'sso'")
    await set_up(node, but(domains=["example.org"]))
    assert node.rows("SELECT id FROM root_keys WHERE use = 'sso'") == key


@pytest.mark.parametrize(
    "change",
    [
        {"domains": []},
        {"domains": ["Example.com"]},
        {"domains": ["com"]},
        {"domains": ["*.example.com"]},
        {"domains": ["a" * 250 + ".com"]},
        {"domains": [f"{'a' * 60}.{'b' * 60}.{n}.com" for n in range(8)]},
        {"domains": ["e" * 30 + ".com"], "actions": [f"x:{'y' * 240}{n}" for n in range(5)]},
        {"domains": ["example.com\n"]},
        {"groups": ["a\nb"]},
        {"issuer": "http://id.example.com"},
        {"issuer": "https://"},
        {"issuer": "https://id.example.com/?a=b"},
        {"issuer": "https://id.example.com/#a"},
        {"issuer": "https://a:b@id.example.com"},
        {"issuer": "https://id.example.com:99999"},
        {"issuer": "file:///etc/passwd"},
        {"issuer": "http://localhost.example.com"},
        {"actions": ["orgs:admin"]},
        {"actions": ["nodes:read"]},
        {"actions": ["a b"]},
    ],
)
async def test_what_is_refused(node: Running, change: dict[str, Any]) -> None:
    """Providers that anybody could answer for, everybody's domain, and actions above an org's."""
    with pytest.raises(PetsemError) as caught:
        await set_up(node, but(**change))
    assert caught.value.code is Code.INVALID
    assert node.node.orgs.settings("acme").sso is None


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:9000", "http://localhost/a", "http://[::1]:1"]
)
async def test_a_provider_on_this_machine(node: Running, issuer: str) -> None:
    """It may be asked without TLS."""
    shown = (await set_up(node, but(issuer=issuer, domains=[], groups=["ops"]))).sso
    assert shown is not None
    assert shown.issuer == issuer
