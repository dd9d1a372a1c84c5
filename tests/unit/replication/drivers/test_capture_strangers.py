"""Whoever else writes to the leader's database: the log begins anew with all of it, however little
of that is left in the WAL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.support.capturing import Leader

TRUNCATE = apsw.SQLITE_CHECKPOINT_TRUNCATE
PASSIVE = apsw.SQLITE_CHECKPOINT_PASSIVE


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Leader]:
    leader = Leader(tmp_path)
    leader.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)")
    leader.start(1)
    for _ in range(3):
        leader.write("INSERT INTO t (x) VALUES (randomblob(20000))")
    yield leader
    leader.close()


def stranger(db: apsw.Connection) -> None:
    """A transaction that nobody told of."""
    db.execute("DELETE FROM t WHERE id = 1")


def test_it_is_seen_before_a_checkpoint(leader: Leader) -> None:
    """Its frames are in the WAL: they are not copied before the log has them."""
    leader.capture.write(merged=False)
    leader.foreign(stranger)
    assert leader.capture.before_checkpoint(leader.rig.counted())
    assert leader.look().files == [(1, leader.txid)]
    leader.rig.checkpoint(PASSIVE)
    leader.write("DELETE FROM t WHERE id = 2")
    leader.capture.write(merged=False)
    assert leader.look().files == [(1, leader.txid - 1), (leader.txid, leader.txid)]


@pytest.mark.parametrize("mode", [PASSIVE, TRUNCATE])
def test_it_took_its_frames_along(leader: Leader, mode: int) -> None:
    """After a permission to begin the WAL anew nothing in it tells of the stranger, so the writer
    has to."""
    leader.checkpoint(TRUNCATE)
    leader.foreign(stranger)
    leader.foreign(lambda db: db.wal_checkpoint(None, mode))
    leader.commit("DELETE FROM t WHERE id = 2")
    leader.capture.disturbed()
    leader.captured()
    leader.capture.write(merged=False)
    assert leader.look().files == [(1, leader.txid)]


def test_an_emptied_wal_may_be_copied_again(leader: Leader) -> None:
    """There is nothing in it, and nothing is missing from the log."""
    leader.checkpoint(TRUNCATE)
    files = leader.look().files
    assert leader.capture.before_checkpoint(leader.rig.counted())
    assert leader.capture.before_checkpoint(leader.rig.counted())
    leader.write("DELETE FROM t WHERE id = 2")
    leader.capture.write(merged=False)
    assert leader.look().files == [*files, (leader.txid, leader.txid)]
