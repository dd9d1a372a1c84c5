"""Idempotency: a request that is repeated happens once, whatever was lost on the way."""

from __future__ import annotations

import asyncio
import copy
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import structlog

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server import policy
from petsem.server.datadir import DataDir
from petsem.server.principal import Names
from petsem.server.service.batches import check_batch
from petsem.server.service.writes import KEPT_MS, Call
from petsem.wire import http
from tests.support.failing_vfs import FULL, IO, FailingVfs
from tests.support.nodes import Running, Site, call, running

CANARY = "canary-5f1d"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


@pytest.fixture
def vfs() -> FailingVfs:
    return FailingVfs()


@pytest.fixture
async def frail(tmp_path: Path, vfs: FailingVfs) -> AsyncIterator[Running]:
    """A node whose disk fails on command."""
    async with Site(tmp_path / "node", vfs=vfs.name).running() as node:
        await node.furnish()
        yield node
        vfs.heal()


async def code_of(write: object) -> Code | int:
    """The version that a write made, or the code of its refusal."""
    try:
        return (await write).version  # type: ignore[misc,no-any-return]
    except PetsemError as e:
        return e.code


def version(node: Running) -> int:
    return int(node.rows("SELECT version FROM apps")[0][0])


async def test_a_repeated_write_happens_once(node: Running) -> None:
    """The same key and body give the same outcome and position, hours later and after a restart of
    everything else."""
    first = await node.patch({"A": "alpha"}, key="k")
    await node.patch({"B": "beta"})
    node.clock.advance(3600)
    assert await node.patch({"A": "alpha"}, key="k") == first
    assert (first.version, version(node)) == (1, 2)


async def test_it_is_remembered_across_a_restart(tmp_path: Path) -> None:
    """The record is in the database: a new process knows it, in another epoch."""
    site = Site(tmp_path / "node")
    async with site.running() as node:
        await node.furnish()
        first = await node.patch({"A": "alpha"}, key="k")
    async with site.running() as node:
        assert await node.patch({"A": "alpha"}, key="k") == first
        assert Position.parse(first.position).epoch < node.node.writer.position.epoch


async def test_every_kind_of_write_is_remembered(node: Running) -> None:
    """Rollback, destroy and the calls on orgs and apps answer the same when they are repeated,
    though what they did could not be done twice."""
    await node.patch({"A": "1"})
    await node.patch({"A": "2"})
    for _ in range(2):
        assert (await node.rollback(1, key="r")).version == 3
        destroyed = await node.destroy("A", key="d")
        assert (destroyed.version, destroyed.destroyed[0].versions) == (4, [1, 2, 3])
    operator = node.principal(policy.ORGS_ADMIN, Names("acme"))
    orgs = node.node.orgs
    settings = http.SettingsPatch(boot_max_staleness_s=60)
    calls = {
        "create_org": lambda: orgs.create_org(operator, call("/o", key="k"), "beta"),
        "create_app": lambda: orgs.create_app(operator, call("/a", key="k"), "acme", "api"),
        "settings": lambda: orgs.patch_settings(operator, call("/s", key="k"), "acme", settings),
        "delete_app": lambda: orgs.delete_app(operator, call("/d", key="k"), "acme", "api", False),
        "undelete": lambda: orgs.undelete_app(operator, call("/u", key="k"), "acme", "api"),
        "purge": lambda: orgs.delete_app(operator, call("/p", key="k"), "acme", "api", True),
        "delete_org": lambda: orgs.delete_org(operator, call("/do", key="k"), "beta", True),
    }
    first = {}
    for name, make in calls.items():
        first[name] = await make()
        node.clock.advance(1)
    await orgs.patch_settings(
        operator, call("/s2"), "acme", http.SettingsPatch(boot_max_staleness_s=90)
    )
    assert {name: await make() for name, make in calls.items()} == first


async def test_another_body_conflicts_and_changes_nothing(node: Running) -> None:
    """A key stands for one body."""
    await node.patch({"A": "alpha"}, key="k")
    assert await code_of(node.patch({"A": "other"}, key="k")) is Code.CONFLICT
    assert await code_of(node.patch({"A": "alpha"}, unset=["B"], key="k")) is Code.CONFLICT
    assert version(node) == 1


