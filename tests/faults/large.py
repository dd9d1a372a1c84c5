"""A database that grows past 1 GiB, where SQLite keeps a page that is never written: the lock page.

A leader whose file ends a few pages before that one, and replicas: one follows while it grows over
it, one begins with a snapshot that spans it; both are killed and started again. It takes several
GiB of disk and about a minute, and says what was seen to hold, or raises AssertionError.

Most pages are rows of a table of the test's own, with nothing in them, so that the log of them is
short. That real pages are streamed is shown by those on both sides of the lock page.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import apsw

from petsem.model import Position
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, normalise
from tests.support.doors import values_of
from tests.support.fleet import Fleet, Member, fleet
from tests.support.rebuilt import wal_of

Tell = Callable[[str], None]

SHORT_OF_IT: Final = 40
"""Pages between the end of the leader's file and the lock page at the beginning."""
NEEDS_BYTES: Final = 12 * 2**30
KILLS_MAX: Final = 5
"""A replica that was killed reads its whole file when it starts: more of them show no more."""
VALUES: Final = 10
VALUE_BYTES: Final = 40_000
WITHIN_S: Final = 180.0
_BLOCK: Final = 256 * PAGE_SIZE


async def over_the_lock_page(root: Path, kills: int, seed: int, tell: Tell = print) -> list[str]:
    """The whole, with so many kills of each replica, or a few if that is more."""
    return await asyncio.to_thread(_run, root, min(kills, KILLS_MAX), random.Random(seed), tell)


def _run(root: Path, kills: int, chance: random.Random, tell: Tell) -> list[str]:
    free = shutil.disk_usage(root).free
    assert free >= NEEDS_BYTES, f"{free >> 30} GiB are free in {root}; it needs 12"
    with fleet(root, 1, start=False) as cluster:
        leader, first = cluster.leader, cluster.replicas[0]
        fill(leader.database, LOCK_PAGE - SHORT_OF_IT)
        tell("the leader's file ends before the lock page")
        for node in cluster.nodes:
            _start(node)
        _same(cluster, first)
        tell("a replica has it by snapshot")
        _grow(cluster, first, kills, chance)
        assert _pages(leader) > LOCK_PAGE
        _same(cluster, first)
        tell(f"it grew over the lock page, and the replica was killed {kills} times")
        second = cluster.join("nrt")
        _start(second)
        _same(cluster, second)
        assert second.says("snapshot_begins")["mib"] >= 1024
        tell("another replica has all of it by snapshot")
        _rewrite(cluster, second, kills, chance)
        _same(cluster, first, second)
        for node in cluster.nodes:
            assert node.daemon.stop() == 0, node.daemon.said()
            assert not node.logged("database_damaged"), node.daemon.said()
        return [
            "the database has grown over the lock page, in the stream and in a snapshot",
            "the replicas' files are the leader's canonical image, byte by byte",
        ]


def _start(node: Member) -> None:
    """With more patience than for a small one: a leader that finds another file than it left logs
    all of it before it serves."""
    node.daemon.begin()
    node.says("serving", WITHIN_S)


def fill(database: Path, pages: int) -> None:
    """Make the file of a stopped node that long, with rows of a table of our own. Through SQLite
    and without a WAL, where it writes each page once."""
    db = apsw.Connection(str(database))
    try:
        assert db.execute("PRAGMA journal_mode = delete").fetchall() == [("delete",)]
        db.execute("PRAGMA synchronous = off")
        db.execute("CREATE TABLE filler(content BLOB)")
        left = pages - _counted(db)
        while left > 2:
            # A row of so many overflow pages, less what the table itself may grow by.
            some = min(left - 2, 16_384)
            db.execute("INSERT INTO filler VALUES (zeroblob(?))", (some * (PAGE_SIZE - 4),))
            left = pages - _counted(db)
        assert db.execute("PRAGMA journal_mode = wal").fetchall() == [("wal",)]
    finally:
        db.close()


