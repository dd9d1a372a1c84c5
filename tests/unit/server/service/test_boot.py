"""The boot read: one whole version or an error, from the bundle or from the rows alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import structlog

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server.principal import Request
from petsem.server.service import boot, waiting
from petsem.server.service.boot import Fetched
from petsem.wire import petsem_pb2 as pb
from tests.support.following import follow
from tests.support.nodes import (
    Running,
    Site,
    id_of,
    narrowed,
    refusal,
    running,
    soon,
    values_in,
)

DENIED, NOT_FOUND, CORRUPT, STALE = Code.DENIED, Code.NOT_FOUND, Code.CORRUPT, Code.STALE
VALUES: dict[str, str | bytes] = {
    "A": "alpha", "EMPTY": "", "BYTES": bytes(range(256)), "TEXT": "grüße\n" * 50,
}  # fmt: skip


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that wait give up at once, so that a test need not."""
    monkeypatch.setattr(waiting.until_fresh, "__defaults__", (0.0,))


async def refused(node: Running, **asked: Any) -> tuple[Code, str | None, str | None]:
    """How a fetch is refused."""
    with pytest.raises(PetsemError) as error:
        await node.fetch(**asked)
    return refusal(error.value)


async def drop_bundles(node: Running) -> None:
    await node.tamper("DELETE FROM bundles")


# Bundle and rows


async def test_bundle_and_rows_give_the_same_bytes(node: Running) -> None:
    """Body and etag are identical, for many secrets, for none, and after a rollback."""
    for change in (None, VALUES, {"A": "other"}, 1):
        if isinstance(change, dict):
            await node.patch(change)
        elif change is not None:
            await node.rollback(change)
        assert node.rows("SELECT b.version = a.version FROM bundles b, apps a") == [(1,)]
        bundled = await node.fetch()
        await drop_bundles(node)
        assembled = await node.fetch()
        assert (bundled.body, bundled.etag, bundled.version) == (
            assembled.body, assembled.etag, assembled.version,
        )  # fmt: skip
    reply = pb.FetchResponse.FromString(assembled.body)
    assert (reply.version, [(s.name, s.version) for s in reply.secrets]) == (
        3, [("A", 3), ("BYTES", 1), ("EMPTY", 1), ("TEXT", 1)],
    )  # fmt: skip
    assert values_in(assembled) == {
        n: v.encode() if isinstance(v, str) else v for n, v in VALUES.items()
    }


async def test_the_bundle_is_used(node: Running) -> None:
    """A fetch of the current version opens one envelope: damaged rows do not trouble it."""
    await node.patch(VALUES)
    expected = await node.fetch()
    await node.flip("secrets", "envelope", "1")
    found = await node.fetch()
    assert (found.body, found.etag) == (expected.body, expected.etag)


@pytest.mark.parametrize(
    ("damage", "at"), [("envelope", -1), ("envelope", 0), ("envelope", 12), ("envelope", 60)]
)
async def test_a_damaged_bundle_is_no_loss(node: Running, damage: str, at: int) -> None:
    """Whatever bit of it is flipped, the rows answer, and the log says so."""
    await node.patch(VALUES)
    expected = await node.fetch()
    await node.flip("bundles", damage, "1", at=at)
    with structlog.testing.capture_logs() as logs:
        assert await node.fetch() == expected.__class__(
            expected.version, expected.etag, expected.body,
            node.node.writer.position, False, False,
        )  # fmt: skip
    assert [record["event"] for record in logs] == ["bundle_damaged"]


async def test_a_bundle_of_another_app_or_version_is_not_opened(node: Running) -> None:
    """Bundles that were exchanged, or put back, on the disk answer nothing."""
    await node.create_app("acme", "api")
    await node.patch({"A": "api's"}, app="api")
    await node.patch({"A": "1"})
    old = node.rows("SELECT envelope FROM bundles ORDER BY app")[0][0]
    assert await node.values() == {"A": b"1"}
    await node.patch({"A": "2"})
    apps = [row[0] for row in node.rows("SELECT id FROM apps ORDER BY id")]
    await node.tamper(
        "UPDATE bundles SET version = 2,"
        " envelope = (SELECT envelope FROM bundles WHERE app = ?) WHERE app = ?",
        apps[1], apps[0],
    )  # fmt: skip
    assert await node.values() == {"A": b"2"}
    for version in (2, 1):
        await node.tamper(
            "UPDATE bundles SET version = ?, envelope = ? WHERE app = ?", version, old, apps[0]
        )
        assert await node.values() == {"A": b"2"}


