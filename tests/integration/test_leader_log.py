"""The leader's log against real ends: killed at random, killed in each step, on a full disk, with
others at its files. After each the log gives the database, byte for byte.

The seed is printed on failure; `PETSEM_KILL_SEED` runs with another one and `PETSEM_KILLS` kills
that often.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from petsem.model import Position
from petsem.replication import steps
from petsem.replication.image import PAGE_SIZE
from tests.support import cluster
from tests.support.daemon import Daemon, run, until
from tests.support.doors import Doors, values_of
from tests.support.failing_step import FatalNode
from tests.support.keep_alive import KeepAlive, Unanswered
from tests.support.offline import Disk
from tests.support.rebuilt import Rebuilt, rebuild, shown, wal_of
from tests.support.small_disk import SmallDisk, small_disk

SEED: Final = int(os.environ.get("PETSEM_KILL_SEED", random.randrange(2**32)))
KILLS: Final = int(os.environ.get("PETSEM_KILLS", "5"))
WRITERS: Final = 12
VALUE: Final = "x" * 65_000
STEPS: Final = (
    *(steps.COMMIT, steps.CAPTURE, steps.LOG_APPEND),
    *(steps.LOG_SYNC, steps.SEGMENT_CHANGE, steps.CHECKPOINT),
)
SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"

_STOCK: Final = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
for statement in sys.argv[2:]:
    print(db.execute(statement).fetchall())
db.close()
"""


@dataclass
class Load:
    """Clients that write without pause, and all that they were told."""

    daemon: Daemon
    operator: str
    values: dict[str, list[str]] = field(default_factory=dict)
    """By name, what was acknowledged last and then what was asked for since."""
    epochs: dict[int, set[int]] = field(default_factory=dict)
    """The epochs in which a TXID was acknowledged."""
    answers: int = 0
    asked: int = 0

    async def write(self, name: str, sizes: Callable[[], int], done: asyncio.Event) -> None:
        """One value after another, until the end or the node's."""
        line = KeepAlive(self.daemon.http, self.operator)
        told = self.values.setdefault(name, ["first"])
        while not done.is_set():
            self.asked += 1
            value = f"{self.asked}-" + "v" * sizes()
            told.append(value)
            try:
                answer = await line.ask("PATCH", SECRETS, {"set": {name: value}})
            except Unanswered:
                break
            if answer.status == 200:
                self.answers += 1
                at = Position.parse(answer.body["position"])
                self.epochs.setdefault(at.txid, set()).add(at.epoch)
                told[:] = [value]
            else:
                assert answer.status in (503, 504), answer
                await asyncio.sleep(0.01)
        line.drop()

    async def during(self, act: Awaitable[object], sizes: Callable[[], int]) -> None:
        """Write while that happens."""
        done = asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self.write(f"N{number}", sizes, done))
            await act
            done.set()

    def check(self, doors: Doors) -> None:
        """Nothing acknowledged is missing, and no TXID was used twice."""
        stored = values_of(doors.fetch("acme/web"))
        for name, told in self.values.items():
            found = stored[name].decode()
            assert found in told, f"{name} was lost"
            told[:] = [found]
        assert all(len(epochs) == 1 for epochs in self.epochs.values())


def made(tmp_path: Path, kind: type[Daemon] = Daemon) -> tuple[Daemon, str]:
    """A node that ran once, with an app, and its operator."""
    fresh = cluster.make(tmp_path)
    daemon = kind(fresh.directory)
    with daemon, Doors(daemon, fresh.operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", **{f"N{number}": "first" for number in range(WRITERS)})
    return daemon, fresh.operator


def look(daemon: Daemon) -> Rebuilt:
    """Of a node that does not run: the log holds, and each of its files gives its checksum."""
    ran = run("log", "verify", daemon.directory)
    assert ran.code == 0, ran
    return rebuild(daemon.directory / "ltx")


def same(daemon: Daemon) -> Rebuilt:
    """After a clean stop: the log gives the database, byte for byte."""
    found = look(daemon)
    disk = Disk(daemon.directory)
    assert found.image == shown(daemon.directory / "petsem.db")
    ((epoch, txid),) = disk.rows("SELECT epoch, txid FROM position")
    assert (found.end.epoch, found.end.txid) == (epoch, txid)
    assert disk.rows("PRAGMA integrity_check") == [("ok",)]
    return found


def stock(database: Path, *statements: str) -> None:
    """SQL by a program that knows nothing of us."""
    command = [sys.executable, "-c", _STOCK, str(database), *statements]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=30, check=True)


def said(daemon: Daemon, event: str) -> bool:
    """Whether this run has said that."""
    return any(each["event"] == event for each in daemon.events())


