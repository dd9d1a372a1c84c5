"""The writer: groups, savepoints, and what a failing disk does to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from petsem.clock import ManualClock
from petsem.errors import Code, PetsemError, conflict
from petsem.model import Position
from petsem.replication.drivers.capture_start import begin_capture
from petsem.replication.drivers.log import TransactionLog
from petsem.server import sql
from petsem.server.changes import POSITION, Changes
from petsem.server.database import open_reader, open_writer, read_position
from petsem.server.leadership import begin_epoch
from petsem.server.leading import frames_in_wal
from petsem.server.schema import migrate
from petsem.server.space import Space
from petsem.server.writer import Txn, Writer
from tests.support.failing_vfs import FULL, IO, FailingVfs


class _Rig:
    """A writer on a database with one table of our own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "petsem.db"
        (directory / "ltx").mkdir()
        self.vfs = FailingVfs()
        self.free = 2**30
        self.changes = Changes()
        self.helper = ThreadPoolExecutor(max_workers=1)
        self.space = Space(directory, ballast_bytes=4096, free=lambda _: self.free)
        self.finished: list[object] = []
        self.writer = Writer(
            self.path,
            helper=self.helper,
            clock=ManualClock(),
            space=self.space,
            changes=self.changes,
            finish=lambda _txn, topic, _notes: self.finished.append(topic),
            vfs=self.vfs.name,
        )

    async def start(self) -> None:
        db = open_writer(self.path, vfs=self.vfs.name, create=True)
        db.execute("BEGIN IMMEDIATE")
        migrate(db)
        begin_epoch(db, Position(1, 1), "node", 0)
        db.execute("CREATE TABLE probe (x TEXT UNIQUE, filler BLOB) STRICT")
        db.execute("COMMIT")
        capture = begin_capture(
            self.path,
            self.path.parent,
            TransactionLog.open(self.path.parent / "ltx"),
            Position(1, 1),
            [(1, 1)],
            frames=frames_in_wal(db),
            at_ms=0,
            save_lost=lambda _fork: None,
            anew=lambda _why: None,
        )
        await self.writer.start(db, capture)

    def stored(self) -> list[str]:
        """What another connection sees."""
        reader = open_reader(self.path)
        try:
            return [row[0] for row in sql.rows(reader, "SELECT x FROM probe ORDER BY x")]
        finally:
            reader.close()

    def position(self) -> Position:
        reader = open_reader(self.path)
        try:
            return read_position(reader)
        finally:
            reader.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[_Rig]:
    rig = _Rig(tmp_path)
    await rig.start()
    yield rig
    rig.vfs.heal()
    await rig.writer.stop()
    rig.helper.shutdown()


def put(x: str, size: int = 0) -> Callable[[Txn], str]:
    """A job that stores one row."""

    def job(txn: Txn) -> str:
        sql.run(txn.db, "INSERT INTO probe VALUES (?, zeroblob(?))", (x, size))
        txn.changed[x] = None
        return x

    return job


def refuse(txn: Txn) -> str:
    """A job that writes and then refuses."""
    sql.run(txn.db, "INSERT INTO probe VALUES ('refused', NULL)")
    raise conflict("no")


def outcomes(results: list[object]) -> list[object]:
    """Results with errors as their codes."""
    return [r.code if isinstance(r, PetsemError) else r for r in results]


async def together(rig: _Rig, *jobs: Callable[[Txn], str]) -> list[object]:
    """Submit jobs in one turn of the loop, so that they wait together."""
    return outcomes(
        await asyncio.gather(*(rig.writer.submit(j) for j in jobs), return_exceptions=True)
    )


async def test_what_waits_becomes_one_transaction(rig: _Rig) -> None:
    """Ten waiting requests take one COMMIT and one TXID, and each gets its own result."""
    before = rig.writer.position
    found = await together(rig, *(put(f"{n}") for n in range(10)))
    assert found == [f"{n}" for n in range(10)]
    assert rig.writer.commits == 1
    assert rig.writer.position == rig.position() == Position(before.epoch, before.txid + 1)
    assert sorted(map(str, rig.finished)) == [f"{n}" for n in range(10)]


async def test_a_bad_request_fails_alone(rig: _Rig) -> None:
    """What a refused request had written is undone, and its neighbours are stored."""
    found = await together(rig, put("a"), refuse, put("b"))
    assert found == ["a", Code.CONFLICT, "b"]
    assert rig.stored() == ["a", "b"]
    assert sorted(map(str, rig.finished)) == ["a", "b"]