async def test_a_needed_row_that_is_damaged_fails_the_whole_fetch(node: Running) -> None:
    """Never a part of a boot: DATA_LOSS with the name, without a bundle; what does not need that
    row is answered."""
    await node.patch(VALUES)
    await drop_bundles(node)
    await node.flip("secrets", "envelope", "name = 'BYTES'")
    with pytest.raises(PetsemError) as error:
        await node.fetch()
    assert error.value.code is CORRUPT
    assert "BYTES" in error.value.message
    assert await node.values(names=("A",)) == {"A": b"alpha"}
    assert await node.values(token=narrowed(await node.reader(), "secret = A")) == {"A": b"alpha"}


async def test_a_value_moved_to_another_place_is_damaged(node: Running) -> None:
    """An envelope counts for its app, its name and the version that it was sealed for."""
    await node.patch({"A": "1", "B": "1"})
    await node.patch({"A": "2"})
    await drop_bundles(node)
    for source in ("name = 'B'", "name = 'A' AND since = 1"):
        kept = node.rows("SELECT envelope FROM secrets WHERE name = 'A' AND since = 2")[0][0]
        await node.tamper(
            f"UPDATE secrets SET envelope = (SELECT envelope FROM secrets WHERE {source})"
            " WHERE name = 'A' AND since = 2"
        )
        assert (await refused(node))[0] is CORRUPT
        await node.tamper("UPDATE secrets SET envelope = ? WHERE name = 'A' AND since = 2", kept)
    assert await node.values() == {"A": b"2", "B": b"1"}


async def test_a_damaged_row_blocks_no_write_that_does_not_touch_it(node: Running) -> None:
    """The write stands. The next bundle is made out of the last one, if there is one; where it must
    be made from the rows it is dropped, until the damaged secret is set again."""
    await node.patch(VALUES)
    await node.flip("secrets", "envelope", "name = 'A'")
    assert (await node.patch({"B": "newer"})).version == 2
    assert (await node.values())["A"] == b"alpha"
    await drop_bundles(node)
    with structlog.testing.capture_logs() as logs:
        assert (await node.patch({"B": "new"})).version == 3
    assert [(r["event"], "alpha" in repr(r)) for r in logs] == [("bundle_dropped", False)]
    assert node.rows("SELECT * FROM bundles") == []
    assert (await refused(node))[0] is CORRUPT
    assert (await node.patch({"A": "again"})).version == 4
    assert node.rows("SELECT version FROM bundles") == [(4,)]
    assert (await node.values())["A"] == b"again"


async def test_a_damaged_data_key_hurts_its_app_alone(tmp_path: Path) -> None:
    """Writes of others in the same group are stored, and the app can still be deleted."""
    site = Site(tmp_path / "node")
    async with site.running() as node:
        await node.furnish("acme", "web", "api")
        await node.patch({"A": "alpha"})
    wrapped, key_id = site.offline(
        "SELECT wrapped, d.id FROM data_keys d JOIN apps a ON a.id = d.app WHERE a.name = 'web'"
    )[0]
    flipped = wrapped[:-1] + bytes((wrapped[-1] ^ 1,))
    site.offline("UPDATE data_keys SET wrapped = ? WHERE id = ?", flipped, key_id)
    async with site.running() as node:
        assert (await refused(node))[0] is CORRUPT
        broken, other, deleted = await asyncio.gather(
            node.patch({"A": "x"}), node.patch({"A": "y"}, app="api"), node.delete_app(),
            return_exceptions=True,
        )  # fmt: skip
        assert isinstance(broken, PetsemError)
        assert broken.code is CORRUPT
        assert (other.version, deleted.purge_at is not None) == (1, True)  # type: ignore[union-attr]


