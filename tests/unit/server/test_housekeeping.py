"""What a leader does by itself: purging, forgetting, mending, and never failing."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from petsem.errors import Code, PetsemError
from petsem.server.housekeeping import Housekeeping
from petsem.server.principal import Request
from petsem.server.service.batches import check_batch
from petsem.server.service.boot import Fetch
from petsem.wire import http
from tests.support.patience import PATIENCE_S
from tests.unit.server.cluster import Cluster, call, flip

DAY_S = 24 * 3600
TABLES = ("orgs", "apps", "data_keys", "versions", "secrets", "bundles", "root_keys", "tokens")


def rows(cluster: Cluster) -> dict[str, int]:
    return {
        table: cluster.query(f"SELECT count(*) FROM {table}")[0][0] for table in (*TABLES, "keks")
    }


async def refresh_token(cluster: Cluster) -> None:
    """The operator's own token is good for a day; the tests go further."""
    await cluster.change("UPDATE tokens SET expires_at = ? WHERE parent IS NULL", 2**62)


async def test_purges_an_app_after_seven_days(cluster: Cluster) -> None:
    """Until then it can be undeleted; from then on it is gone with all that was in it."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        before = rows(cluster)
        await node.orgs.create_app(cluster.operator, call(), "acme", "tmp")
        await cluster.set("acme", "tmp", A="1")
        await cluster.set("acme", "tmp", A="2", B="3")
        await node.orgs.delete_app(cluster.operator, call(), "acme", "tmp", False)
        full = rows(cluster)
        cluster.clock.advance(7 * DAY_S - 1)
        await node.housekeeping.tick()
        assert rows(cluster) == full
        cluster.clock.advance(1)
        await node.housekeeping.tick()
        assert rows(cluster) == before


@pytest.mark.parametrize("what", ["app", "org"])
async def test_nothing_is_undeleted_once_the_purge_may_have_begun(
    cluster: Cluster, what: str
) -> None:
    """The time decides, not whether the purge ran: nothing is ever brought back in part."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        if what == "app":
            await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
            await cluster.change("UPDATE apps SET purge_at = ?", cluster.clock.unix_ms())
            undelete = node.orgs.undelete_app(cluster.operator, call(), "acme", "web")
        else:
            await node.orgs.delete_org(cluster.operator, call(), "acme", False)
            await cluster.change("UPDATE orgs SET purge_at = ?", cluster.clock.unix_ms())
            undelete = node.orgs.undelete_org(cluster.operator, call(), "acme")
        with pytest.raises(PetsemError) as refused:
            await undelete
        assert refused.value.code is Code.NOT_FOUND


async def test_what_is_undeleted_is_not_purged(cluster: Cluster) -> None:
    """The seven days count from the last deletion only."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
        await node.orgs.undelete_app(cluster.operator, call(), "acme", "web")
        cluster.clock.advance(8 * DAY_S)
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM secrets") == [(1,)]


async def test_an_idle_node_writes_nothing(cluster: Cluster) -> None:
    """A tick without anything to do is no transaction."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        commits, position = node.writer.commits, node.writer.position
        with structlog.testing.capture_logs() as logs:
            await node.housekeeping.tick()
        assert (node.writer.commits, node.writer.position, logs) == (commits, position, [])


async def test_a_large_app_goes_in_pieces(cluster: Cluster) -> None:
    """No transaction is long, and the last of them removes the app."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        for version in range(2):
            names = {f"N{n}": f"{version}" for n in range(450)}
            batch = check_batch(http.SecretsPatch(set=names))
            await node.secrets.patch(cluster.operator, call(), "acme", "web", batch)
        await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
        cluster.clock.advance(7 * DAY_S)
        commits = node.writer.commits
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM secrets") == [(0,)]
        assert cluster.query("SELECT count(*) FROM apps") == [(0,)]
        assert node.writer.commits - commits >= 900 // 200


async def test_large_values_make_small_pieces(cluster: Cluster) -> None:
    """What is removed is overwritten, so bytes count as well as rows."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        for version in range(4):
            names = {f"N{n}": f"{version}" + "x" * 60_000 for n in range(15)}
            batch = check_batch(http.SecretsPatch(set=names))
            await node.secrets.patch(cluster.operator, call(), "acme", "web", batch)
        await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
        cluster.clock.advance(7 * DAY_S)
        commits = node.writer.commits
        await node.housekeeping.tick()
        assert node.writer.commits - commits >= 5


async def test_purges_an_org_with_all_that_is_in_it(cluster: Cluster) -> None:
    """Apps, tokens, keys and requests; another org is not touched."""
    async with cluster.running() as node:
        await cluster.org("beta", "api")
        await refresh_token(cluster)
        before = rows(cluster)
        await cluster.org("acme", "web", "api")
        await cluster.set("acme", "web", key="k", A="1")
        operator = cluster.operator
        body = http.Mint(
            caveats=["action = secrets:read", "time < 2027-01-16T00:00:00Z"], org="acme"
        )
        minted = await node.tokens.mint(operator, call(), body)
        await node.tokens.revoke(operator, call(), "acme", minted.id)
        await node.orgs.delete_org(operator, call(), "acme", False)
        cluster.clock.advance(7 * DAY_S)
        await node.housekeeping.tick()
        assert rows(cluster) == before
        assert cluster.query("SELECT count(*) FROM revocations") == [(0,)]
        assert cluster.query("SELECT count(*) FROM idempotency") == [(0,)]


