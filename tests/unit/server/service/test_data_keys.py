"""Data keys wrapped again, and data sealed again: in steps, cut short, over damage."""

from __future__ import annotations

import re
from typing import Any

import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.server import cursors, resealing
from petsem.server.check import check
from petsem.server.policy import NODES_ADMIN
from petsem.server.principal import Request
from petsem.server.service.batches import check_batch
from petsem.wire import http
from tests.unit.server.cluster import Cluster, call, flip

KEY_OF = "lower(hex(substr(envelope, 9, 32)))"


async def furnish(cluster: Cluster) -> None:
    """Two orgs and three apps with some history, one of them deleted softly."""
    await cluster.org("acme", "web", "old")
    await cluster.org("beta", "api")
    await cluster.set("acme", "web", A="1", B="zwei", C="")
    await cluster.set("acme", "web", A="2")
    await cluster.set("acme", "web", A="3", D="vier")
    await cluster.set("acme", "old", X="x")
    await cluster.set("beta", "api", A="b")
    await cluster.node.orgs.delete_app(cluster.operator, call(), "acme", "old", False)


async def everything(cluster: Cluster) -> dict[str, dict[str, str]]:
    """All values that `furnish` made, as they can be read."""
    read = {f"web {version}": await cluster.get("acme", "web", version) for version in (1, 2, 3)}
    return read | {"api": await cluster.get("beta", "api")}


EVERYTHING = {
    "web 1": {"A": "1", "B": "zwei", "C": ""},
    "web 2": {"A": "2", "B": "zwei", "C": ""},
    "web 3": {"A": "3", "B": "zwei", "C": "", "D": "vier"},
    "api": {"A": "b"},
}


async def run(
    cluster: Cluster, verb: str, *, limit: int = 100, after: str | None = None, **scope: str
) -> list[http.KeyringProgress]:
    """Every step of a walk."""
    steps: list[http.KeyringProgress] = []
    while not steps or steps[-1].next is not None:
        steps.append(await step(cluster, verb, limit=limit, after=after, **scope))
        after = steps[-1].next
        assert len(steps) < 200
    return steps


async def step(cluster: Cluster, verb: str, **fields: Any) -> http.KeyringProgress:
    service = cluster.node.keyring
    do = service.rewrap if verb == "rewrap" else service.rotate_data
    return await do(cluster.operator, call(), http.KeyringStep(**fields))


def data_keys(cluster: Cluster) -> set[str]:
    return {row[0] for row in cluster.query("SELECT lower(hex(id)) FROM data_keys")}


# rewrap


async def test_rewrap_changes_the_kek_and_nothing_else(cluster: Cluster) -> None:
    """The same data keys are wrapped by the new KEKs of their purposes, and all can be read."""
    async with cluster.running() as node:
        await furnish(cluster)
        before = data_keys(cluster)
        sealed = cluster.query("SELECT envelope, digest FROM secrets ORDER BY rowid")
        for purpose in Purpose:
            await node.keyring.promote(cluster.operator, call(), cluster.add_kek(purpose), False)
        steps = await run(cluster, "rewrap", limit=2)
        assert [s.done for s in steps] == [2, 2, 2, 0]
        assert [s.remaining for s in steps] == [4, 2, 1, 0]
        assert steps[-1].message == "every data key is wrapped anew"
        assert data_keys(cluster) == before
        assert cluster.query("SELECT envelope, digest FROM secrets ORDER BY rowid") == sealed
        wraps = {k.state: 0 for k in (await node.keyring.list()).keys}
        for kek in (await node.keyring.list()).keys:
            wraps[kek.state] += kek.wraps
        assert wraps == {"primary": 6, "retired": 0}
    async with cluster.running():
        assert await everything(cluster) == EVERYTHING


async def test_rewrap_of_nothing_is_done_at_once(cluster: Cluster) -> None:
    """It may be run at any time."""
    async with cluster.running():
        assert [(s.done, s.remaining) for s in await run(cluster, "rewrap")] == [(0, 0)]