async def test_a_bundle_is_made_once_for_an_app_and_group(node: Running) -> None:
    """Ten writes to one app in one group make one bundle, of the last version."""
    made: list[object] = []
    rebuild = node.node.writer._finish

    def counting(txn: Any, topic: Any, notes: Any) -> None:
        made.append(topic)
        rebuild(txn, topic, notes)

    node.node.writer._finish = counting
    await asyncio.gather(*(node.patch({f"N{n}": "x"}) for n in range(10)))
    assert len(made) == 1
    assert node.rows("SELECT version FROM bundles") == [(10,)]


# What is asked for


async def test_a_known_etag_saves_the_body(node: Running) -> None:
    """The same content is `not_modified` with an empty body; another version, other names or a
    wrong etag is sent whole."""
    await node.patch(VALUES)
    first = await node.fetch()
    again = await node.fetch(known_etag=first.etag)
    assert (again.not_modified, again.body, again.etag, again.version) == (True, b"", first.etag, 1)
    for asked in (
        {"known_etag": first.etag[:-1]},
        {"known_etag": first.etag, "names": ("A",)},
        {"known_etag": bytes(16)},
        {"known_etag": b""},
    ):
        found = await node.fetch(**asked)  # type: ignore[arg-type]
        assert (found.not_modified, found.body != b"") == (False, True)
    part = await node.fetch(names=("A",))
    assert (await node.fetch(names=("A",), known_etag=part.etag)).not_modified
    await node.patch({"A": "alpha"})
    assert not (await node.fetch(known_etag=first.etag)).not_modified
    assert (await node.fetch(version=1, known_etag=first.etag)).not_modified


async def test_an_etag_dies_with_its_app(node: Running) -> None:
    """An app that was made again, with the same secrets at the same version, has another etag."""
    await node.patch({"A": "alpha"})
    first = await node.fetch()
    await node.delete_app(now=True)
    await node.create_app()
    await node.patch({"A": "alpha"})
    second = await node.fetch(known_etag=first.etag)
    assert (second.version, second.not_modified) == (1, False)
    assert second.etag != first.etag


async def test_names(node: Running) -> None:
    """Those that were asked for, in order and once; one that is not there fails the fetch."""
    await node.patch(VALUES)
    found = await node.fetch(names=("TEXT", "A", "A"))
    assert list(values_in(found)) == ["A", "TEXT"]
    assert not found.filtered
    assert await refused(node, names=("A", "GONE")) == (NOT_FOUND, None, None)
    assert await refused(node, names=("A B",)) == (Code.INVALID, None, None)


async def test_versions_of_the_history(node: Running) -> None:
    """Any version as it was; the current one by its number too; one that is not there yet is not
    found on the leader."""
    await node.patch({"A": "1", "B": "1"})
    await node.patch({"A": "2"}, unset=["B"])
    assert await node.values(version=1) == {"A": b"1", "B": b"1"}
    current = await node.fetch()
    assert await node.fetch(version=2) == current
    old = await node.fetch(version=1, names=("B",))
    reply = pb.FetchResponse.FromString(old.body)
    assert (old.version, reply.version, reply.secrets[0].version) == (1, 1, 1)
    assert await refused(node, version=3) == (NOT_FOUND, None, None)
    follow(node.node)
    with pytest.raises(PetsemError) as error:
        await node.fetch(version=3)
    detail = error.value.detail
    assert (error.value.code, detail.have_version, detail.need_version) == (STALE, 2, 3)