async def test_a_key_is_one_tokens_one_methods_and_one_paths(node: Running) -> None:
    """Another token, method or path may use the same key for something else."""
    other = await node.org_token()
    await node.patch({"A": "1"}, key="k")
    await node.patch({"A": "2"}, key="k", token=other)
    await node.create_app("acme", "api")
    await node.patch({"A": "3"}, key="k", app="api")
    principal = node.principal(policy.SECRETS_WRITE, Names("acme", "web", secrets=("A",)))
    batch = check_batch(http.SecretsPatch(set={"A": "4"}))
    await node.node.secrets.patch(principal, Call("PUT", "/x", b"", "k"), "acme", "web", batch)
    await node.node.secrets.patch(principal, Call("PUT", "/y", b"", "k"), "acme", "web", batch)
    assert node.rows("SELECT name, version FROM apps ORDER BY name") == [("api", 1), ("web", 4)]
    assert node.rows("SELECT count(*) FROM idempotency WHERE key = 'k'") == [(5,)]


async def test_a_refused_write_may_be_tried_again_with_its_key(node: Running) -> None:
    """What failed is not remembered: the record lives and dies with the savepoint."""
    assert await code_of(node.patch(unset=["A"], key="k")) is Code.NOT_FOUND
    assert node.rows("SELECT count(*) FROM idempotency") == [(0,)]
    await node.patch({"A": "alpha"})
    assert await code_of(node.patch(unset=["A"], key="k")) == 2


async def test_a_key_is_forgotten_after_24_hours(node: Running) -> None:
    """To the millisecond: then the same request is a new one."""
    token = await node.org_token(life_s=7 * 86_400)
    await node.patch({"A": "alpha"}, key="k", token=token)
    node.clock.advance((KEPT_MS - 1) / 1000)
    assert (await node.patch({"A": "alpha"}, key="k", token=token)).version == 1
    node.clock.advance(0.001)
    assert (await node.patch({"A": "alpha"}, key="k", token=token)).version == 2
    assert (await node.patch({"A": "alpha"}, key="k", token=token)).version == 2


async def test_two_of_one_key_in_one_group(node: Running) -> None:
    """Sent at once, one happens and the other gets its outcome, or conflicts if the bodies
    differ."""
    commits = node.node.writer.commits
    first, second, other = await asyncio.gather(
        node.patch({"A": "1"}, key="k"),
        node.patch({"A": "1"}, key="k"),
        code_of(node.patch({"A": "2"}, key="k")),
    )
    assert first == second
    assert other is Code.CONFLICT
    assert (version(node), node.node.writer.commits) == (1, commits + 1)


@pytest.mark.parametrize("column", ["outcome", "body_mac", "data_key"])
async def test_a_damaged_record_is_no_answer(node: Running, column: str) -> None:
    """A flipped bit in what is stored is `corrupt` (of the body's MAC: `conflict`), and the write
    does not happen a second time."""
    await node.patch({"A": "alpha"}, key="k")
    value = node.rows(f"SELECT {column} FROM idempotency")[0][0]
    flipped = value[:-1] + bytes((value[-1] ^ 1,))
    await node.tamper(f"UPDATE idempotency SET {column} = ?", flipped)
    expected = Code.CONFLICT if column == "body_mac" else Code.CORRUPT
    assert await code_of(node.patch({"A": "alpha"}, key="k")) is expected
    assert version(node) == 1


@pytest.mark.parametrize("column", ["path", "key", "method"])
async def test_a_record_moved_to_another_request_is_no_answer(node: Running, column: str) -> None:
    """Whoever can write to the disk cannot make one request's outcome another's."""
    await node.patch({"A": "alpha"}, key="k")
    principal = node.principal(policy.SECRETS_WRITE, Names("acme", "web", secrets=("A",)))
    path, body = (
        node.rows("SELECT path FROM idempotency")[0][0],
        b'{"set": {"A": "alpha"}, "unset": []}',
    )
    moved = {"method": "POST", "path": path, "key": "k"} | {column: "elsewhere"}
    await node.tamper(f"UPDATE idempotency SET {column} = 'elsewhere'")
    batch = check_batch(http.SecretsPatch(set={"A": "alpha"}))
    made = Call(moved["method"], moved["path"], body, moved["key"])
    write = node.node.secrets.patch(principal, made, "acme", "web", batch)
    assert await code_of(write) is Code.CORRUPT


