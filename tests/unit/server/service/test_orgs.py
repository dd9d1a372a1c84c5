"""Orgs and apps: made with their keys, deleted softly, brought back whole, purged for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError, unavailable
from petsem.server import policy
from petsem.server.principal import Names
from petsem.server.service.orgs import UNDELETE_MS
from petsem.server.service.writes import Writes
from petsem.wire import http
from tests.support.nodes import Running, call, refusal, running

CONFLICT, NOT_FOUND, INVALID = Code.CONFLICT, Code.NOT_FOUND, Code.INVALID
TABLES = (
    *("apps", "data_keys", "versions", "secrets", "bundles", "root_keys", "tokens"),
    *("revocations", "idempotency", "org_settings"),
)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, furnished=False) as node:
        yield node


async def refused(write: Any) -> Code:
    with pytest.raises(PetsemError) as error:
        await write
    return error.value.code


async def create_org(node: Running, name: str) -> http.Org:
    principal = node.principal(policy.ORGS_ADMIN, Names(name))
    return await node.node.orgs.create_org(principal, call("/v1/orgs", name), name)


async def undelete(node: Running, org: str, app: str | None = None) -> http.Org | http.App:
    principal = node.principal(policy.ORGS_ADMIN, Names(org))
    if app is None:
        return await node.node.orgs.undelete_org(principal, call(), org)
    return await node.node.orgs.undelete_app(principal, call(), org, app)


def org_rows(node: Running) -> dict[str, int]:
    """How many rows each table has that belong to an org."""
    where = {"apps": "1", "versions": "1", "secrets": "1", "bundles": "1"}
    return {
        table: node.rows(
            f"SELECT count(*) FROM {table} WHERE {where.get(table, 'org IS NOT NULL')}"
        )[0][0]
        for table in TABLES
    }


async def fill(node: Running) -> None:
    """Something in every table that belongs to the org acme."""
    await node.furnish("acme", "web", "api")
    await node.patch({"A": "1"}, key="k")
    await node.patch({"A": "2", "B": "2"})
    minted = await node.mint("action = secrets:read")
    await node.reader()
    await node.revoke(minted.id)
    principal = node.principal(policy.ORGS_ADMIN, Names("acme"))
    await node.node.orgs.patch_settings(
        principal, call("/s"), "acme", http.SettingsPatch(boot_max_staleness_s=60)
    )


async def test_an_org_is_made_with_keys_of_its_own(node: Running) -> None:
    """A data key and a root key, and no app; it can mint at once."""
    made = await create_org(node, "acme")
    now = rfc3339(node.clock.unix_ms())
    assert made == http.Org("acme", now, None, None)
    assert org_rows(node) == dict.fromkeys(TABLES, 0) | {"data_keys": 1, "root_keys": 1}
    assert await node.org_token()


async def test_an_app_is_made_at_version_0(node: Running) -> None:
    """With a data key, an empty bundle, and no version yet."""
    await create_org(node, "acme")
    made = await node.create_app("acme", "web")
    assert made == http.App("web", 0, rfc3339(node.clock.unix_ms()), None, None)
    assert await node.values() == {}
    assert org_rows(node)["bundles"] == 1


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "ä", "a/b", "a\n", ".."])
async def test_a_bad_name_is_refused(node: Running, name: str) -> None:
    """For orgs and apps alike, before anything is written."""
    await create_org(node, "acme")
    operator = node.principal(policy.ORGS_ADMIN)
    orgs = node.node.orgs
    assert await refused(orgs.create_org(operator, call(), name)) is INVALID
    assert await refused(orgs.create_app(operator, call(), "acme", name)) is INVALID


async def test_a_name_is_taken_until_it_is_purged(node: Running) -> None:
    """By a live one, by a softly deleted one, and free again afterwards; two orgs may have an app
    of the same name."""
    await node.furnish("acme")
    await node.furnish("beta")
    assert await refused(create_org(node, "acme")) is CONFLICT
    assert await refused(node.create_app("acme", "web")) is CONFLICT
    await node.delete_app()
    assert await refused(node.create_app("acme", "web")) is CONFLICT
    await node.delete_app(now=True)
    await node.create_app("acme", "web")
    await node.delete_org()
    assert await refused(create_org(node, "acme")) is CONFLICT
    assert await refused(node.create_app("acme", "api")) is NOT_FOUND
    await node.delete_org(now=True)
    await create_org(node, "acme")


async def test_of_two_that_make_the_same_org_at_once_one_does(node: Running) -> None:
    """In one group the second is told that the name is taken."""
    found = await asyncio.gather(
        create_org(node, "acme"), create_org(node, "acme"), return_exceptions=True
    )
    assert isinstance(found[0], http.Org)
    assert isinstance(found[1], PetsemError)
    assert refusal(found[1]) == (CONFLICT, None, None)


async def test_a_soft_deletion_takes_nothing_away_for_seven_days(node: Running) -> None:
    """Undelete brings an app back with its secrets and history, and an org with its apps and
    tokens, up to the last millisecond."""
    await fill(node)
    token = await node.reader()
    before, rows = await node.fetch(), org_rows(node)
    deleted = await node.delete_app()
    now = node.clock.unix_ms()
    assert (deleted.deleted_at, deleted.purge_at) == (rfc3339(now), rfc3339(now + UNDELETE_MS))
    assert await refused(node.fetch()) is NOT_FOUND
    assert await refused(node.patch({"A": "x"})) is NOT_FOUND
    assert await undelete(node, "acme", "web") == http.App("web", 2, rfc3339(now), None, None)
    await node.delete_org()
    assert await refused(node.fetch(token=token)) is Code.UNAUTHENTICATED
    assert await undelete(node, "acme") == http.Org("acme", rfc3339(now), None, None)
    after = await node.fetch(token=token)
    assert (after.body, after.etag, after.version) == (before.body, before.etag, before.version)
    assert org_rows(node) == rows


async def test_after_seven_days_nothing_comes_back(node: Running) -> None:
    """From the moment on at which a purge may begin, undelete is refused; the minute's work then
    removes what is left."""
    operator = (await node.mint(
        "action in orgs:admin, apps:admin", org=None, life_s=20 * 86_400
    )).token  # fmt: skip
    await fill(node)
    await node.delete_app("api")
    await node.delete_org()
    node.clock.advance(UNDELETE_MS / 1000)
    principal = node.principal(policy.ORGS_ADMIN, Names("acme"), operator)
    assert await refused(node.node.orgs.undelete_org(principal, call(), "acme")) is NOT_FOUND
    with pytest.raises(PetsemError) as error:
        await node.node.orgs.create_org(principal, call(), "acme")
    assert (error.value.code, "being purged" in error.value.message) == (CONFLICT, True)
    await node.node.housekeeping.tick()
    assert org_rows(node) == dict.fromkeys(TABLES, 0)
    await node.node.orgs.create_org(principal, call(), "acme")


async def test_undelete_of_what_is_not_deleted_changes_nothing(node: Running) -> None:
    """A live org or app is answered as it is; one that never was is not found."""
    await node.furnish()
    now = rfc3339(node.clock.unix_ms())
    assert await undelete(node, "acme") == http.Org("acme", now, None, None)
    assert await undelete(node, "acme", "web") == http.App("web", 0, now, None, None)
    assert await refused(undelete(node, "gone")) is NOT_FOUND
    assert await refused(undelete(node, "acme", "gone")) is NOT_FOUND


@pytest.mark.parametrize("softly_first", [False, True])
async def test_deleting_now_leaves_no_row(node: Running, softly_first: bool) -> None:
    """Everything that belonged to the org is gone when the answer comes, and its neighbour's is
    not."""
    await node.furnish("beta")
    others = org_rows(node)
    await fill(node)
    if softly_first:
        await node.delete_org()
    deleted = await node.delete_org(now=True)
    assert (deleted.purge_at, org_rows(node)) == (None, others)
    assert await refused(node.delete_org(now=True)) is NOT_FOUND


async def test_deleting_an_app_now_leaves_the_others(node: Running) -> None:
    """Its rows are gone, the org's other app and tokens stay."""
    await node.furnish("acme", "api")
    await node.patch({"A": "kept"}, app="api")
    others = org_rows(node)
    await node.create_app("acme", "web")
    for n in range(3):
        await node.patch({"A": f"{n}"})
    await node.delete_app(now=True)
    assert org_rows(node) == others
    assert await node.values(app="api") == {"A": b"kept"}