@pytest.mark.parametrize(("kills", "seed"), [(2, 20260107), (KILLS, SEED)], ids=["few", "many"])
async def test_killed_at_random_moments(tmp_path: Path, kills: int, seed: int) -> None:
    """Under writes of all sizes: no acknowledged one is missing, and after each start the log has
    what the database has."""
    print(f"PETSEM_KILL_SEED={seed} PETSEM_KILLS={kills}")
    chance = random.Random(seed)
    daemon, operator = made(tmp_path)
    load = Load(daemon, operator)

    async def kill() -> None:
        await asyncio.sleep(chance.uniform(0.02, 0.6))
        daemon.kill()

    files: list[tuple[int, int]] = []
    for _ in range(kills):
        daemon.start()
        with Doors(daemon, operator) as doors:
            load.check(doors)
        await load.during(kill(), lambda: chance.choice((10, 300, 9_000, 40_000)))
        now = look(daemon).files
        assert now[: len(files)] == files, "a snapshot that nothing asked for"
        files = now
    daemon.start()
    with Doors(daemon, operator) as doors:
        load.check(doors)
        doors.set("acme/web", LAST="one")
    assert daemon.stop() == 0
    same(daemon)
    assert load.answers > 5 * kills


@pytest.mark.parametrize(
    "ends",
    [
        [(step, 1) for step in STEPS],
        [(steps.COMMIT, 5), (steps.CAPTURE, 5), (steps.LOG_APPEND, 4)],
        [(steps.LOG_SYNC, 2), (steps.CHECKPOINT, 2)],
    ],
    ids=["first", "later", "second"],
)
async def test_killed_before_a_step(tmp_path: Path, ends: list[tuple[str, int]]) -> None:
    """While it writes enough that it comes to each of them, one in each of its lives."""
    daemon, operator = made(tmp_path, FatalNode)
    assert isinstance(daemon, FatalNode)
    load = Load(daemon, operator)
    noise = random.Random(str(ends))

    async def end() -> None:
        while daemon.alive:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    for step, times in ends:
        daemon.start()
        with Doors(daemon, operator) as doors:
            load.check(doors)
        daemon.die_before(step, times)
        # Text that packs badly: a segment is to be filled.
        await load.during(end(), lambda: 40_000 + noise.randrange(20_000))
        assert daemon.died
        daemon.wait()
        before = look(daemon)
    daemon.start()
    with Doors(daemon, operator) as doors:
        load.check(doors)
        doors.set("acme/web", LAST="one")
    assert daemon.stop() == 0
    after = same(daemon)
    assert after.end.txid > before.end.txid
    assert after.files[: len(before.files)] == before.files, "a snapshot that nothing asked for"


@pytest.mark.parametrize("mode", ["PASSIVE", "RESTART", "TRUNCATE"])
async def test_a_stock_program_checkpoints_while_it_runs(tmp_path: Path, mode: str) -> None:
    """The WAL starts again behind the node's back, many times, under load."""
    daemon, operator = made(tmp_path)
    load = Load(daemon, operator)
    database = daemon.directory / "petsem.db"

    async def meddle() -> None:
        for _ in range(6):
            await asyncio.to_thread(stock, database, f"PRAGMA wal_checkpoint({mode})")
            await asyncio.sleep(0.05)

    with daemon, Doors(daemon, operator) as doors:
        await load.during(meddle(), lambda: 5_000)
        load.check(doors)
        assert daemon.stop() == 0
    same(daemon)
    assert load.answers > 20


@pytest.mark.parametrize("killed", [True, False])
async def test_a_stock_program_opens_it_between_two_runs(tmp_path: Path, killed: bool) -> None:
    """It recovers, copies and deletes the WAL. What the log did not have comes as a snapshot."""
    daemon, operator = made(tmp_path)
    load = Load(daemon, operator)

    async def end() -> None:
        await asyncio.sleep(0.3)
        if killed:
            daemon.kill()

    daemon.start()
    await load.during(end(), lambda: 2_000)
    if not killed:
        assert daemon.stop() == 0
    stock(daemon.directory / "petsem.db", "PRAGMA integrity_check")
    assert not wal_of(daemon.directory / "petsem.db").exists()
    with daemon, Doors(daemon, operator) as doors:
        load.check(doors)
        doors.set("acme/web", LAST="one")
        assert daemon.stop() == 0
    same(daemon)


def test_the_log_was_deleted_between_two_runs(tmp_path: Path) -> None:
    """It begins anew with a snapshot; TXIDs go on."""
    daemon, operator = made(tmp_path)
    before = same(daemon).end
    shutil.rmtree(daemon.directory / "ltx")
    with daemon, Doors(daemon, operator) as doors:
        doors.set("acme/web", LAST="one")
        assert daemon.stop() == 0
    found = same(daemon)
    assert found.files[0] == (1, before.txid)
    assert found.end.txid == before.txid + 2