@pytest.mark.parametrize("key", ["", "x" * 129, "tab\t", "ü", "a\nb", "\x00"])
async def test_a_key_is_1_to_128_printable_characters(node: Running, key: str) -> None:
    """Others are refused before anything happens; the longest one works."""
    assert await code_of(node.patch({"A": "1"}, key=key)) is Code.INVALID
    assert version(node) == 0
    assert await code_of(node.patch({"A": "1"}, key="~ " * 64)) == 1


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_after_an_unknown_outcome_the_key_tells(
    frail: Running, vfs: FailingVfs, operation: str
) -> None:
    """COMMIT fails: the outcome is unknown. The same request with the same key then tells the
    truth, and there is one version whichever it was."""
    await frail.patch({"A": "before"})
    vfs.fail(operation, "-wal", 0, IO)
    assert await code_of(frail.patch({"A": "after"}, key="k")) is Code.INDETERMINATE
    vfs.heal()
    repeated = await frail.patch({"A": "after"}, key="k")
    assert (repeated.version, version(frail)) == (2, 2)
    assert await frail.values() == {"A": b"after"}
    assert Position.parse(repeated.position).txid == frail.node.writer.position.txid


def as_after_a_crash(source: Path, target: Path) -> None:
    """Copy a directory that is in use, as a disk would be found after the machine failed."""
    # By another process, because closing a file here would drop this one's locks on it.
    subprocess.run(["cp", "-r", source, target], check=True)
    (target / "petsem.db-shm").unlink()
    shutil.copy(f"{source}.keyring.json", f"{target}.keyring.json")


async def test_an_unknown_outcome_may_have_been_a_success(
    frail: Running, vfs: FailingVfs, tmp_path: Path
) -> None:
    """A COMMIT whose sync failed, then a crash: recovery finds the transaction whole, and the key
    tells that it happened, where it happened."""
    await frail.patch({"A": "before"})
    at = frail.node.writer.position
    vfs.fail("sync", "-wal", 0, IO)
    assert await code_of(frail.patch({"A": "after"}, key="k")) is Code.INDETERMINATE
    as_after_a_crash(tmp_path / "node", tmp_path / "crashed")
    crashed = copy.copy(frail.site)
    crashed.datadir, crashed.vfs = DataDir(tmp_path / "crashed"), None
    async with crashed.running() as again:
        assert await again.values() == {"A": b"after"}
        repeated = await again.patch({"A": "after"}, key="k")
        assert (repeated.version, version(again)) == (2, 2)
        assert repeated.position == str(Position(at.epoch, at.txid + 1))


async def test_a_mint_after_an_unknown_outcome_gives_one_token(
    frail: Running, vfs: FailingVfs
) -> None:
    """However the COMMIT ended, the key leads to one issued token, which works."""
    until = frail.time_in(60)
    vfs.fail("sync", "-wal", 0, IO)
    with pytest.raises(PetsemError) as error:
        await frail.mint("action = secrets:read", until, life_s=None, key="k")
    assert error.value.code is Code.INDETERMINATE
    vfs.heal()
    minted = await frail.mint("action = secrets:read", until, life_s=None, key="k")
    assert frail.rows("SELECT count(*) FROM tokens WHERE org IS NOT NULL") == [(1,)]
    await frail.patch({"A": "alpha"})
    assert await frail.values(token=minted.token) == {"A": b"alpha"}


