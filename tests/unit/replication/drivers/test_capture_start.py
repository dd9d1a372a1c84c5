"""Starting to capture after every kind of end: the log catches up with the database, or is cut
back to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.model import Position
from petsem.replication.drivers.page_checksums import FILE_NAME
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.image import PAGE_SIZE
from tests.support.capturing import Leader
from tests.support.rebuilt import wal_of
from tests.unit.replication.drivers.test_capture import PASSIVE, TABLE, TRUNCATE, insert


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Leader]:
    """Led in epoch 1, with a few transactions in the log and some in the WAL only."""
    leader = Leader(tmp_path)
    leader.commit(TABLE)
    leader.start(1)
    leader.write(insert(90, 1))
    leader.write(insert(3, 2))
    leader.checkpoint()
    for row in (3, 4, 5):
        leader.write(insert(3, row))
    leader.capture.write(merged=False)
    yield leader
    leader.close()


def reopen(leader: Leader) -> None:
    """All connections closed and opened again, so that SQLite recovers the WAL."""
    leader.rig.close()
    leader.rig = type(leader.rig)(leader.directory)


def scanned(leader: Leader) -> int:
    """The pages that the scan came to, one number a step."""
    return len(list(leader.capture.scan()))


def test_an_empty_log(tmp_path: Path) -> None:
    """A database that was never logged begins with a snapshot at its position."""
    leader = Leader(tmp_path)
    leader.commit(TABLE)
    leader.commit(insert(10))
    leader.start(1)
    assert leader.look().files == [(1, 2)]
    assert leader.capture.table.complete
    leader.close()


def test_a_clean_stop(leader: Leader) -> None:
    """The table of checksums is there at the next start, once, and nothing has to be read."""
    leader.stop()
    reopen(leader)
    leader.start(2)
    assert leader.capture.table.complete
    assert not (leader.directory / FILE_NAME).exists()
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_a_crash_with_everything_logged(leader: Leader) -> None:
    """The table is filled in by a scan, while transactions go on."""
    leader.crash()
    reopen(leader)
    leader.start(2)
    assert not leader.capture.table.complete
    leader.write(insert(1, 1))
    leader.capture.write(merged=False)
    assert scanned(leader) > 1
    assert leader.capture.table.complete
    assert leader.look().files[-1] == (leader.txid, leader.txid)


def test_a_crash_before_the_log_was_written(leader: Leader) -> None:
    """What the WAL alone has comes first, each under the position that it was given."""
    for row in (6, 1, 7):
        leader.write(insert(2, row))
    leader.crash()
    reopen(leader)
    leader.start(2)
    first = leader.txid - 2
    assert leader.look().files[-3:] == [(at, at) for at in range(first, leader.txid + 1)]
    assert scanned(leader) > 0
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_a_crash_before_the_capture(leader: Leader) -> None:
    """A COMMIT that nobody was told of."""
    leader.commit(insert(2, 1))
    leader.crash()
    reopen(leader)
    leader.start(2)
    leader.look()
    assert scanned(leader) > 0


def test_several_epochs_in_the_wal(leader: Leader) -> None:
    """Each transaction is logged in its own."""
    leader.write(insert(1))
    leader.epochs.append((3, leader.txid + 1))
    leader.write(insert(1))
    leader.crash()
    reopen(leader)
    leader.start(4)
    leader.epochs.pop()
    leader.look()
    ranges = leader.capture.log.epochs()
    assert [(each.epoch, each.last_txid) for each in ranges] == [
        (1, leader.txid - 1),
        (3, leader.txid),
    ]


def test_the_wal_was_deleted(leader: Leader) -> None:
    """By a stock program that copied it: with everything logged the log goes on, without a
    snapshot."""
    leader.crash()
    leader.rig.close()
    db = apsw.Connection(str(leader.database))
    db.execute("SELECT count(*) FROM t").fetchall()
    db.close()
    assert not wal_of(leader.database).exists()
    reopen(leader)
    leader.start(2)
    assert leader.look().files[-1] == (leader.txid, leader.txid)
    assert scanned(leader) > 0
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_the_wal_was_deleted_before_it_was_logged(leader: Leader) -> None:
    """Only a snapshot has everything."""
    leader.write(insert(2, 1))
    leader.crash()
    leader.rig.close()
    db = apsw.Connection(str(leader.database))
    db.execute("SELECT count(*) FROM t").fetchall()
    db.close()
    reopen(leader)
    leader.start(2)
    assert leader.look().files == [(1, leader.txid)]


@pytest.mark.parametrize("grow", [1, 50])
def test_somebody_copied_what_was_not_logged(leader: Leader, grow: int) -> None:
    """A foreign checkpoint, then a crash: a page's content before the change is nowhere any more,
    and the log must not be given what it became."""
    leader.checkpoint(TRUNCATE)
    leader.write(insert(1, 9))
    leader.capture.write(merged=False)
    leader.write("UPDATE t SET x = zeroblob(100) WHERE id = 2", insert(grow, 10))
    leader.foreign(lambda db: db.wal_checkpoint(None, PASSIVE))
    leader.crash()
    reopen(leader)
    leader.start(2)
    leader.look()
    list(leader.capture.scan())
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_a_page_that_is_again_what_it_was(leader: Leader) -> None:
    """Nobody copied anything, though the file has a page as a later transaction left it: the log
    goes on, without a snapshot."""

    def change(count: int, content: str) -> None:
        leader.write(f"PRAGMA user_version = {count}", f"UPDATE t SET x = {content} WHERE id = 2")

    change(1, "zeroblob(100)")
    leader.checkpoint(TRUNCATE)
    before = leader.look().files
    change(2, "randomblob(100)")
    change(3, "zeroblob(100)")
    leader.crash()
    reopen(leader)
    leader.start(2)
    assert leader.look().files[: len(before)] == before


def test_the_lowest_page_is_again_what_it_was(leader: Leader) -> None:
    """The page that a checkpoint would have copied first is in the file as a transaction that waits
    left it, and nobody copied anything: all pages together tell, and the log goes on."""

    def change(content: str) -> None:
        leader.write(f"UPDATE t SET x = {content} WHERE id = 2")

    change("zeroblob(100)")
    leader.checkpoint(TRUNCATE)
    before = leader.look().files
    change("randomblob(100)")
    change("zeroblob(100)")
    change("randomblob(100)")
    leader.crash()
    reopen(leader)
    leader.start(2)
    assert leader.look().files[: len(before)] == before
    assert leader.anew == []
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_a_copy_that_was_broken_off(leader: Leader) -> None:
    """Somebody's checkpoint got no further than a page below all those of the first transaction
    that waits."""
    for table in ("low", "high"):
        leader.write(f"CREATE TABLE {table} (x)", f"INSERT INTO {table} VALUES (1)")
    leader.checkpoint(TRUNCATE)
    leader.crash()
    reopen(leader)
    leader.start(2)
    leader.write("UPDATE high SET x = 2")
    leader.write("UPDATE low SET x = 2")
    first, second = WalTail(wal_of(leader.database)).read()
    (pgno,) = second.found
    assert pgno < min(first.found)
    with leader.database.open("r+b") as file:
        file.seek((pgno - 1) * PAGE_SIZE)
        file.write(second.page(pgno))
    leader.capture.write(merged=True)
    assert len(leader.anew) == 1
    assert leader.look().files == [(1, leader.txid)]


def test_somebody_copied_what_waits_during_the_scan(leader: Leader) -> None:
    """The same while the leader runs: a page must not be scanned as it became."""
    leader.checkpoint(TRUNCATE)
    leader.crash()
    reopen(leader)
    leader.start(2)
    steps = leader.capture.scan()
    next(steps)
    leader.write("UPDATE t SET x = randomblob(12000) WHERE id > 2")
    leader.foreign(lambda db: db.wal_checkpoint(None, PASSIVE))
    list(steps)
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_the_scan_goes_over_pages_that_only_the_wal_has(leader: Leader) -> None:
    """The database grew: its file is shorter than the table."""
    leader.checkpoint(TRUNCATE)
    leader.write(insert(100))
    leader.capture.write(merged=False)
    leader.crash()
    reopen(leader)
    leader.start(2)
    assert leader.database.stat().st_size < leader.capture.table.commit * PAGE_SIZE
    list(leader.capture.scan())
    assert leader.capture.table.complete
    leader.look()


def test_a_flipped_byte_is_found(leader: Leader) -> None:
    """By the scan, in a page that nothing else reads."""
    leader.checkpoint(TRUNCATE)
    leader.crash()
    leader.rig.close()
    with leader.database.open("r+b") as file:
        file.seek(40 * PAGE_SIZE + 100)
        byte = file.read(1)[0]
        file.seek(40 * PAGE_SIZE + 100)
        file.write(bytes([byte ^ 4]))
    reopen(leader)
    leader.start(2)
    with pytest.raises(ValueError, match="checksum of the log"):
        list(leader.capture.scan())


def test_the_log_was_deleted(leader: Leader) -> None:
    """A new one begins with a snapshot; TXIDs go on."""
    leader.stop()
    shutil.rmtree(leader.log_directory)
    leader.log_directory.mkdir()
    reopen(leader)
    leader.start(2)
    assert leader.look().files == [(1, leader.txid)]
    leader.write(insert(1))
    leader.capture.write(merged=False)
    assert leader.look().files[-1] == (leader.txid, leader.txid)


def restored(leader: Leader, copy: Path, txid: int) -> None:
    """The node was stopped and its database taken back to the copy."""
    leader.rig.close()
    wal_of(leader.database).unlink()
    leader.database.with_name(leader.database.name + "-shm").unlink()
    shutil.copyfile(copy, leader.database)
    leader.rig = type(leader.rig)(leader.directory)
    leader.txid = txid


def test_an_older_database_was_restored(leader: Leader) -> None:
    """What the log has beyond it is saved, then cut; the image goes on from the copy."""
    leader.checkpoint(TRUNCATE)
    leader.stop()
    reopen(leader)
    copy = leader.directory / "copy"
    shutil.copyfile(leader.database, copy)
    before = leader.txid
    leader.start(1)
    known = leader.capture.log.end
    for row in (1, 2):
        leader.write(insert(4, row))
    leader.stop()
    restored(leader, copy, before)
    leader.start(3)
    assert leader.lost == [known]
    assert known is not None
    assert (known.epoch, known.txid) == (1, before)
    assert leader.look().files[-1] == (before, before)
    list(leader.capture.scan())
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_another_branch_was_restored(leader: Leader) -> None:
    """The log ends at a TXID that the database has in another epoch: all of it is saved, and a
    snapshot begins the new one."""
    leader.stop()
    leader.epochs = [(1, 1), (5, 3)]
    reopen(leader)
    leader.start(6)
    assert leader.lost == [Position(0, 0, 0)]
    assert leader.look().files == [(1, leader.txid)]


@pytest.mark.parametrize("clean", [True, False])
def test_the_log_has_aged_out(leader: Leader, clean: bool) -> None:
    """Nothing was written for longer than transactions are kept: the log goes on where it ends,
    and no follower needs a snapshot."""
    aged_out(leader, clean)
    leader.start(2)
    assert leader.anew == []
    leader.write(insert(1))
    leader.capture.write(merged=False)
    assert [each.min_txid for each in leader.capture.log.infos()] == [leader.txid]
    list(leader.capture.scan())


@pytest.mark.parametrize("clean", [True, False])
def test_a_page_was_changed_behind_a_log_that_has_aged_out(leader: Leader, clean: bool) -> None:
    """All pages together show it."""
    aged_out(leader, clean)
    with leader.database.open("r+b") as file:
        file.seek(5 * PAGE_SIZE + 7)
        file.write(b"changed")
    leader.start(2)
    assert len(leader.anew) == 1
    leader.look()


def aged_out(leader: Leader, clean: bool) -> None:
    """A stop, and a log in which no transaction is left."""
    leader.checkpoint(TRUNCATE)
    log = leader.capture.log
    log.roll()
    log.drop_before(leader.txid)
    assert list(log.infos()) == []
    if clean:
        leader.stop()
    else:
        leader.crash()
    reopen(leader)


def test_somebody_wrote_after_a_clean_stop(leader: Leader) -> None:
    """Into the WAL, which leaves size and time of the database file as they were: the saved table
    is not believed, and the log has the change."""
    leader.stop()
    leader.foreign(lambda db: db.execute("UPDATE t SET x = 'foreign' WHERE id = 1"))
    reopen(leader)
    leader.start(2)
    leader.look()
    leader.write(insert(1))
    leader.capture.write(merged=False)
    leader.look()


def test_somebody_let_the_database_grow_after_a_stop(leader: Leader) -> None:
    """And copied it all into the file: it has another size than the log says, and only a snapshot
    is whole."""
    leader.stop()
    leader.rig.close()
    db = apsw.Connection(str(leader.database))
    db.execute(insert(20))
    db.close()
    reopen(leader)
    leader.start(2)
    assert leader.look().files == [(1, leader.txid)]
