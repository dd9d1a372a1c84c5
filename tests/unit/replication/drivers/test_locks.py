"""The lock: how long PENDING is held, what is left of a refusal, and when to come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.replication.drivers import locks
from petsem.replication.drivers.database_file import PageReader, open_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one row."""
    path = tmp_path / "any.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    db.close()
    return path


@pytest.fixture
def file(path: Path) -> Iterator[apsw.VFSFile]:
    file = open_file(path)
    yield file
    file.xClose()


class Time:
    """A clock that moves by what is slept."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.naps = 0

    def clock(self) -> float:
        return self.now_s

    def pause(self, for_s: float) -> None:
        self.now_s += for_s
        self.naps += 1


def can_read(path: Path) -> bool:
    """Whether a new reader gets in."""
    db = apsw.Connection(str(path))
    try:
        return db.execute("SELECT x FROM t").fetchall() == [(1,)]
    except apsw.BusyError:
        return False
    finally:
        db.close()


def can_write(path: Path) -> bool:
    """Whether nobody holds any lock."""
    db = apsw.Connection(str(path))
    try:
        db.execute("BEGIN EXCLUSIVE; ROLLBACK")
    except apsw.BusyError:
        return False
    else:
        return True
    finally:
        db.close()


def test_exclusive_keeps_everybody_out(path: Path, file: apsw.VFSFile) -> None:
    """Readers as well, until it is let go."""
    assert locks.take_exclusive(file, 0)
    assert not can_read(path)
    file.xUnlock(apsw.SQLITE_LOCK_NONE)
    assert can_read(path)
    assert can_write(path)


@pytest.mark.parametrize(
    ("patience_s", "waited_s"),
    [(0.0, 0.0), (0.001, 0.001), (0.005, 0.005), (60.0, locks.PENDING_MAX_S)],
)
def test_pending_is_held_for_a_bounded_time(
    path: Path, file: apsw.VFSFile, patience_s: float, waited_s: float
) -> None:
    """New readers are kept out while those inside may leave, never longer than the bound; then
    no lock is left."""
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT x FROM t")
    time = Time()
    let_in = []

    def pause(for_s: float) -> None:
        let_in.append(can_read(path))
        time.pause(for_s)

    assert not locks.take_exclusive(file, patience_s, clock=time.clock, pause=pause)
    assert time.now_s - 100.0 == pytest.approx(waited_s, abs=0.000_3)
    assert not any(let_in)
    assert can_read(path)
    reader.execute("COMMIT")
    assert can_write(path)
    reader.close()


def test_a_reader_that_leaves_in_time_lets_it_in(path: Path, file: apsw.VFSFile) -> None:
    """It has not to come back for that."""
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT x FROM t")
    time = Time()

    def pause(for_s: float) -> None:
        time.pause(for_s)
        if time.naps == 3:
            reader.execute("COMMIT")

    assert locks.take_exclusive(file, 0.005, clock=time.clock, pause=pause)
    assert time.naps == 3
    file.xUnlock(apsw.SQLITE_LOCK_NONE)
    reader.close()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_writer_is_not_waited_for(path: Path, file: apsw.VFSFile, begin: str) -> None:
    """Nobody should write to a replica; whoever does is simply in the way."""
    writer = apsw.Connection(str(path))
    writer.execute(begin)
    time = Time()
    assert not locks.take_exclusive(file, 0.005, clock=time.clock, pause=time.pause)
    assert time.naps == 0
    writer.execute("ROLLBACK")
    assert can_write(path)
    writer.close()


def test_what_goes_wrong_while_waiting_leaves_no_lock(path: Path, file: apsw.VFSFile) -> None:
    """An interrupt included."""
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT x FROM t")

    def pause(_for_s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        locks.take_exclusive(file, 0.005, pause=pause)
    assert can_read(path)
    reader.execute("COMMIT")
    assert can_write(path)
    reader.close()


def test_reading_pages_takes_and_drops_no_lock(path: Path, file: apsw.VFSFile) -> None:
    """A page reader reads under an exclusive lock, and closing it leaves that lock in place."""
    assert locks.take_exclusive(file, 0)
    reader = PageReader(path)
    assert reader.size_pages() == 2
    whole = dict(reader.pages(1, 9))
    assert whole == {1: reader.read(1), 2: reader.read(2)}
    assert whole[1].startswith(b"SQLite format 3\0")
    assert (reader.read(3), reader.read(900)) == (None, None)
    reader.close()
    assert not can_read(path)
    file.xUnlock(apsw.SQLITE_LOCK_NONE)


def test_the_waits_grow_to_a_bound_and_differ() -> None:
    """Never shorter than PENDING was held, a tenth of a second at last, and never all at once."""
    assert [round(locks.wait_s(attempt, 0.0), 4) for attempt in range(6)] == [
        *(0.005, 0.01, 0.02, 0.04, 0.05, 0.05)
    ]
    assert locks.wait_s(0, 0.0) >= locks.PENDING_MAX_S
    assert locks.wait_s(10_000, 0.999_999) == pytest.approx(0.1)
    assert locks.wait_s(0, 0.5) == pytest.approx(0.007_5)
