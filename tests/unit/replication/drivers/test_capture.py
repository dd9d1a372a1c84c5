"""The leader's transactions, from the WAL into the log: nothing missing, nothing twice."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import pytest

from petsem.replication.drivers.log_files import LogOps
from petsem.replication.image import PAGE_SIZE
from petsem.replication.steps import CAPTURE, LOG_SYNC
from tests.support.capturing import Leader
from tests.support.rebuilt import wal_of

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)"
PASSIVE, RESTART = apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART
TRUNCATE = apsw.SQLITE_CHECKPOINT_TRUNCATE


def insert(pages: int, row: int | None = None) -> str:
    """One row of about so many pages, no two of them alike."""
    what = "NULL" if row is None else str(row)
    return f"INSERT OR REPLACE INTO t VALUES ({what}, randomblob({pages * PAGE_SIZE}))"


class Disk(LogOps):
    """Refuses to write, to make files or to sync, as it is told."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def _meet(self, what: str) -> None:
        if what in self.refused:
            raise OSError(errno.EIO if what == "sync" else errno.ENOSPC, what)

    def write(self, fd: int, parts: Sequence[bytes], offset: int) -> None:
        self._meet("write")
        super().write(fd, parts, offset)

    def create(self, path: Path) -> int:
        self._meet("create")
        return super().create(path)

    def fdatasync(self, fd: int) -> None:
        self._meet("sync")
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._meet("sync")
        super().fsync(fd)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def leader(tmp_path: Path, disk: Disk) -> Iterator[Leader]:
    """Leading in epoch 1, with one table in the log."""
    leader = Leader(tmp_path, ops=disk)
    leader.commit(TABLE)
    leader.start(1)
    yield leader
    leader.close()


def test_each_transaction_is_one_file(leader: Leader) -> None:
    """In order, under the position that the writer gave it; the first file is the snapshot."""
    for pages in (3, 1, 40):
        leader.write(insert(pages))
        leader.capture.write(merged=False)
        leader.look()
    assert leader.look().files == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_many_become_one_file(leader: Leader) -> None:
    """Those that wait, each page once."""
    for row in range(20):
        leader.write(insert(1, row % 3))
    assert leader.capture.waiting_pages >= 40
    leader.capture.write(merged=True)
    assert leader.capture.waiting_pages == 0
    assert leader.look().files == [(1, 1), (2, 21)]


def test_merged_or_not_the_image_is_the_same(tmp_path: Path) -> None:
    """The same transactions, logged one by one and all at once."""
    ends = []
    for merged in (False, True):
        directory = tmp_path / str(merged)
        directory.mkdir()
        leader = Leader(directory)
        leader.commit(TABLE)
        leader.start(1)
        for row in range(1, 8):
            leader.write(f"INSERT INTO t VALUES ({row}, zeroblob({row * 3_000}))")
        leader.write("DELETE FROM t WHERE id % 2")
        leader.write("VACUUM")
        leader.write("INSERT INTO t VALUES (1, zeroblob(90000))")
        leader.capture.write(merged=merged)
        found = leader.look()
        ends.append((found.image, found.end))
        leader.close()
    assert ends[0] == ends[1]


def test_shrinking_ends_a_file(leader: Leader) -> None:
    """After one that cuts the database short a new file begins, so that what grows again is never
    merged over the pages that were cut."""
    leader.write(insert(60, 1))
    leader.write("DELETE FROM t")
    leader.write("VACUUM")
    leader.write(insert(30, 2))
    leader.write(insert(60, 3))
    leader.capture.write(merged=True)
    assert leader.look().files == [(1, 1), (2, 3), (4, 6)]


def test_an_epoch_ends_a_file(leader: Leader) -> None:
    """A file has one epoch."""
    leader.write(insert(1))
    leader.epochs.append((2, 3))
    leader.write(insert(1))
    leader.write(insert(1))
    leader.capture.write(merged=True)
    assert leader.look().files == [(1, 1), (2, 2), (3, 4)]