def test_an_older_copy_was_restored(tmp_path: Path) -> None:
    """What the log has beyond it is under `lost/`, and the positions of that are not used again."""
    daemon, operator = made(tmp_path)
    database = daemon.directory / "petsem.db"
    fork = same(daemon).end
    copies = {path: path.read_bytes() for path in (database, wal_of(database))}
    with daemon, Doors(daemon, operator) as doors:
        doors.set("acme/web", LOST="one")
        doors.set("acme/web", LOST="two")
        assert daemon.stop() == 0
    beyond = same(daemon).end
    database.with_name("petsem.db-shm").unlink(missing_ok=True)
    for path, content in copies.items():
        path.write_bytes(content)
    with daemon, Doors(daemon, operator) as doors:
        assert "LOST" not in values_of(doors.fetch("acme/web"))
        doors.set("acme/web", KEPT="three")
        assert said(daemon, "branch_lost")
        assert daemon.stop() == 0
    assert same(daemon).end.epoch > beyond.epoch
    (saved,) = (daemon.directory / "lost").iterdir()
    assert saved.name == f"{fork}-to-{beyond}"
    files = sorted(path.name for path in saved.iterdir())
    assert files[0].startswith(f"{fork.txid + 1:016x}-")
    assert files[-1].endswith(f"-{beyond.txid:016x}.ltx")


def grown(daemon: Daemon, operator: str) -> None:
    """A database of a few hundred pages, all of them in its file, and a clean stop."""
    with daemon, Doors(daemon, operator) as doors:
        for number in range(WRITERS):
            doors.set("acme/web", **{f"N{number}": VALUE})
        assert daemon.stop() == 0
    stock(daemon.directory / "petsem.db", "PRAGMA wal_checkpoint(TRUNCATE)")


def test_the_saved_checksums_are_used_once(tmp_path: Path) -> None:
    """A clean stop saves them, a start takes them away, a kill leaves none."""
    daemon, _ = made(tmp_path)
    saved = daemon.directory / "checksums"
    assert saved.exists()
    daemon.start()
    assert not saved.exists()
    daemon.kill()
    assert not saved.exists()


def test_a_flipped_byte_in_the_database_is_found(tmp_path: Path) -> None:
    """After a kill, in a page that nobody reads: the scan says so."""
    daemon, operator = made(tmp_path)
    grown(daemon, operator)
    daemon.start()
    daemon.kill()
    with (daemon.directory / "petsem.db").open("r+b") as file:
        at = file.seek(-PAGE_SIZE * 5 // 2, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 8]))
    with daemon:
        until(lambda: said(daemon, "database_damaged"), "word of the damage")
        assert daemon.stop() == 0


def test_nothing_is_said_of_a_whole_database(tmp_path: Path) -> None:
    """The scan after a kill ends without a word, and what it found is saved by a clean stop."""
    daemon, operator = made(tmp_path)
    grown(daemon, operator)
    daemon.start()
    daemon.kill()

    def looked() -> bool:
        with daemon, Doors(daemon, operator) as doors:
            doors.set("acme/web", N0="again")
            doors.set("acme/web", N1="again")
            assert daemon.stop() == 0
            assert not said(daemon, "database_damaged")
            assert not said(daemon, "scan_failed")
        return (daemon.directory / "checksums").exists()

    until(looked, "scan that ended", 30)
    same(daemon)


@pytest.mark.xdist_group("disk")
def test_no_room_for_the_log(tmp_path: Path) -> None:
    """Writes are refused until there is, and then everything is in the log."""
    with small_disk(tmp_path, 160) as disk:
        if disk is None:
            pytest.skip("this user may not mount a disk of his own")
        _fill_and_free(disk)


def _fill_and_free(disk: SmallDisk) -> None:
    ports = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--peer", "127.0.0.1:0")
    assert disk.run("init", disk.path / "node", "--region", "ams", *ports).code == 0
    operator = (disk.seen / "node.operator.token").read_text().strip()
    with disk.daemon() as daemon, Doors(daemon, operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", N0=VALUE)
        disk.fill()
        refused = 0
        for number in range(400):
            answer = doors.ask("PATCH", SECRETS, {"set": {f"N{number % 9}": VALUE}})
            assert answer.status in (200, 503), answer.raw
            refused += answer.status == 503
            if refused > 3:
                break
        assert refused > 3
        assert values_of(doors.fetch("acme/web"))
        disk.clear()

        def written() -> bool:
            return doors.ask("PATCH", SECRETS, {"set": {"LAST": "one"}}).status == 200

        until(written, "writes again", 30)
        assert daemon.stop() == 0
    copy = disk.path.with_name("copy")
    shutil.copytree(disk.seen / "node", copy)
    assert rebuild(copy / "ltx").image == shown(copy / "petsem.db")