async def test_an_unexpected_error_fails_alone_and_is_not_shown(rig: _Rig) -> None:
    """A bug in one request is `internal` for it and nothing for the others."""
    found = await together(rig, put("a"), lambda _: 1 / 0, put("b"))  # type: ignore[arg-type,return-value]
    assert found == ["a", Code.INTERNAL, "b"]
    assert rig.stored() == ["a", "b"]


async def test_a_group_of_refusals_uses_no_txid(rig: _Rig) -> None:
    """A transaction that would change nothing is rolled back."""
    before = rig.position()
    assert await together(rig, refuse, refuse) == [Code.CONFLICT, Code.CONFLICT]
    assert rig.position() == rig.writer.position == before
    assert rig.writer.commits == 0


async def test_nobody_is_answered_before_the_commit(rig: _Rig) -> None:
    """While COMMIT waits for the helper thread, the request is not answered."""
    gate = threading.Event()
    rig.helper.submit(gate.wait)
    request = asyncio.create_task(rig.writer.submit(put("a")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not request.done()
    assert rig.stored() == []
    gate.set()
    assert await request == "a"
    assert rig.stored() == ["a"]


async def test_the_next_group_gathers_while_a_commit_runs(rig: _Rig) -> None:
    """Requests that arrive during a COMMIT make one group afterwards."""
    gate = threading.Event()
    rig.helper.submit(gate.wait)
    first = asyncio.create_task(rig.writer.submit(put("first")))
    for _ in range(20):
        await asyncio.sleep(0)
    rest = [asyncio.create_task(rig.writer.submit(put(f"{n}"))) for n in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *rest)
    assert rig.writer.commits == 2


async def test_a_client_that_leaves_tears_nothing_out_of_the_group(rig: _Rig) -> None:
    """A cancelled request is stored with its group, and its neighbours are answered."""
    gone = asyncio.create_task(rig.writer.submit(put("gone")))
    here = asyncio.create_task(rig.writer.submit(put("here")))
    await asyncio.sleep(0)
    gone.cancel()
    assert await here == "here"
    assert rig.stored() == ["gone", "here"]


async def test_the_queue_is_bounded(rig: _Rig) -> None:
    """More waiting requests than the queue takes are refused with `limit`."""
    rig.writer._queue_max = 3
    found = await together(rig, *(put(f"{n}") for n in range(5)))
    assert found == ["0", "1", "2", Code.LIMIT, Code.LIMIT]


async def test_a_full_disk_in_the_middle_of_a_group(rig: _Rig) -> None:
    """SQLite ends the transaction under one request: it and those behind it get UNAVAILABLE, what
    they wrote is not there, and when there is room again the writer goes on by itself."""

    def limit(pages: int) -> Callable[[Txn], str]:
        def job(txn: Txn) -> str:
            (now,) = sql.rows(txn.db, "PRAGMA page_count")[0]
            sql.run(txn.db, f"PRAGMA max_page_count = {now + pages}")
            return "limited"

        return job

    await together(rig, limit(4))
    found = await together(rig, put("a"), put("big", 10 * 4096), put("b"))
    assert Code.UNAVAILABLE in found
    stored = rig.stored()
    assert stored == sorted(x for x in found if not isinstance(x, Code))
    assert rig.space.low
    rig.space.restore()
    await together(rig, limit(1000))
    assert await together(rig, put("later", 10 * 4096)) == ["later"]


async def test_writes_stop_above_the_reserve_and_come_back(rig: _Rig) -> None:
    """Below the reserve a write is refused before it starts; with space back it works again."""
    rig.free = 0
    assert await together(rig, put("a")) == [Code.UNAVAILABLE]
    rig.free = 2**30
    assert await together(rig, put("a")) == ["a"]


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_a_commit_that_fails_is_indeterminate(rig: _Rig, operation: str) -> None:
    """An I/O error from COMMIT answers the whole group `indeterminate`; the writer reopens, knows
    where the database is, and goes on."""
    rig.vfs.fail(operation, "-wal", 0, IO)
    found = await together(rig, put("a"), put("b"))
    assert found == [Code.INDETERMINATE, Code.INDETERMINATE]
    assert rig.vfs.failed > 0
    rig.vfs.heal()
    assert rig.writer.position == rig.position()
    assert await together(rig, put("c")) == ["c"]
    assert rig.writer.position == rig.position()
    assert rig.stored() in (["c"], ["a", "b", "c"])


async def test_a_disk_that_fills_at_commit_is_a_plain_refusal(rig: _Rig) -> None:
    """The commit frame never got its place, so the group is known not to be stored."""
    rig.vfs.fail("write", "-wal", 0, FULL)
    assert await together(rig, put("a"), put("b")) == [Code.UNAVAILABLE, Code.UNAVAILABLE]
    rig.vfs.heal()
    assert rig.stored() == []
    assert await together(rig, put("c")) == [Code.UNAVAILABLE]
    rig.space.restore()
    assert await together(rig, put("c")) == ["c"]


async def test_waiters_are_told_after_the_commit(rig: _Rig) -> None:
    """Whoever waits on a topic or the position wakes once the rows can be read."""
    with rig.changes.subscribed("a") as topic, rig.changes.subscribed(POSITION) as position:
        await together(rig, put("b"))
        assert position.is_set()
        assert not topic.is_set()
        await together(rig, put("a"))
        assert topic.is_set()


async def test_stop_finishes_what_waits_and_refuses_what_comes(rig: _Rig) -> None:
    """A drain answers every request that was taken."""
    request = asyncio.create_task(rig.writer.submit(put("a")))
    await asyncio.sleep(0)
    await rig.writer.stop()
    assert await request == "a"
    with pytest.raises(PetsemError) as refused:
        await rig.writer.submit(put("b"))
    assert refused.value.code is Code.UNAVAILABLE


async def test_scrub_empties_the_wal(rig: _Rig) -> None:
    """After a scrub no page from before it is left in the WAL."""
    await together(rig, put("a", 4096))
    assert rig.path.with_name("petsem.db-wal").stat().st_size > 0
    await rig.writer.scrub()
    assert rig.path.with_name("petsem.db-wal").stat().st_size == 0
    assert rig.stored() == ["a"]


async def test_a_scrub_that_a_reader_holds_up_is_made_up_for(rig: _Rig) -> None:
    """It says that it is not done, and is done after the next group that finds nobody reading."""
    await together(rig, put("a", 4096))
    reader = open_reader(rig.path)
    reader.execute("BEGIN")
    sql.rows(reader, "SELECT * FROM probe")
    await together(rig, put("b"))
    assert not await rig.writer.scrub()
    reader.execute("COMMIT")
    reader.close()
    wal = rig.path.with_name("petsem.db-wal")
    assert wal.stat().st_size > 0
    await together(rig, put("c"))
    await rig.writer.stop()
    assert wal.stat().st_size == 0
    assert not await rig.writer.scrub()


async def test_a_refusal_waits_for_the_commit_too(rig: _Rig) -> None:
    """What a request is refused for may be what another of its group did, which is not stored
    before the COMMIT."""
    gate = threading.Event()
    rig.helper.submit(gate.wait)
    stored = asyncio.create_task(rig.writer.submit(put("a")))
    refused = asyncio.create_task(rig.writer.submit(refuse))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not refused.done()
    gate.set()
    assert await stored == "a"
    with pytest.raises(PetsemError) as error:
        await refused
    assert error.value.code is Code.CONFLICT


async def test_nothing_unforeseen_stops_the_writer(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error outside of every request is answered to those who wait, and the next are served."""

    def fail(*_: object) -> None:
        raise OSError("the file system does not answer")

    connection = rig.writer._connection
    for part, broken in (
        (rig.space, "check"),
        (connection, "begin"),
        (connection, "_look_for_others"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(part, broken, fail)
            assert await together(rig, put("x")) == [Code.INTERNAL]
        assert await together(rig, put(broken)) == [broken]
    assert rig.stored() == ["_look_for_others", "begin", "check"]


async def test_a_disk_that_turns_read_only_is_unavailable(rig: _Rig) -> None:
    """Writes are refused and not called a fault of the program."""

    def read_only(_: Txn) -> str:
        raise apsw.ReadOnlyError("attempt to write a readonly database")

    assert await together(rig, read_only) == [Code.UNAVAILABLE]


async def test_a_foreign_write_lock_is_waited_for(rig: _Rig) -> None:
    """Another process may hold the lock for a moment; the group begins when it lets go."""
    foreign = apsw.Connection(str(rig.path))
    foreign.execute("BEGIN IMMEDIATE")
    request = asyncio.create_task(rig.writer.submit(put("a")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not request.done()
    foreign.execute("ROLLBACK")
    foreign.close()
    assert await request == "a"
