"""An org's settings: defaults, bounds, and what a patch leaves alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from petsem.errors import Code, PetsemError
from petsem.server import policy
from petsem.server.principal import Names
from petsem.server.service.settings import (
    BOOT_MAX_STALENESS_DEFAULT_S,
    BOOT_MAX_STALENESS_MAX_S,
)
from petsem.wire import http
from tests.support.nodes import Running, call, outcome, running

DEFAULTS = http.Settings(durability="local", boot_max_staleness_s=BOOT_MAX_STALENESS_DEFAULT_S)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


async def patch(node: Running, org: str = "acme", **body: Any) -> http.Settings:
    principal = node.principal(policy.ORGS_ADMIN, Names(org))
    return await node.node.orgs.patch_settings(
        principal, call("/s", str(body)), org, http.SettingsPatch(**body)
    )


async def test_an_org_begins_with_the_defaults(node: Running) -> None:
    """A day without the leader, and durability on this node."""
    assert node.node.orgs.settings("acme") == DEFAULTS


async def test_a_patch_changes_what_it_names(node: Running) -> None:
    """Other keys stay, null puts one back, and another org's are its own."""
    await node.furnish("beta")
    wish = http.ReplicatedDurability(replicated=2)
    assert await patch(node, boot_max_staleness_s=60) == http.Settings("local", 60)
    assert await patch(node, durability=wish) == http.Settings(wish, 60)
    assert await patch(node) == http.Settings(wish, 60)
    assert await patch(node, durability=None) == http.Settings("local", 60)
    assert await patch(node, boot_max_staleness_s=None) == DEFAULTS
    assert node.rows("SELECT * FROM org_settings") == []
    assert node.node.orgs.settings("beta") == DEFAULTS


@pytest.mark.parametrize("seconds", [0, BOOT_MAX_STALENESS_MAX_S])
async def test_the_bounds_are_within(node: Running, seconds: int) -> None:
    """Nothing without the leader, and thirty days."""
    assert (await patch(node, boot_max_staleness_s=seconds)).boot_max_staleness_s == seconds


@pytest.mark.parametrize(
    "body",
    [
        {"boot_max_staleness_s": -1},
        {"boot_max_staleness_s": BOOT_MAX_STALENESS_MAX_S + 1},
        {"durability": http.ReplicatedDurability(replicated=0)},
        {"boot_max_staleness_s": 60, "durability": http.ReplicatedDurability(replicated=-1)},
    ],
)
async def test_a_patch_out_of_bounds_changes_nothing(node: Running, body: dict[str, Any]) -> None:
    """Neither the key that is wrong nor the one beside it."""
    with pytest.raises(PetsemError) as error:
        await patch(node, **body)
    assert error.value.code is Code.INVALID
    assert node.node.orgs.settings("acme") == DEFAULTS


async def test_settings_of_no_org(node: Running) -> None:
    """An org that is not there, or softly deleted, has none."""
    assert outcome(lambda: node.node.orgs.settings("gone")) == (Code.NOT_FOUND, None, None)
    await node.delete_org()
    assert outcome(lambda: node.node.orgs.settings("acme")) == (Code.NOT_FOUND, None, None)
    with pytest.raises(PetsemError):
        await patch(node, boot_max_staleness_s=60)


def test_a_patch_tells_null_from_absent() -> None:
    """In JSON, null is a wish and absence is none."""
    absent = msgspec.json.decode(b"{}", type=http.SettingsPatch)
    null = msgspec.json.decode(b'{"durability": null}', type=http.SettingsPatch)
    assert (absent.durability, null.durability) == (msgspec.UNSET, None)