async def test_purged_values_are_in_no_file(cluster: Cluster) -> None:
    """What was removed is overwritten in the database, and the WAL is emptied."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        envelope = cluster.query("SELECT envelope FROM secrets")[0][0]
        await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
        cluster.clock.advance(7 * DAY_S)
        await node.housekeeping.tick()
    stored = b"".join(path.read_bytes() for path in cluster.directory.glob("petsem.db*"))
    assert envelope[40:] not in stored


async def test_forgets_requests_after_a_day(cluster: Cluster) -> None:
    """Their Idempotency-Keys may then be used again."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", key="k", A="1")
        cluster.clock.advance(DAY_S - 1)
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM idempotency") == [(1,)]
        cluster.clock.advance(1)
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM idempotency") == [(0,)]


async def test_forgets_tokens_a_week_after_their_end(cluster: Cluster) -> None:
    """But not while a token that was minted on their authority is kept."""
    async with cluster.running() as node:
        body = http.Mint(caveats=["action = nodes:read", "time < 2027-01-30T00:00:00Z"])
        await node.tokens.mint(cluster.operator, call(), body)
        cluster.clock.advance(DAY_S + 7 * DAY_S + 1)
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM tokens") == [(2,)]
        cluster.clock.advance(15 * DAY_S)
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM tokens") == [(0,)]


async def test_makes_bundles_that_were_dropped(cluster: Cluster) -> None:
    """A bundle that is gone, or of another version, is there again after a tick."""
    async with cluster.running() as node:
        await cluster.org("acme", "web", "api", "new")
        await cluster.set("acme", "web", A="1")
        await cluster.set("acme", "api", A="1")
        await cluster.change("DELETE FROM bundles WHERE app = 1")
        await cluster.change("UPDATE bundles SET version = 7 WHERE app = 2")
        await node.housekeeping.tick()
        assert cluster.query("SELECT app, version FROM bundles WHERE app < 3") == [(1, 1), (2, 1)]


async def test_makes_a_damaged_bundle_again(cluster: Cluster) -> None:
    """A fetch that could not open one answers from the rows, says so once, and has it mended."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
    with cluster.stopped() as db:
        flip(db, "bundles", "envelope", "app = 1")
    async with cluster.running() as node:
        asked = Request(cluster.token, None)
        with structlog.testing.capture_logs() as logs:
            answers = [await node.boot.fetch(asked, "m1", Fetch("acme", "web")) for _ in range(3)]
        assert [entry["event"] for entry in logs] == ["bundle_damaged"]
        assert len({answer.body for answer in answers}) == 1
        assert node.boot._bundles.damaged
        await node.housekeeping.tick()
        assert not node.boot._bundles.damaged
        with structlog.testing.capture_logs() as logs:
            mended = await node.boot.fetch(asked, "m1", Fetch("acme", "web"))
        assert (mended.body, mended.etag, logs) == (answers[0].body, answers[0].etag, [])


async def test_does_not_try_a_hopeless_bundle_again(cluster: Cluster) -> None:
    """Where a value is damaged no bundle can be made, until the app changes."""
    async with cluster.running():
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1", B="2")
    with cluster.stopped() as db:
        flip(db, "secrets", "envelope", "name = 'A'")
        db.execute("DELETE FROM bundles")
    async with cluster.running() as node:
        await node.housekeeping.tick()
        commits = node.writer.commits
        await node.housekeeping.tick()
        assert node.writer.commits == commits
        await cluster.set("acme", "web", A="3")
        assert cluster.query("SELECT version FROM bundles") == [(2,)]


async def test_a_damaged_data_key_fails_nobody_s_write(cluster: Cluster) -> None:
    """The bundle of its app is not asked for, so no group is spoilt by it."""
    async with cluster.running():
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
    with cluster.stopped() as db:
        flip(db, "data_keys", "wrapped", "app = 1")
        db.execute("DELETE FROM bundles")
    async with cluster.running() as node:
        with structlog.testing.capture_logs() as logs:
            await node.housekeeping.tick()
        assert logs == []


async def test_a_full_disk_puts_it_off(cluster: Cluster) -> None:
    """Nothing is raised, nothing is lost; with room again it is done."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await node.orgs.delete_app(cluster.operator, call(), "acme", "web", False)
        cluster.clock.advance(7 * DAY_S)
        node.space.exhausted()
        with structlog.testing.capture_logs() as logs:
            await node.housekeeping.tick()
        assert [entry["event"] for entry in logs] == ["housekeeping_put_off"]
        await node.housekeeping.watch_space()
        assert cluster.datadir.ballast.stat().st_size > 0
        await node.housekeeping.tick()
        assert cluster.query("SELECT count(*) FROM apps") == [(0,)]


async def test_one_chore_that_fails_stops_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it fails in a way that nobody thought of."""

    async def broken() -> None:
        raise RuntimeError("unforeseen")

    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", key="k", A="1")
        cluster.clock.advance(DAY_S)
        broken.__name__ = "_purge"
        monkeypatch.setattr(node.housekeeping, "_purge", broken)
        with structlog.testing.capture_logs() as logs:
            await node.housekeeping.tick()
        assert [entry["event"] for entry in logs] == ["housekeeping_failed"]
        assert cluster.query("SELECT count(*) FROM idempotency") == [(0,)]


async def test_runs_at_its_interval_and_ends_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between start and stop it ticks; stopping waits for no interval."""
    ticked = asyncio.Event()

    async with cluster.running() as node:
        keeping = Housekeeping(
            writer=node.writer,
            pool=node.pool,
            keys=node.keys,
            clock=cluster.clock,
            space=node.space,
            damaged_bundles=set(),
            interval_s=0.0,
            space_interval_s=3600.0,
        )

        async def tick() -> None:
            ticked.set()

        tick.__name__ = "tick"
        monkeypatch.setattr(keeping, "tick", tick)
        keeping.start()
        await asyncio.wait_for(ticked.wait(), PATIENCE_S)
        await keeping.stop()
        assert all(task.done() for task in keeping._tasks)