def test_a_large_transaction(leader: Leader) -> None:
    """More pages than are held in memory, streamed into a file of its own, with small ones on both
    sides of it."""
    leader.write(insert(1, 1))
    leader.write(insert(4_200, 2))
    leader.write(insert(1, 3))
    leader.capture.write(merged=True)
    assert leader.look().files == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_the_wal_starts_again_after_our_checkpoint(leader: Leader) -> None:
    """From its first frame on, with new salts: nothing is lost, and no snapshot is needed."""
    for mode in (PASSIVE, RESTART, TRUNCATE, PASSIVE):
        leader.write(insert(9))
        leader.write(insert(2))
        leader.checkpoint(mode)
        before = wal_of(leader.database).read_bytes()[:32]
        leader.write(insert(1))
        assert wal_of(leader.database).read_bytes()[:32] != before
    leader.capture.write(merged=False)
    assert leader.look().files[0] == (1, 1)
    assert leader.look().files[-1] == (leader.txid, leader.txid)


def test_no_checkpoint_before_the_log_is_on_the_disk(leader: Leader, disk: Disk) -> None:
    """What waits is written and synced first; if that fails the WAL is not to be copied."""
    leader.write(insert(2))
    for what in ("write", "sync"):
        disk.refused = {what}
        with pytest.raises(OSError, match=what):
            leader.capture.before_checkpoint(leader.rig.counted())
    disk.refused = set()
    assert leader.capture.before_checkpoint(leader.rig.counted())
    assert leader.capture.log.synced == leader.capture.log.end
    leader.look()


@pytest.mark.parametrize("mode", [PASSIVE, RESTART, TRUNCATE])
@pytest.mark.parametrize("logged", [True, False])
def test_a_foreign_checkpoint(leader: Leader, mode: int, logged: bool) -> None:
    """The WAL starts again unasked. Whether or not its transactions were logged by then, the log
    has everything."""
    leader.write(insert(5))
    leader.write(insert(5))
    if logged:
        leader.capture.write(merged=False)
    leader.foreign(lambda db: db.wal_checkpoint(None, mode))
    leader.write(insert(3))
    leader.capture.write(merged=True)
    leader.look()
    leader.write(insert(1))
    leader.capture.write(merged=False)
    assert leader.look().files[-1] == (leader.txid, leader.txid)


@pytest.mark.parametrize("mode", [PASSIVE, TRUNCATE])
def test_a_foreign_checkpoint_of_a_large_transaction(leader: Leader, mode: int) -> None:
    """Its pages are not held in memory, and the next transaction writes over them."""
    leader.write(insert(1_500, 1))
    leader.foreign(lambda db: db.wal_checkpoint(None, mode))
    leader.write(insert(1_500, 2))
    leader.capture.write(merged=True)
    leader.look()


def test_the_wal_is_cut_while_a_snapshot_waits(leader: Leader, disk: Disk) -> None:
    """The snapshot cannot be written, and then the WAL that it would be read from goes: SQLite's
    count of the last commit is no longer true."""
    disk.refused = {"create"}
    leader.write(insert(2))
    leader.foreign(lambda db: db.wal_checkpoint(None, PASSIVE))
    leader.write(insert(2))
    with pytest.raises(OSError, match="create"):
        leader.capture.write(merged=True)
    leader.foreign(lambda db: db.wal_checkpoint(None, TRUNCATE))
    with pytest.raises(OSError, match="create"):
        leader.capture.write(merged=True)
    disk.refused = set()
    leader.capture.write(merged=True)
    leader.look()


def test_a_foreign_transaction(leader: Leader) -> None:
    """Somebody who should not writes to the database: the log has that, too, and goes on."""
    leader.write(insert(2))
    leader.foreign(lambda db: db.execute("INSERT INTO t VALUES (77, 'foreign')"))
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_the_database_was_opened_again(leader: Leader) -> None:
    """The same position twice, after a COMMIT that failed, adds nothing."""
    leader.write(insert(1))
    leader.reopened()
    leader.capture.write(merged=False)
    leader.reopened()
    assert leader.look().files == [(1, 1), (2, 2)]


def test_a_full_disk(leader: Leader, disk: Disk) -> None:
    """What cannot be logged is kept, and logged when there is room."""
    disk.refused = {"write"}
    for _ in range(3):
        leader.write(insert(2))
        with pytest.raises(OSError, match="write"):
            leader.capture.write(merged=False)
    disk.refused = set()
    leader.capture.write(merged=False)
    assert leader.look().files == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_a_failed_sync_loses_nothing(leader: Leader, disk: Disk) -> None:
    """The log ends then where it was synced last, behind what was already handed to it."""
    leader.write(insert(2))
    leader.capture.before_checkpoint(leader.rig.counted())
    leader.write(insert(2))
    leader.capture.write(merged=False)
    disk.refused = {"sync"}
    with pytest.raises(OSError, match="sync"):
        leader.capture.before_checkpoint(leader.rig.counted())
    leader.write(insert(2))
    with pytest.raises(OSError, match="sync"):
        leader.capture.before_checkpoint(leader.rig.counted())
    disk.refused = set()
    assert leader.capture.before_checkpoint(leader.rig.counted())
    leader.look()


