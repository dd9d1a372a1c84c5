"""Root keys that moved, are missing or damaged, and how many are held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.server import policy, root_keys
from petsem.server.principal import Names, Request
from tests.support.nodes import Running, Site, running
from tests.unit.server.thief import WEB, ask, key_of


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


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
    monkeypatch.setattr(root_keys, "_MAX", 2)
    tokens = []
    for org in ("b1", "b2", "b3"):
        await node.furnish(org)
        tokens.append(await node.reader(org=org))
    for org, token in zip(("b1", "b2", "b3"), tokens, strict=True):
        assert ask(node, token, names=Names(org, "web", filterable=True)) == "allowed"
    assert len(node.node.auth._root_keys) <= 2
    request = Request(tokens[0], "192.0.2.7")
    with node.node.pool.reading() as db:
        principal = node.node.auth.authorize(
            db, request, policy.SECRETS_READ, Names("b1", "web", filterable=True)
        )
    assert tokens[0] not in f"{request!r} {principal!r} {node.node.auth!r}"