async def test_a_narrow_token_sees_its_names_and_is_told(node: Running) -> None:
    """All `secret` caveats together filter; names beyond them are left out, whether they are
    there or not; `filtered` says that something may be missing."""
    await node.patch({"DB_URL": "1", "DB_KEY": "2", "A": "3"})
    token = narrowed(await node.reader(), "secret in DB_*, A", "secret = DB_*")
    found = await node.fetch(token=token)
    assert (values_in(found), found.filtered) == ({"DB_URL": b"1", "DB_KEY": b"2"}, True)
    for names in (("DB_URL", "A"), ("DB_URL", "GONE")):
        assert await node.values(token=token, names=names) == {"DB_URL": b"1"}
    assert await refused(node, token=token, names=("DB_GONE",)) == (NOT_FOUND, None, None)
    whole = narrowed(await node.reader(), "secret = *")
    seen = await node.fetch(token=whole)
    assert (seen.filtered, seen.etag) == (True, (await node.fetch()).etag)
    none = await node.fetch(token=narrowed(token, "secret = NOTHING"))
    assert (values_in(none), none.filtered, none.version) == ({}, True, 1)


async def test_who_may_fetch(node: Running) -> None:
    """The org, app, action and machine of the request decide, before anyone looks whether the app
    exists."""
    await node.patch({"A": "alpha"})
    token = narrowed(await node.reader(), "app = web", "machine = m1", node.time_in(60))
    assert await node.values(token=token, machine="m1") == {"A": b"alpha"}
    for asked, caveat in (
        ({"machine": "m2"}, "machine = m1"),
        ({"machine": ""}, "machine = m1"),
        ({"machine": "m1", "app": "api"}, "app = web"),
        ({"machine": "m1", "app": "gone"}, "app = web"),
    ):
        assert await refused(node, token=token, **asked) == (DENIED, "CAVEAT", caveat)  # type: ignore[arg-type]
    assert await refused(node, token=token, machine="m1", org="gone") == (DENIED, "WRONG_ORG", None)
    assert await refused(node, app="gone") == (NOT_FOUND, None, None)
    assert await refused(node, org="gone") == (NOT_FOUND, None, None)
    writer = (await node.mint("action = secrets:write")).token
    assert (await refused(node, token=writer))[0] is DENIED


async def test_deleted_apps_and_orgs_answer_nothing(node: Running) -> None:
    """Softly deleted is gone, for a token of the cluster key too."""
    await node.patch({"A": "alpha"})
    await node.delete_app()
    assert await refused(node) == (NOT_FOUND, None, None)
    await node.create_app("acme", "api")
    await node.delete_org()
    assert await refused(node, app="api") == (NOT_FOUND, None, None)


async def test_the_position_is_that_of_the_data(node: Running) -> None:
    """Each answer says where the database stood when it was read."""
    for n in range(3):
        done = await node.patch({"A": f"{n}"})
        found = await node.fetch()
        assert str(found.position) == done.position
        assert values_in(found) == {"A": f"{n}".encode()}


# Waiting for what a reader asked for


async def test_a_fetch_waits_for_a_version_and_gets_it(node: Running) -> None:
    """A read that asks for the next version is answered once it is there."""
    await node.patch({"A": "1"})
    waits = asyncio.create_task(node.fetch(min_version=2))
    await asyncio.sleep(0)
    assert not waits.done()
    await node.patch({"A": "2"})
    assert values_in(await soon(waits)) == {"A": b"2"}


async def test_a_fetch_waits_for_a_position_and_gets_it(node: Running) -> None:
    """A fence holds from the transaction on that it names."""
    at = node.node.writer.position
    waits = asyncio.create_task(node.fetch(min_position=Position(at.epoch, at.txid + 2)))
    for n in range(2):
        assert not waits.done()
        await node.patch({"A": f"{n}"})
    assert values_in(await soon(waits)) == {"A": b"1"}
    assert (await node.fetch(min_position=node.node.writer.position)).version == 2


async def test_what_does_not_come_in_time_is_stale(node: Running, impatient: None) -> None:
    """The answer says what the node has and what was asked for."""
    await node.patch({"A": "1"})
    have = node.node.writer.position
    for need in (Position(have.epoch, have.txid + 1), Position(have.epoch + 1, 1)):
        with pytest.raises(PetsemError) as error:
            await node.fetch(min_position=need)
        detail = error.value.detail
        assert (error.value.code, detail.have, detail.need) == (STALE, have, need)
    with pytest.raises(PetsemError) as error:
        await node.fetch(min_version=2)
    detail = error.value.detail
    assert (error.value.code, detail.have_version, detail.need_version) == (STALE, 1, 2)