async def test_rewrap_goes_on_after_any_step(cluster: Cluster) -> None:
    """Started again without its cursor, it does only what is left."""
    async with cluster.running() as node:
        await furnish(cluster)
        new = cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
        await step(cluster, "rewrap", limit=1)
    async with cluster.running():
        steps = await run(cluster, "rewrap", limit=1)
        assert sum(s.done for s in steps) == 2
        assert steps[-1].remaining == 0


async def test_rewrap_leaves_what_is_damaged_and_says_so(cluster: Cluster) -> None:
    """One data key that does not open stops no other."""
    async with cluster.running() as node:
        await furnish(cluster)
        new = cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
    with cluster.stopped() as db:
        flip(db, "data_keys", "wrapped", "app = (SELECT id FROM apps WHERE name = 'api')")
    async with cluster.running():
        steps = await run(cluster, "rewrap", limit=1)
        assert steps[-1].remaining == 1
        assert "damaged and left as they are: the data key of beta/api" in steps[-1].message
        assert (await cluster.get("acme", "web"))["A"] == "3"


async def test_rewrap_leaves_what_another_node_would_have_to_do(cluster: Cluster) -> None:
    """Data keys under a KEK that this node lacks are counted, with the key's id."""
    async with cluster.running() as node:
        await furnish(cluster)
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
    cluster.remove_kek(old)
    async with cluster.running():
        steps = await run(cluster, "rewrap")
    assert steps[-1].remaining == 3
    assert f"the secrets key {old}, which this node lacks, wraps 3 data keys" in steps[-1].message


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": 501},
        {"after": "nonsense"},
        {"after": "é"},
        {"after": cursors.encode(resealing.Cursor(resealing.Stage.APPS, 1))},
        {"org": "acme", "app": "web"},
    ],
)
async def test_rewrap_refuses_what_makes_no_sense(cluster: Cluster, fields: dict[str, Any]) -> None:
    """Bounds, cursors of other work, and a scope that it does not have."""
    async with cluster.running():
        with pytest.raises(PetsemError) as refused:
            await step(cluster, "rewrap", **fields)
    assert refused.value.code is Code.INVALID


# rotate-data


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_everything_comes_under_new_keys(cluster: Cluster, limit: int) -> None:
    """All values of all versions, root keys and the CA key; the old keys are gone; all opens."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        digests = cluster.query("SELECT digest FROM secrets")
        steps = await run(cluster, "rotate-data", limit=limit)
        assert steps[-1].message == "everything is under new data keys"
        assert (steps[-1].remaining, steps[-1].next) == (0, None)
        assert all(s.remaining > 0 for s in steps[:-1])
        after = data_keys(cluster)
        assert len(after) == len(before)
        assert not after & before
        for statement in (
            f"SELECT {KEY_OF} FROM secrets",
            f"SELECT {KEY_OF} FROM bundles",
            f"SELECT {KEY_OF} FROM root_keys",
            "SELECT lower(hex(substr(ca_key, 9, 32))) FROM cluster",
        ):
            assert {row[0] for row in cluster.query(statement)} <= after
        assert not set(cluster.query("SELECT digest FROM secrets")) & set(digests)
        assert await everything(cluster) == EVERYTHING
        await cluster.node.orgs.undelete_app(cluster.operator, call(), "acme", "old")
        assert await cluster.get("acme", "old") == {"X": "x"}
    report = check(cluster.directory, {}, everything=True, clock=cluster.clock)
    assert report.problems == ()


async def test_one_app_alone(cluster: Cluster) -> None:
    """With an app, nothing of any other changes."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        others = cluster.query("SELECT envelope FROM secrets WHERE app <> 1 ORDER BY rowid")
        steps = await run(cluster, "rotate-data", limit=2, org="acme", app="web")
        assert len(data_keys(cluster) - before) == 1
        assert len(before - data_keys(cluster)) == 1
        assert cluster.query("SELECT envelope FROM secrets WHERE app <> 1 ORDER BY rowid") == others
        assert steps[-1].message == "everything is under new data keys"
        assert await everything(cluster) == EVERYTHING


