"""The writer beside another process that writes to the same database, and beside its own
checkpoints, which are no such thing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from petsem.clock import ManualClock
from petsem.errors import PetsemError, conflict
from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.replication.drivers.capture_start import begin_capture
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_reader import LogReader
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.database import open_writer
from petsem.server.leadership import begin_epoch
from petsem.server.leading import frames_in_wal
from petsem.server.schema import migrate
from petsem.server.space import Space
from petsem.server.writer import Txn, Writer


class _Rig:
    """A writer, the log of what it commits, and a stranger."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "petsem.db"
        (directory / "ltx").mkdir()
        self.log = TransactionLog.open(directory / "ltx")
        self.helper = ThreadPoolExecutor(max_workers=1)
        self.changes = Changes()
        self.writer = Writer(
            self.path,
            helper=self.helper,
            clock=ManualClock(),
            space=Space(directory, ballast_bytes=4096, free=lambda _: 2**30),
            changes=self.changes,
            finish=lambda _txn, _topic, _notes: None,
        )

    async def start(self) -> None:
        db = open_writer(self.path, create=True)
        db.execute("BEGIN IMMEDIATE")
        migrate(db)
        begin_epoch(db, Position(1, 1), "node", 0)
        db.execute("CREATE TABLE probe (x TEXT) STRICT")
        db.execute("COMMIT")
        await self.writer.start(db, self.capture(frames_in_wal(db)))
        # As if somebody followed: every transaction is in the log at once.
        self.writer.logging.followed = lambda: True

    def capture(self, frames: int) -> Capture:
        return begin_capture(
            self.path,
            self.path.parent,
            self.log,
            Position(1, 1),
            [(1, 1)],
            frames=frames,
            at_ms=0,
            save_lost=lambda _fork: None,
            anew=lambda _why: None,
        )

    def stranger(self, *acts: Callable[[apsw.Connection], object]) -> None:
        """Writes to the database, and does more."""
        db = open_writer(self.path)
        sql.run(db, "INSERT INTO probe VALUES ('stranger')")
        for act in acts:
            act(db)
        db.close()

    async def files(self) -> list[tuple[int, int]]:
        """First and last TXID of each file of the log, once all is in it."""
        await self.writer.checkpointed()
        return [(each.min_txid, each.max_txid) for each in self.log.infos()]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[_Rig]:
    rig = _Rig(tmp_path)
    await rig.start()
    yield rig
    await rig.writer.stop()
    rig.helper.shutdown()


def own(txn: Txn) -> None:
    """A job."""
    sql.run(txn.db, "INSERT INTO probe VALUES ('own')")


def refuse(_txn: Txn) -> None:
    """A job that comes to nothing, as those of an idle node."""
    raise conflict("nothing to do")


async def test_a_scrub_is_no_stranger(rig: _Rig) -> None:
    """The log goes on, transaction by transaction."""
    for _ in range(3):
        await rig.writer.submit(own)
        assert await rig.writer.scrub()
    assert await rig.files() == [(1, 1), (2, 2), (3, 3), (4, 4)]


async def test_a_snapshot_right_after_a_scrub(rig: _Rig) -> None:
    """The database file has everything, although the WAL that it came from is gone."""
    await rig.writer.submit(own)
    assert await rig.writer.scrub()
    for _ in range(2):
        reached = await rig.writer.checkpointed()
        assert (reached.epoch, reached.txid) == (1, 2)


@pytest.mark.parametrize("mode", [apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_TRUNCATE])
async def test_a_stranger_who_copies_the_wal(rig: _Rig, mode: int) -> None:
    """After a scrub the WAL may begin anew, and no frame of his is left when the next transaction
    is captured."""
    await rig.writer.submit(own)
    assert await rig.writer.scrub()
    rig.stranger(lambda db: db.wal_checkpoint(None, mode))
    await rig.writer.submit(own)
    assert await rig.files() == [(1, 3)]
    await rig.writer.submit(own)
    assert await rig.files() == [(1, 3), (4, 4)]


async def test_what_a_stranger_did_may_have_taken_authority_away(rig: _Rig) -> None:
    """A job of the next group that trusts what was verified before is told to ask again."""
    seen = []

    def look(txn: Txn) -> None:
        own(txn)
        seen.append(rig.changes.authority)

    await rig.writer.submit(look)
    rig.stranger()
    await rig.writer.submit(look)
    await rig.writer.submit(look)
    assert seen == [0, 1, 1]


async def test_a_stranger_before_a_snapshot(rig: _Rig) -> None:
    """What a follower is about to be sent is what the log says."""
    await rig.writer.submit(own)
    rig.stranger()
    await rig.writer.checkpointed()
    assert await rig.files() == [(1, 2)]


async def test_a_stranger_before_the_end(rig: _Rig) -> None:
    """One that leaves no frame behind in the WAL is in the log all the same."""
    await rig.writer.submit(own)
    await rig.files()
    rig.stranger(lambda db: db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE))
    await rig.writer.stop()
    log = TransactionLog.open(rig.path.parent / "ltx")
    assert [(each.min_txid, each.max_txid) for each in log.infos()] == [(1, 2)]
    assert log.base.txid == 0
    log.close()


async def _stop(rig: _Rig) -> None:
    await rig.writer.stop()


async def _scrub(rig: _Rig) -> None:
    assert await rig.writer.scrub()


async def _snapshot(rig: _Rig) -> None:
    await rig.writer.checkpointed()


@pytest.mark.parametrize("then", [_stop, _scrub, _snapshot])
async def test_a_stranger_before_a_group_that_commits_nothing(
    rig: _Rig, then: Callable[[_Rig], Awaitable[None]]
) -> None:
    """No later group sees him, so the log hears of him from this one, whatever comes next."""
    await rig.writer.submit(own)
    await rig.files()
    rig.stranger(lambda db: db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE))
    with pytest.raises(PetsemError, match="nothing to do"):
        await rig.writer.submit(refuse)
    await then(rig)
    log = LogReader.open_read_only(rig.path.parent / "ltx")
    assert [(each.min_txid, each.max_txid) for each in log.infos()] == [(1, 2)]