def _counted(db: apsw.Connection) -> int:
    (count,) = db.execute("PRAGMA page_count").fetchall()[0]
    assert isinstance(count, int)
    return count


def _grow(cluster: Fleet, replica: Member, kills: int, chance: random.Random) -> None:
    """Values of ten pages each, until the file is past the lock page; kills in between."""
    with cluster.leader.doors() as doors:
        doors.furnish("large", "before", "after")
        for number in range(max(2, kills)):
            app = "before" if number % 2 else "after"
            values = {f"N{at}": chance.randbytes(VALUE_BYTES) for at in range(VALUES)}
            doors.set(f"large/{app}", **values)
            if number < kills:
                replica.daemon.kill()
                doors.set("acme/web", FIRST=f"{number}")
                _start(replica)
        _checkpointed(cluster)


def _rewrite(cluster: Fleet, replica: Member, kills: int, chance: random.Random) -> None:
    """Delete an app that has pages on both sides, which overwrites them, and fill them again."""
    with cluster.leader.doors() as doors:
        for number in range(max(1, kills)):
            doors.done("DELETE", "/v1/orgs/large/apps/before?now=true")
            replica.daemon.kill()
            doors.done("POST", "/v1/orgs/large/apps", {"app": "before"})
            values = {f"N{at}": chance.randbytes(VALUE_BYTES) for at in range(VALUES)}
            doors.set("large/before", **values)
            _start(replica)
            doors.set("acme/web", FIRST=f"again-{number}")
        for node in cluster.nodes:
            node.has(cluster.position(), WITHIN_S)
            with node.doors() as own:
                assert values_of(own.fetch("large/before")) == values


def _checkpointed(cluster: Fleet) -> None:
    """A purge copies the WAL, so that the file itself is as long as the database."""
    with cluster.leader.doors() as doors:
        doors.furnish("passing")
        doors.done("DELETE", "/v1/orgs/passing?now=true")


def _pages(node: Member) -> int:
    return node.database.stat().st_size // PAGE_SIZE


def _same(cluster: Fleet, *replicas: Member) -> None:
    """These replicas have what the leader has, which nobody writes to, and their files are its
    canonical image. Never all of it in memory."""
    at = cluster.position()
    for replica in replicas:
        replica.has(at, WITHIN_S)
    scratch = cluster.root / "scratch"
    scratch.mkdir()
    try:
        image = _whole(cluster.leader.database, scratch)
        for replica in replicas:
            apart = _apart(image, replica.database, at)
            assert not apart, f"{replica.node_id}: {len(apart)} pages, {apart[:20]}"
        assert cluster.position() == at
    finally:
        shutil.rmtree(scratch)


def _whole(database: Path, scratch: Path) -> Path:
    """A copy of a leader's database with its WAL copied into it."""
    copy = scratch / database.name
    for path in (database, wal_of(database)):
        if path.exists():
            shutil.copyfile(path, copy.with_name(path.name))
    db = apsw.Connection(str(copy))
    # A connection that has read nothing yet knows of no WAL.
    db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()
    assert not wal_of(copy).exists()
    return copy


def _apart(image: Path, found: Path, at: Position) -> list[int]:
    """The pages of a replica's file that are not those of the image at `at`; the lock page is one
    like the others, of zeros."""
    apart = []
    for first, (mine, theirs) in enumerate(zip(_blocks(image), _blocks(found), strict=True)):
        if first == 0:
            mine = normalise(mine[:PAGE_SIZE], at.epoch, at.txid) + mine[PAGE_SIZE:]
        if mine != theirs:
            apart += [
                first * _BLOCK // PAGE_SIZE + offset // PAGE_SIZE + 1
                for offset in range(0, _BLOCK, PAGE_SIZE)
                if mine[offset : offset + PAGE_SIZE] != theirs[offset : offset + PAGE_SIZE]
            ]
    return apart


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(0, size, _BLOCK):
            yield file.read(_BLOCK)