async def test_a_boot_bundle_is_made_again(cluster: Cluster) -> None:
    """After the rotation a fetch is one row again, and its etag is new with the digests."""
    async with cluster.running():
        await furnish(cluster)
        before = cluster.query("SELECT envelope FROM bundles WHERE app = 1")
        await run(cluster, "rotate-data", limit=1, org="acme", app="web")
        assert cluster.query("SELECT version FROM bundles WHERE app = 1") == [(3,)]
        assert cluster.query("SELECT envelope FROM bundles WHERE app = 1") != before


async def test_tokens_hold_through_a_rotation(cluster: Cluster) -> None:
    """Root keys stay the same keys; also for a node that starts afterwards."""
    async with cluster.running():
        await furnish(cluster)
        await run(cluster, "rotate-data")
    async with cluster.running() as node:
        with node.pool.snapshot() as db:
            node.auth.authorize(db, Request(cluster.token, None), NODES_ADMIN)


@pytest.mark.parametrize("killed_after", range(1, 28))
async def test_goes_on_after_a_crash_at_any_step(cluster: Cluster, killed_after: int) -> None:
    """The node ends after a step; another start takes the cursor and comes to the same end."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        after = None
        for _ in range(killed_after):
            after = (await step(cluster, "rotate-data", limit=1, after=after)).next
        assert await everything(cluster) == EVERYTHING
    async with cluster.running():
        assert await everything(cluster) == EVERYTHING
        if after is not None:
            await run(cluster, "rotate-data", limit=1, after=after)
        assert not data_keys(cluster) & before
        assert len(data_keys(cluster)) == len(before)
        assert await everything(cluster) == EVERYTHING


@pytest.mark.parametrize("killed_after", [1, 4, 7, 9, 12, 17, 22])
async def test_starts_anew_after_the_cursor_was_lost(cluster: Cluster, killed_after: int) -> None:
    """Nothing is left behind of the run that was cut short, not even its keys."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        after = None
        for _ in range(killed_after):
            after = (await step(cluster, "rotate-data", limit=1, after=after)).next
        between = data_keys(cluster)
        await run(cluster, "rotate-data", limit=3)
        assert not data_keys(cluster) & (before | between)
        assert len(data_keys(cluster)) == len(before)
        assert await everything(cluster) == EVERYTHING