async def test_nobody_is_refused_for_what_was_never_stored(frail: Running, vfs: FailingVfs) -> None:
    """A request that conflicts with another of its group is not told so when their COMMIT fails:
    what it would conflict with may not exist."""
    vfs.fail("write", "-wal", 0, IO)
    found = await asyncio.gather(
        code_of(frail.patch({"A": "1"}, key="k")),
        code_of(frail.patch({"A": "2"}, key="k")),
        code_of(frail.patch({"A": "3"}, if_version=0)),
    )
    assert found == [Code.INDETERMINATE, Code.UNAVAILABLE, Code.UNAVAILABLE]
    vfs.heal()
    assert await code_of(frail.patch({"A": "2"}, key="k")) == 1


async def test_a_full_disk_is_a_plain_refusal_and_reads_go_on(
    frail: Running, vfs: FailingVfs
) -> None:
    """A disk that fills at COMMIT stores nothing of the group; reads answer, and when there is room
    the same key does the write."""
    await frail.patch({"A": "before"})
    vfs.fail("write", "-wal", 0, FULL)
    found = await asyncio.gather(
        code_of(frail.patch({"A": "after"}, key="k")), code_of(frail.patch({"B": "x"}))
    )
    assert found == [Code.UNAVAILABLE, Code.UNAVAILABLE]
    assert frail.node.space.low
    assert await frail.values() == {"A": b"before"}
    assert await code_of(frail.patch({"A": "after"}, key="k")) is Code.UNAVAILABLE
    vfs.heal()
    frail.node.space.restore()
    assert await code_of(frail.patch({"A": "after"}, key="k")) == 2


async def test_an_error_that_ends_the_transaction_takes_nobody_else_along(
    frail: Running, vfs: FailingVfs
) -> None:
    """A statement that SQLite answers by rolling everything back fails its own request; the others
    of the group run again and are stored, each once."""

    def spill(_: object) -> None:
        vfs.fail("write", "", 0, IO)

    async def offender() -> object:
        def job(txn: object) -> None:
            db: apsw.Connection = txn.db  # type: ignore[attr-defined]
            db.execute("PRAGMA cache_size = 1; PRAGMA cache_spill = 1")
            spill(None)
            try:
                db.execute(
                    "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 400)"
                    " INSERT INTO org_settings SELECT 1, x, hex(randomblob(2000)) FROM n"
                )
            finally:
                vfs.heal()

        try:
            await frail.node.writer.submit(job)
        except PetsemError as e:
            return e.code
        return None

    first, broken, last = await asyncio.gather(
        code_of(frail.patch({"A": "1"}, key="a")),
        offender(),
        code_of(frail.patch({"B": "2"}, key="b")),
    )
    assert broken is Code.UNAVAILABLE
    assert {first, last} == {1, 2}
    assert await frail.values() == {"A": b"1", "B": b"2"}
    assert frail.rows("SELECT count(*) FROM org_settings") == [(0,)]


async def test_what_is_stored_of_a_request_holds_no_value(node: Running) -> None:
    """Neither the record, nor its MAC without the key, nor the repr of the call, nor a log line
    gives a value away."""
    with structlog.testing.capture_logs() as logs:
        await node.patch({"A": CANARY}, key="k")
        await code_of(node.patch({"A": CANARY + "x"}, key="k"))
    record = node.rows("SELECT * FROM idempotency")[0]
    assert CANARY not in repr(record) + repr(logs) + repr(call("/p", CANARY, "k"))
    assert CANARY.encode() not in b"".join(v for v in record if isinstance(v, bytes))


async def test_housekeeping_between_does_not_forget_too_early(node: Running) -> None:
    """What is younger than a day survives the minute's work; what is older goes."""
    token = await node.org_token(life_s=7 * 86_400)
    await node.patch({"A": "1"}, key="old", token=token)
    node.clock.advance(KEPT_MS / 1000 - 60)
    await node.patch({"A": "2"}, key="new", token=token)
    await node.node.housekeeping.tick()
    assert node.rows("SELECT count(*) FROM idempotency") == [(2,)]
    node.clock.advance(60)
    await node.node.housekeeping.tick()
    assert node.rows("SELECT key FROM idempotency") == [("new",)]
    assert (await node.patch({"A": "2"}, key="new", token=token)).version == 2