async def test_a_fence_on_a_lost_branch_is_lost_at_once(tmp_path: Path) -> None:
    """What no epoch of this database holds can never be reached: `conflict`, reason LOST."""
    site = Site(tmp_path / "node")
    async with site.running() as node:
        await node.furnish()
        await node.patch({"A": "1"})
        old = node.node.writer.position
    async with site.running() as node:
        await node.patch({"A": "2"})
        for held in (old, Position(1, 1), Position(0, 0), node.node.writer.position):
            assert (await node.fetch(min_position=held)).version == 2
        first = node.node.writer.position.txid - 1
        lost = (
            Position(old.epoch, first),
            Position(old.epoch, old.txid + 100),
            Position(0, 5),
            Position(old.epoch, 0),
            Position(node.node.writer.position.epoch, first - 1),
        )
        for need in lost:
            assert await refused(node, min_position=need) == (Code.CONFLICT, "LOST", None), need


async def test_a_token_that_is_revoked_while_it_waits_gets_nothing(node: Running) -> None:
    """The token is held against the database again at each look."""
    await node.patch({"A": "1"})
    token = await node.reader()
    waits = asyncio.create_task(node.fetch(token=token, min_version=2))
    await asyncio.sleep(0)
    await node.revoke(id_of(token))
    with pytest.raises(PetsemError) as error:
        await soon(waits)
    assert refusal(error.value) == (DENIED, "REVOKED", None)