async def test_a_step_sent_twice_does_no_harm(cluster: Cluster) -> None:
    """A reply that was lost makes the client send the same cursor again."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        after: str | None = None
        while True:
            await step(cluster, "rotate-data", limit=1, after=after)
            after = (await step(cluster, "rotate-data", limit=1, after=after)).next
            if after is None:
                break
        assert not data_keys(cluster) & before
        assert len(data_keys(cluster)) == len(before)
        assert await everything(cluster) == EVERYTHING


async def test_a_step_with_the_same_key_is_done_once(cluster: Cluster) -> None:
    """With an Idempotency-Key the retry makes no second data key."""
    async with cluster.running() as node:
        await furnish(cluster)
        first = http.KeyringStep(limit=1)
        done = await node.keyring.rotate_data(cluster.operator, call("k"), first)
        keys = data_keys(cluster)
        assert await node.keyring.rotate_data(cluster.operator, call("k"), first) == done
        assert data_keys(cluster) == keys


async def test_writes_go_on_meanwhile(cluster: Cluster) -> None:
    """Setting, and rolling back to values not yet sealed again, between any two steps."""
    async with cluster.running() as node:
        await furnish(cluster)
        before = data_keys(cluster)
        after, version = None, 3
        while True:
            after = (
                await step(cluster, "rotate-data", limit=1, after=after, org="acme", app="web")
            ).next
            if after is None:
                break
            back = http.Rollback(to=1 if version % 2 else 3)
            await node.secrets.rollback(cluster.operator, call(), "acme", "web", back)
            version = await cluster.set("acme", "web", E=str(version))
        key = cluster.query("SELECT lower(hex(id)) FROM data_keys WHERE app = 1")
        assert len(key) == 1
        assert key[0][0] not in before
        assert {r[0] for r in cluster.query(f"SELECT {KEY_OF} FROM secrets WHERE app = 1")} == {
            key[0][0]
        }
        assert await cluster.get("acme", "web", 1) == EVERYTHING["web 1"]
        assert await cluster.get("acme", "web", 3) == EVERYTHING["web 3"]
    assert check(cluster.directory, {}, everything=True, clock=cluster.clock).ok


async def test_a_damaged_value_keeps_its_old_key(cluster: Cluster) -> None:
    """The rest is sealed again; the answer names the value; once that is destroyed, the key goes
    by itself."""
    async with cluster.running():
        await furnish(cluster)
        old = cluster.query("SELECT lower(hex(id)) FROM data_keys WHERE app = 1")[0][0]
    with cluster.stopped() as db:
        flip(db, "secrets", "envelope", "app = 1 AND name = 'A' AND since = 2")
        damaged = db.execute(
            "SELECT envelope FROM secrets WHERE app = 1 AND name = 'A' AND since = 2"
        ).fetchall()
    async with cluster.running() as node:
        steps = await run(cluster, "rotate-data", limit=1)
        assert re.search(
            r"because they cannot be opened: acme/web/A \(version 2\); destroy those versions",
            steps[-1].message,
        )
        assert old in data_keys(cluster)
        found = cluster.query(
            "SELECT envelope FROM secrets WHERE app = 1 AND name = 'A' AND since = 2"
        )
        assert found == damaged
        assert await cluster.get("acme", "web") == EVERYTHING["web 3"]
        with pytest.raises(PetsemError, match="value of A is damaged"):
            await cluster.get("acme", "web", 2)
        await node.secrets.destroy(
            cluster.operator, call(), "acme", "web", http.Destroy(names=["A"], version=2)
        )
        await node.housekeeping.tick()
        assert old not in data_keys(cluster)


async def test_a_damaged_header_keeps_every_old_key(cluster: Cluster) -> None:
    """Which key the value is under cannot be told, so none is dropped that might be it."""
    async with cluster.running():
        await furnish(cluster)
        old = cluster.query("SELECT lower(hex(id)) FROM data_keys WHERE app = 1")[0][0]
    with cluster.stopped() as db:
        flip(db, "secrets", "envelope", "app = 1 AND name = 'B'", at=20)
    async with cluster.running() as node:
        await run(cluster, "rotate-data", org="acme", app="web")
        await node.housekeeping.tick()
        assert old in data_keys(cluster)
    with cluster.stopped() as db:
        flip(db, "secrets", "envelope", "app = 1 AND name = 'B'", at=20)
    async with cluster.running():
        steps = await run(cluster, "rotate-data", org="acme", app="web")
        assert steps[-1].message == "everything is under new data keys"
        assert old not in data_keys(cluster)
        assert (await cluster.get("acme", "web"))["B"] == "zwei"


async def test_damaged_root_and_ca_keys_keep_their_old_keys(cluster: Cluster) -> None:
    """They are left as they are, and all else is sealed again."""
    async with cluster.running():
        await furnish(cluster)
    with cluster.stopped() as db:
        flip(db, "root_keys", "envelope", "org = 1")
        flip(db, "cluster", "ca_key", "1")
    async with cluster.running():
        before = data_keys(cluster)
        steps = await run(cluster, "rotate-data")
        assert steps[-1].message == ("kept for root keys or a CA key that are damaged: 2 data keys")
        assert len(data_keys(cluster) & before) == 2
        assert await everything(cluster) == EVERYTHING


async def test_requests_keep_their_key_for_a_day(cluster: Cluster) -> None:
    """A retry across a rotation is recognised; when its record expires, the old key goes."""
    async with cluster.running() as node:
        await furnish(cluster)
        before = data_keys(cluster)
        version = await cluster.set("acme", "web", key="k", E="5")
        steps = await run(cluster, "rotate-data")
        assert steps[-1].message == (
            "kept for up to 24 hours, for requests that came with an Idempotency-Key: "
            "1 data key (rewrap wraps such keys anew like any other)"
        )
        assert await cluster.set("acme", "web", key="k", E="5") == version
        assert len(data_keys(cluster) & before) == 1
        cluster.clock.advance(24 * 3600)
        await node.housekeeping.tick()
        assert not data_keys(cluster) & before


async def test_a_forged_cursor_drops_nothing(cluster: Cluster) -> None:
    """Whoever claims that all has been sealed again loses no key that something needs."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        after = (await step(cluster, "rotate-data", limit=1)).next
        end = cursors.encode(resealing.Cursor(resealing.Stage.OLD_KEYS, 1))
        await run(cluster, "rotate-data", after=end)
        assert len(before - data_keys(cluster)) == 0
        skipped = cursors.encode(resealing.Cursor(resealing.Stage.APPS, 1, row=1, begun=True))
        await run(cluster, "rotate-data", after=skipped)
        assert await everything(cluster) == EVERYTHING
        await run(cluster, "rotate-data", after=after)
        assert await everything(cluster) == EVERYTHING


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"limit": 0}, Code.INVALID),
        ({"org": "acme"}, Code.INVALID),
        ({"org": "acme", "app": "nope"}, Code.NOT_FOUND),
        ({"org": "acme", "app": "old"}, Code.NOT_FOUND),
        ({"after": "!"}, Code.INVALID),
        ({"after": "A" * 2000}, Code.INVALID),
        (
            {"after": cursors.encode(resealing.Cursor(resealing.Stage.ROOT_KEYS, 1, key="xyz"))},
            Code.INVALID,
        ),
        (
            {
                "org": "acme",
                "app": "web",
                "after": cursors.encode(resealing.Cursor(resealing.Stage.CLUSTER, 1)),
            },
            Code.INVALID,
        ),
    ],
)
async def test_rotate_data_refuses_what_makes_no_sense(
    cluster: Cluster, fields: dict[str, Any], code: Code
) -> None:
    """Bounds, half a scope, apps that are not there, and cursors of other work; nothing changes."""
    async with cluster.running():
        await furnish(cluster)
        before = data_keys(cluster)
        with pytest.raises(PetsemError) as refused:
            await step(cluster, "rotate-data", **fields)
        assert refused.value.code is code
        assert data_keys(cluster) == before