def test_a_failed_sync_behind_the_last_transaction(leader: Leader, disk: Disk) -> None:
    """Nothing comes after it that could be missed: the checkpoint must not be allowed for that."""
    leader.write(insert(2))
    leader.capture.before_checkpoint(leader.rig.counted())
    leader.write(insert(2))
    disk.refused = {"sync"}
    with pytest.raises(OSError, match="sync"):
        leader.capture.before_checkpoint(leader.rig.counted())
    disk.refused = set()
    assert leader.capture.before_checkpoint(leader.rig.counted())
    leader.look()


def test_a_failed_sync_at_the_end_of_a_segment(tmp_path: Path, disk: Disk) -> None:
    """The sync that fails is the one that changing segments asks for."""
    leader = Leader(tmp_path, ops=disk)
    leader.commit(TABLE)
    leader.start(1, segment_bytes=1 << 16)
    for _ in range(6):
        leader.write(insert(2))
        leader.capture.write(merged=False)
    disk.refused = {"sync"}
    failed = 0
    for _ in range(12):
        leader.write(insert(2))
        try:
            leader.capture.write(merged=False)
        except OSError:
            failed += 1
    assert failed
    disk.refused = set()
    leader.capture.write(merged=False)
    leader.look()
    leader.close()


@pytest.mark.parametrize("when", ["before", "between"])
def test_the_log_is_deleted_while_it_is_written(leader: Leader, when: str) -> None:
    """It begins anew where it ended, without a snapshot: nothing that the database has is missing
    from the two together, and the next start finds it in order."""
    leader.write(insert(2))
    leader.capture.write(merged=False)
    if when == "before":
        shutil.rmtree(leader.log_directory)
        leader.write(insert(2))
    else:
        leader.write(insert(2))
        leader.capture.write(merged=False)
        shutil.rmtree(leader.log_directory)
    assert leader.capture.before_checkpoint(leader.rig.counted())
    assert leader.anew == ["its files were deleted"]
    leader.write(insert(1))
    leader.capture.write(merged=False)
    log = leader.capture.log
    base = leader.txid - (2 if when == "before" else 1)
    assert (log.base and log.base.txid, log.end and log.end.txid) == (base, leader.txid)
    leader.checkpoint()
    leader.crash()
    leader.rig.close()
    leader.rig = type(leader.rig)(leader.directory)
    leader.start(1)
    assert len(leader.anew) == 1
    list(leader.capture.scan())


def test_the_log_is_deleted_just_before_it_is_synced(tmp_path: Path) -> None:
    """The checkpoint waits for a log that is there."""
    doomed = [tmp_path / "ltx"]

    def reached(step: str) -> None:
        if step == LOG_SYNC and armed:
            shutil.rmtree(doomed.pop(), ignore_errors=True) if doomed else None

    armed = False
    leader = Leader(tmp_path, reached=reached)
    leader.commit(TABLE)
    leader.start(1)
    armed = True
    leader.write(insert(2))
    assert leader.capture.before_checkpoint(leader.rig.counted())
    assert (doomed, leader.anew) == ([], ["its files were deleted"])
    assert not leader.capture.log.is_deleted(every_file=True)
    leader.close()


def test_the_step_is_told(tmp_path: Path) -> None:
    """Before anything of a transaction is read, so that a crash there leaves it to the next
    start."""
    told: list[tuple[str, int]] = []
    waiting: list[int] = []

    def reached(step: str) -> None:
        if step == CAPTURE:
            told.append((step, waiting[-1] if waiting else 0))

    leader = Leader(tmp_path, reached=reached)
    leader.commit(TABLE)
    capture = leader.start(1)
    told.clear()
    for _ in range(2):
        leader.write(insert(1))
        leader.write(insert(1))
        waiting.append(capture.waiting_pages)
        capture.write(merged=True)
        waiting.append(capture.waiting_pages)
    assert told == [(CAPTURE, waiting[0]), (CAPTURE, waiting[2])]
    assert waiting[0] > waiting[1] == waiting[3] == 0 < waiting[2]
    leader.close()