async def test_a_large_org_is_purged_in_pieces(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction of a purge is long: others are answered in between, and what was cut short is
    ended by a repetition with the same key."""
    await node.furnish("acme", "web")
    await node.furnish("beta")
    for n in range(8):
        await node.patch({f"N{i}": "x" for i in range(500)}, if_version=n)
    rows = node.rows("SELECT count(*) FROM secrets")
    assert rows == [(4000,)]
    commits = node.node.writer.commits
    largest = 0
    submit = node.node.writer.submit

    async def counting(job: Any) -> Any:
        nonlocal largest
        before = node.rows("SELECT count(*) FROM secrets")[0][0]
        found = await submit(job)
        largest = max(largest, before - node.rows("SELECT count(*) FROM secrets")[0][0])
        return found

    principal = node.principal(policy.ORGS_ADMIN, Names("acme"))
    with monkeypatch.context() as patched:
        patched.setattr(node.node.orgs, "_purge", _cut_short)
        with pytest.raises(KeyboardInterrupt):
            await node.node.orgs.delete_org(principal, call(key="k"), "acme", True)
    assert node.rows("SELECT count(*) FROM secrets") == rows
    monkeypatch.setattr(node.node.writer, "submit", counting)
    await node.node.orgs.delete_org(principal, call(key="k"), "acme", True)
    assert node.rows("SELECT count(*) FROM secrets") == [(0,)]
    assert node.rows("SELECT name FROM orgs") == [("beta",)]
    assert largest <= 1600
    assert node.node.writer.commits - commits >= 3


async def _cut_short(*_: object) -> None:
    raise KeyboardInterrupt


async def test_a_purge_that_fails_does_not_deny_the_deletion(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion is committed and told, with a message that does not claim that all is gone; the
    minute's work removes the rest."""
    await node.furnish()
    await node.patch({"A": "alpha"})

    async def fails(*_: object) -> None:
        raise unavailable("the node's disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Writes, "in_pieces", fails)
        app = await node.delete_app(now=True)
        org = await node.delete_org(now=True)
    assert (app.purge_at, org.purge_at) == (None, None)
    assert "could not remove all of it now" in app.message
    assert app.message == org.message
    assert node.rows("SELECT count(*) FROM secrets") == [(1,)]
    await node.node.housekeeping.tick()
    assert node.rows("SELECT count(*) FROM secrets") == [(0,)]


async def test_lists_are_by_name_and_paged(node: Running) -> None:
    """Softly deleted ones are in them, marked; a full page says where the next one begins."""
    for name in ("c", "a", "b"):
        await node.furnish(name, "z", "x", "y")
    await node.delete_org("b")
    await node.delete_app("y", org="a")
    orgs = node.node.orgs
    page = orgs.list_orgs("", 2)
    assert ([org.org for org in page.orgs], page.next) == (["a", "b"], "b")
    assert [org.deleted_at is not None for org in page.orgs] == [False, True]
    rest = orgs.list_orgs("b", 2)
    assert ([org.org for org in rest.orgs], rest.next) == (["c"], None)
    apps = orgs.list_apps("a", "", 2)
    assert ([app.app for app in apps.apps], apps.next) == (["x", "y"], "y")
    assert [app.purge_at is not None for app in apps.apps] == [False, True]
    assert [app.app for app in orgs.list_apps("a", "y", 2).apps] == ["z"]
    with pytest.raises(PetsemError) as error:
        orgs.list_apps("b", "", 2)
    assert error.value.code is NOT_FOUND


async def test_deleting_what_is_not_there(node: Running) -> None:
    """Twice softly is not found; a deleted org's apps are not found."""
    await node.furnish()
    assert await refused(node.delete_app("gone")) is NOT_FOUND
    await node.delete_app()
    assert await refused(node.delete_app()) is NOT_FOUND
    await node.delete_org()
    assert await refused(node.delete_org()) is NOT_FOUND
    assert await refused(node.delete_app(now=True)) is NOT_FOUND
    assert await refused(node.delete_org("gone")) is NOT_FOUND