async def test_rotate_data_needs_the_keks(cluster: Cluster) -> None:
    """A node that lacks the KEK of what is to be opened names it, and leaves no half of a step."""
    async with cluster.running():
        await furnish(cluster)
    lacking = cluster.kek(Purpose.SECRETS)
    cluster.remove_kek(lacking)
    async with cluster.running():
        before = data_keys(cluster)
        with pytest.raises(PetsemError, match=f"lacks the secrets key {lacking}") as refused:
            await run(cluster, "rotate-data", org="acme", app="web")
        assert refused.value.code is Code.UNAVAILABLE
        assert data_keys(cluster) == before


async def test_large_values_are_done_in_small_transactions(cluster: Cluster) -> None:
    """A step ends at about a mebibyte, whatever number of rows was asked for."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        for version in range(3):
            for part in range(2):
                names = {f"N{n}": "x" * 60_000 for n in range(part * 8, part * 8 + 8)}
                names["N0"] = str(version)
                batch = check_batch(http.SecretsPatch(set=names))
                await node.secrets.patch(cluster.operator, call(), "acme", "web", batch)
        steps = await run(cluster, "rotate-data", limit=500)
        assert len(steps) > 3
        assert (await cluster.get("acme", "web"))["N15"] == "x" * 60_000


async def test_making_bundles_counts_as_work(cluster: Cluster) -> None:
    """At the end of an app its current values are read once more, for the bundle."""
    async with cluster.running():
        names = {f"N{n}": "x" for n in range(40)}
        await cluster.org("acme", "a", "b", "c")
        for app in ("a", "b", "c"):
            await cluster.set("acme", app, **names)
        steps = await run(cluster, "rotate-data", limit=60)
        assert sum(step.message == "sealing again" for step in steps) == 4


async def test_a_leaked_key_is_gone_after_the_whole_procedure(cluster: Cluster) -> None:
    """New KEK, promote, rotate-data, retire: nothing stored can be opened by whoever has the old
    KEK and an old copy of the database."""
    async with cluster.running() as node:
        await furnish(cluster)
        before, old = data_keys(cluster), cluster.kek(Purpose.SECRETS)
        new = cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
        await run(cluster, "rotate-data", limit=7)
        await node.keyring.retire(cluster.operator, call(), old)
        cluster.remove_kek(old)
        assert not data_keys(cluster) & before
    async with cluster.running():
        assert await everything(cluster) == EVERYTHING