async def test_those_who_wait_cost_a_bounded_number_of_looks(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many commits there are, a read that waits looks less and less often."""
    looks = 0
    read = boot.Boot._read

    def counting(self: boot.Boot, *args: Any) -> Fetched:
        nonlocal looks
        looks += 1
        return read(self, *args)

    monkeypatch.setattr(boot.Boot, "_read", counting)
    monkeypatch.setattr(waiting.until_fresh, "__defaults__", (0.3,))
    waits = asyncio.create_task(node.fetch(min_version=10_000))
    commits = 0
    while not waits.done():
        await node.patch({"A": "x"})
        commits += 1
    assert waits.exception() is not None
    assert looks <= 12
    assert commits > looks


# Watch


def watch(
    node: Running, token: str | None = None, after: int = 0
) -> AsyncIterator[tuple[int, Position]]:
    """A stream of acme/web's versions."""
    request = Request(token or node.operator, None)
    return node.node.boot.watch(request, "", "acme", "web", after)


async def ending(stream: Any) -> tuple[Code, str | None, str | None]:
    """With what a stream ends."""
    with pytest.raises(PetsemError) as error:
        await soon(anext(stream))
    return refusal(error.value)


async def test_a_watch_begins_with_what_was_missed(node: Running) -> None:
    """Past the version that the client has, it is told at once; then at each new one."""
    await node.patch({"A": "1"})
    await node.patch({"A": "2"})
    async with aclosing(watch(node, after=1)) as stream:  # type: ignore[type-var]
        assert await soon(anext(stream)) == (2, node.node.writer.position)
        for version in (3, 4):
            await node.patch({"A": f"{version}"})
            assert await soon(anext(stream)) == (version, node.node.writer.position)


async def test_a_watch_that_is_up_to_date_waits(node: Running) -> None:
    """Nothing is said until something changes, and changes of others are nothing."""
    await node.create_app("acme", "api")
    await node.patch({"A": "1"})
    async with aclosing(watch(node, after=1)) as stream:  # type: ignore[type-var]
        news = asyncio.ensure_future(anext(stream))
        await node.patch({"A": "1"}, app="api")
        await asyncio.sleep(0)
        assert not news.done()
        await node.patch({"A": "2"})
        assert (await soon(news))[0] == 2


async def test_versions_in_quick_succession_become_one_event(node: Running) -> None:
    """A client is told of the last of them, and misses none."""
    async with aclosing(watch(node)) as stream:  # type: ignore[type-var]
        news = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for n in range(5):
            await node.patch({"A": f"{n}"})
        seen = [(await soon(news))[0]]
        while seen[-1] < 5:
            seen.append((await soon(anext(stream)))[0])
        assert seen == sorted(set(seen))
        assert len(seen) <= 2


async def test_a_version_from_a_life_before_is_no_reason_to_wait(node: Running) -> None:
    """A client that saw version 9 of an app that was deleted and made again is told at once where
    the new one stands; behind a replica that lags it waits."""
    await node.patch({"A": "1"})
    async with aclosing(watch(node, after=9)) as stream:  # type: ignore[type-var]
        assert (await soon(anext(stream)))[0] == 1
    follow(node.node)
    async with aclosing(watch(node, after=2)) as stream:  # type: ignore[type-var]
        news = asyncio.ensure_future(anext(stream))
        for n in range(2):
            await node.patch({"A": f"{n}"})
        assert (await soon(news))[0] == 3


@pytest.mark.parametrize("end", ["revoke", "expire", "delete", "purge", "org"])
async def test_a_watch_ends_with_what_it_stands_on(
    node: Running, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A revoked or expired token ends it at the next look, at the latest after ten seconds; a
    deleted app at once."""
    monkeypatch.setattr(boot, "RECHECK_S", 0.01 if end in ("revoke", "expire", "org") else 600)
    token = await node.reader(life_s=60)
    await node.patch({"A": "1"})
    async with aclosing(watch(node, token)) as stream:  # type: ignore[type-var]
        await soon(anext(stream))
        news = asyncio.ensure_future(ending(stream))
        await asyncio.sleep(0)
        if end == "revoke":
            await node.revoke(id_of(token))
            expected: tuple[Code, str | None] = (DENIED, "REVOKED")
        elif end == "expire":
            caveat = node.time_in(60)
            node.clock.advance(60)
            expected = (Code.UNAUTHENTICATED, "EXPIRED")
            assert caveat
        elif end == "org":
            await node.delete_org()
            expected = (Code.UNAUTHENTICATED, "UNKNOWN_KEY")
        else:
            await node.delete_app(now=end == "purge")
            expected = (NOT_FOUND, None)
        assert (await soon(news))[:2] == expected


async def test_a_watch_does_not_go_over_to_an_app_made_again(node: Running) -> None:
    """The same name is not the same app: the stream ends, and the client begins anew."""
    await node.patch({"A": "1"})
    async with aclosing(watch(node)) as stream:  # type: ignore[type-var]
        await soon(anext(stream))
        await node.delete_app(now=True)
        await node.create_app()
        await node.patch({"A": "1"})
        await node.patch({"A": "2"})
        assert (await ending(stream))[0] is NOT_FOUND


async def test_streams_are_bounded_and_give_their_place_back(node: Running) -> None:
    """One over the cap is refused with `limit`; a stream that ended, or was never begun, holds no
    place; and no waiter is left behind."""
    node.node.boot._streams_max = 2
    await node.patch({"A": "1"})
    watch(node)
    streams = [watch(node) for _ in range(2)]
    for stream in streams:
        assert (await soon(anext(stream)))[0] == 1
    assert (await ending(watch(node)))[0] is Code.LIMIT
    await streams[0].aclose()  # type: ignore[attr-defined]
    third = watch(node)
    assert (await soon(anext(third)))[0] == 1
    for stream in (streams[1], third):
        await stream.aclose()  # type: ignore[attr-defined]
    assert node.node.boot._streams == 0
    assert node.node.changes.waited_for == set()


async def test_who_may_watch(node: Running) -> None:
    """As for a fetch: the names decide first."""
    writer = (await node.mint("action = secrets:write")).token
    assert (await ending(watch(node, writer)))[:2] == (DENIED, "CAVEAT")
    await node.delete_app()
    assert (await ending(watch(node, await node.reader())))[0] is NOT_FOUND
    narrow = narrowed(await node.reader(), "app = api")
    assert (await ending(watch(node, narrow)))[0] is DENIED


async def test_an_answer_does_not_show_in_a_repr(node: Running) -> None:
    """What goes around in the process is bytes of secrets, and says so to no logger."""
    await node.patch({"A": "canary-9"})
    assert "canary-9" not in repr(await node.fetch())
