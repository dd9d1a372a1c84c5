"""When the WAL is copied into the database, and what a reader that pins it does to that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.server import checkpoint, sql
from petsem.server.checkpoint import PASSIVE_FRAMES, RESTART_BYTES, Checkpointer
from petsem.server.database import PAGE_SIZE, open_reader, open_writer

PASSIVE, RESTART = apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART
TRUNCATE = apsw.SQLITE_CHECKPOINT_TRUNCATE


class _Rig:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "petsem.db"
        self.wal = directory / "petsem.db-wal"
        self.checkpointer = Checkpointer(self.path)
        self.db = open_writer(self.path, create=True)
        self.db.set_wal_hook(self.checkpointer.committed)
        sql.run(self.db, "CREATE TABLE probe (x BLOB)")

    def write(self, pages: int = 1) -> None:
        """One commit of about so many pages."""
        sql.run(self.db, "INSERT INTO probe VALUES (zeroblob(?))", (pages * PAGE_SIZE,))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[_Rig]:
    rig = _Rig(tmp_path)
    yield rig
    rig.checkpointer.close()
    rig.db.close()


def test_a_passive_one_is_due_every_few_thousand_frames(rig: _Rig) -> None:
    """Counted from the last checkpoint, not from the start of the WAL."""
    assert rig.checkpointer.due(idle=True) is None
    rig.write(PASSIVE_FRAMES)
    assert rig.checkpointer.due(idle=False) == PASSIVE
    assert rig.checkpointer.run(PASSIVE)
    assert rig.checkpointer.due(idle=False) is None
    rig.write()
    assert rig.checkpointer.due(idle=True) is None
    rig.write(PASSIVE_FRAMES)
    assert rig.checkpointer.due(idle=False) == PASSIVE


def test_what_was_copied_is_in_the_database_file(rig: _Rig) -> None:
    """A checkpoint moves pages; it changes nothing that a reader sees."""
    rig.write(10)
    before = rig.path.stat().st_size
    assert rig.checkpointer.run(PASSIVE)
    assert rig.path.stat().st_size > before
    reader = open_reader(rig.path)
    assert sql.rows(reader, "SELECT count(*), sum(length(x)) FROM probe") == [(1, 10 * PAGE_SIZE)]
    reader.close()


def test_a_large_wal_is_restarted_when_nobody_waits(rig: _Rig) -> None:
    """Past 64 MiB the WAL begins again, but never while a group would have to wait for it."""
    checkpointer = rig.checkpointer
    checkpointer.committed(rig.db, "main", RESTART_BYTES // PAGE_SIZE + 1)
    assert checkpointer.due(idle=True) == RESTART
    assert checkpointer.due(idle=False) == PASSIVE


def test_after_a_restart_the_count_begins_again(rig: _Rig) -> None:
    """Frames of a WAL that began anew are counted from its beginning."""
    rig.write(PASSIVE_FRAMES)
    assert rig.checkpointer.run(TRUNCATE)
    assert rig.wal.stat().st_size == 0
    rig.write(PASSIVE_FRAMES - 10)
    assert rig.checkpointer.due(idle=True) is None
    rig.write(20)
    assert rig.checkpointer.due(idle=True) == PASSIVE


def test_a_reader_that_pins_the_wal_delays_and_breaks_nothing(rig: _Rig) -> None:
    """A TRUNCATE that meets a reader says that it is not done; when he leaves, it is."""
    rig.write(10)
    reader = open_reader(rig.path)
    reader.execute("BEGIN")
    sql.rows(reader, "SELECT count(*) FROM probe")
    rig.write(10)
    assert not rig.checkpointer.run(TRUNCATE)
    assert rig.wal.stat().st_size > 0
    reader.execute("COMMIT")
    reader.close()
    assert rig.checkpointer.run(TRUNCATE)
    assert rig.wal.stat().st_size == 0


def test_a_passive_one_that_is_pinned_says_so(rig: _Rig) -> None:
    """Frames that a reader still needs are left, and the next thousand are waited for."""
    rig.write(10)
    reader = open_reader(rig.path)
    reader.execute("BEGIN")
    sql.rows(reader, "SELECT count(*) FROM probe")
    rig.write(PASSIVE_FRAMES)
    assert not rig.checkpointer.run(PASSIVE)
    assert rig.checkpointer.due(idle=True) is None
    reader.close()


def test_the_writer_goes_on_beside_a_checkpoint(rig: _Rig) -> None:
    """The checkpoint uses a connection of its own, so a transaction may be open meanwhile."""
    rig.write(10)
    rig.db.execute("BEGIN IMMEDIATE")
    sql.run(rig.db, "INSERT INTO probe VALUES (x'00')")
    assert rig.checkpointer.run(PASSIVE)
    rig.db.execute("COMMIT")
    assert checkpoint.PASSIVE_FRAMES * PAGE_SIZE < RESTART_BYTES
