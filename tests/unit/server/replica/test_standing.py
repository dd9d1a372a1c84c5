"""A replica whose log is damaged or gone at its start, and nobody to ask: what it answers from."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from unittest.mock import Mock

import apsw
import pytest

from petsem.errors import PetsemError
from petsem.replication import steps
from petsem.replication.image import PAGE_SIZE
from petsem.server.database import open_reader
from petsem.server.datadir import CLOSED, DOUBTED, NodeState
from petsem.server.replica import recovery, whole
from petsem.server.replica.whole import place_of, this_boot, untorn
from tests.support.leader_source import LeaderSource
from tests.unit.server.replica.store_rig import Rig
from tests.unit.server.replica.test_store_recovery import (
    flip,
    opened_again,
    page_of,
    prepared,
    record_offset,
    segments,
    the_power_went,
    write_pages,
)

Harm = Callable[[Rig, LeaderSource], None]


def flipped(back: int) -> Harm:
    """A byte of the record so many before the end."""

    def harm(rig: Rig, leader: LeaderSource) -> None:
        path, at = record_offset(rig, leader.records[-back][1])
        flip(path, at + 150)

    return harm


def half_gone(rig: Rig, leader: LeaderSource) -> None:
    """The last record and the mark behind it, so that it looks as if it had never been synced."""
    path, at = record_offset(rig, leader.records[-1][1])
    path.write_bytes(path.read_bytes()[: at + 150].ljust(path.stat().st_size, b"\0"))


def emptied(rig: Rig, _: LeaderSource) -> None:
    for path in segments(rig):
        path.unlink()


def removed(rig: Rig, _: LeaderSource) -> None:
    shutil.rmtree(rig.datadir.log)


def one_removed(rig: Rig, _: LeaderSource) -> None:
    """The first that has transactions, of several."""
    assert len(segments(rig)) > 2
    segments(rig)[1].unlink()


HARMS = [flipped(1), flipped(3), half_gone, emptied, removed, one_removed]
NAMES = ["last", "middle", "half", "emptied", "removed", "one"]


@pytest.mark.parametrize("harm", HARMS, ids=NAMES)
async def test_after_the_process_was_killed_it_answers_from_its_database(
    rig: Rig, leader: LeaderSource, harm: Harm
) -> None:
    """Everything that was applied is there and on the disk, nothing more is acknowledged, and the
    leader's next transaction is taken without a snapshot."""
    reached: list[str] = []
    rig.segment_bytes = 16 * 1024
    await prepared(rig, leader)
    await rig.crash()
    harm(rig, leader)
    again, store = await opened_again(rig, reached.append)
    assert (store.applied, store.durable, store.problem) == (leader.position, leader.position, None)
    assert steps.SYNC_DATABASE in reached
    assert again.datadir.read_state().synced_txid == leader.position.txid
    assert again.view.synced
    assert again.image() == leader.image()
    assert again.datadir.log.stat().st_mode & 0o777 == 0o700
    await again.follow([leader.run()])
    await again.crash()
    last, store = await opened_again(again)
    assert store.applied == leader.position
    assert last.image() == leader.image()
    await last.close()


async def test_after_a_stop_in_order_and_another_boot(rig: Rig, leader: LeaderSource) -> None:
    """Nothing was written since it was synced, so the log is not needed."""
    await prepared(rig, leader)
    await rig.close()
    assert rig.datadir.read_state().whole_in == CLOSED
    removed(rig, leader)
    again, store = await opened_again(rig)
    assert store.durable == leader.position
    assert again.datadir.read_state().whole_in == this_boot(again.datadir)
    await again.close()


async def test_what_was_durable_and_not_applied_is_applied(rig: Rig, leader: LeaderSource) -> None:
    """The log is damaged before the place of the database, and holds behind it."""
    rig.segment_bytes = 16 * 1024
    await prepared(rig, leader)
    foreign = open_reader(rig.datadir.database)
    foreign.execute("BEGIN; SELECT * FROM t").fetchone()
    await rig.store.receive([leader.run(), leader.run()])
    await rig.crash()
    foreign.close(True)
    flipped(5)(rig, leader)
    again, store = await opened_again(rig)
    assert (store.applied, store.durable) == (leader.position, leader.position)
    assert again.image() == leader.image()
    await again.close()


async def test_what_was_applied_after_the_damage_is_not_undone(
    rig: Rig, leader: LeaderSource
) -> None:
    """The log breaks off before the database does: no older pages are laid over newer ones."""
    await prepared(rig, leader)
    await rig.crash()
    half_gone(rig, leader)
    again, store = await opened_again(rig)
    assert (again.position().txid, store.problem) == (leader.position.txid, None)
    store.start_scan()
    assert store._scan is None or await store._scan is None
    assert store.verified
    await again.close()


@pytest.mark.parametrize("harm", HARMS, ids=NAMES)
async def test_after_the_power_went_a_torn_database_is_not_answered_from(
    rig: Rig, leader: LeaderSource, harm: Harm
) -> None:
    """One page of the last transaction is half there: it is no position that the leader ever had,
    and the node says that it cannot tell."""
    rig.segment_bytes = 16 * 1024
    await prepared(rig, leader)
    old = rig.image()
    await rig.follow([leader.run("UPDATE t SET x = randomblob(900) WHERE id = 150")])
    await rig.crash()
    harm(rig, leader)
    new = rig.image()
    (torn,) = [
        n for n in range(2, len(new) // PAGE_SIZE + 1) if page_of(old, n) != page_of(new, n)
    ][-1:]
    half = page_of(new, torn)[: PAGE_SIZE // 2].ljust(PAGE_SIZE, b"\0")
    write_pages(rig.datadir.database, {torn: half}, len(new) // PAGE_SIZE)
    the_power_went(rig)
    again, store = await opened_again(rig)
    assert (store.applied, again.view.synced) == (None, False)
    assert again.view.lacking.startswith("this node cannot answer from its own data, because the")
    # The same in the boot that came after: trying has not made it good.
    await again.crash()
    last, store = await opened_again(again)
    assert (store.applied, store.needs_snapshot) == (None, True)
    await last.take(leader)
    assert last.image() == leader.image()
    await last.close()


@pytest.mark.parametrize("cut_off", [False, True])
async def test_after_the_power_went_the_log_that_lost_its_end_is_not_the_measure(
    rig: Rig, leader: LeaderSource, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    """Of the last transaction one page reached the disk, and not the one that says so; its record
    is damaged, and cut. A start that is cut off after that does not make it good."""
    await prepared(rig, leader)
    old = rig.image()
    await rig.follow([leader.run("UPDATE t SET x = randomblob(900) WHERE id = 150")])
    await rig.crash()
    new, count = rig.image(), len(old) // PAGE_SIZE
    newest = max(n for n in range(2, count + 1) if page_of(old, n) != page_of(new, n))
    pages = {n: page_of(old, n) for n in range(1, count + 1) if n != newest}
    write_pages(rig.datadir.database, pages, count)
    flipped(1)(rig, leader)
    the_power_went(rig)
    if cut_off:
        with monkeypatch.context() as patch:
            patch.setattr(recovery, "_settle_database", Mock(side_effect=OSError))
            with pytest.raises(PetsemError):
                await opened_again(rig)
    again, store = await opened_again(rig)
    assert (store.applied, store.needs_snapshot, again.view.synced) == (None, True, False)
    await again.close()


async def test_a_database_that_does_not_say_where_it_is(rig: Rig, leader: LeaderSource) -> None:
    """No power was lost, but page 1 is damaged and the log has lost its end: what holds of it would
    make page 1 good, and leave later pages beside it."""
    await prepared(rig, leader)
    await rig.follow([leader.run("UPDATE t SET x = randomblob(900) WHERE id = 150")])
    await rig.crash()
    flipped(1)(rig, leader)
    count = len(rig.image()) // PAGE_SIZE
    write_pages(rig.datadir.database, {1: b"\xff" * PAGE_SIZE}, count)
    for _ in range(2):
        rig, store = await opened_again(rig)
        assert (store.applied, store.needs_snapshot) == (None, True)
        await rig.crash()


async def test_after_the_power_went_the_log_may_bring_it_to_where_it_breaks_off(
    rig: Rig, leader: LeaderSource
) -> None:
    """The file has old and new pages at random, but none of the last transaction, which the log
    has lost: what holds of it is replayed, and all pages together show that it is whole then."""
    rig.segment_bytes = 16 * 1024
    await rig.open()
    await rig.take(leader)
    base = leader.image()
    for _ in range(8):
        await rig.follow([leader.run("UPDATE t SET x = randomblob(500) WHERE id % 9 = 2")])
    old, at = rig.image(), leader.position
    await rig.follow([leader.run()])
    await rig.crash()
    flipped(1)(rig, leader)
    count, noise = len(old) // PAGE_SIZE, random.Random(7)
    mixed = {n: page_of(noise.choice((base, old)), n) for n in range(1, count + 1)}
    write_pages(rig.datadir.database, mixed, count)
    assert place_of(rig.datadir.database, "unix") is None or rig.image() != old
    the_power_went(rig)
    again, store = await opened_again(rig)
    assert (store.applied, store.durable, again.view.synced) == (at, at, True)
    await again.follow(leader.after(at.txid))
    assert again.image() == leader.image()
    await again.close()


async def test_after_the_power_went_a_later_record_may_tell_that_it_is_whole(
    rig: Rig, leader: LeaderSource
) -> None:
    """Everything reached the file in time; the log is damaged before that, and its end says which
    checksum all pages have there."""
    rig.segment_bytes = 16 * 1024
    await prepared(rig, leader)
    await rig.crash()
    flipped(3)(rig, leader)
    the_power_went(rig)
    again, store = await opened_again(rig)
    assert (store.applied, store.durable) == (leader.position, leader.position)
    assert again.image() == leader.image()
    await again.close()


async def test_an_emptied_database_is_not_filled_from_the_middle_of_the_log(
    rig: Rig, leader: LeaderSource
) -> None:
    """The log has the last transactions' pages only: with these it would look like a database."""
    await prepared(rig, leader)
    await rig.crash()
    rig.datadir.database.unlink()
    again, store = await opened_again(rig)
    assert (store.applied, again.view.synced) == (None, False)
    assert "deleted" in again.view.lacking
    await again.take(leader)
    assert again.image() == leader.image()
    await again.close()


async def test_a_page_that_the_scan_finds_bad_is_not_vouched_for(
    rig: Rig, leader: LeaderSource
) -> None:
    """The log is lost before a snapshot came: then nothing shows that the database is whole."""
    await prepared(rig, leader)
    await rig.crash()
    wrong = bytearray(page_of(rig.image(), 30))
    wrong[77] ^= 1
    write_pages(rig.datadir.database, {30: bytes(wrong)}, len(rig.image()) // PAGE_SIZE)
    again, store = await opened_again(rig)
    store.start_scan()
    assert store._scan is not None
    await store._scan
    await again.close()
    removed(rig, leader)
    last, store = await opened_again(again)
    assert (store.applied, store.needs_snapshot) == (None, True)
    await last.close()


async def test_a_database_that_somebody_else_wrote_to_has_no_place(
    rig: Rig, leader: LeaderSource
) -> None:
    """Its own word about its position is only taken where page 1 and the rows agree."""
    await prepared(rig, leader)
    await rig.crash()
    path = rig.datadir.database
    found = place_of(path, "unix")
    assert found is not None
    assert (found.epoch, found.txid) == (leader.position.epoch, leader.position.txid)
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE mine(x)")
    other.close()
    assert place_of(path, "unix") is None


def test_what_is_evidence(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """This boot and this file; where the system does not say which boot it is, only a stop in
    order."""

    def evident(whole_in: str | None) -> bool:
        rig.datadir.write_state(NodeState("replica", whole_in=whole_in))
        return untorn(rig.datadir)

    database = rig.datadir.database
    database.touch()
    here = this_boot(rig.datadir)
    assert here is not None
    assert [evident(each) for each in (here, CLOSED, DOUBTED, None)] == [True, True, False, False]
    database.rename(database.with_suffix(".was"))
    shutil.copy(database.with_suffix(".was"), database)
    assert not evident(here)
    database.with_suffix(".was").replace(database)
    assert evident(here)
    monkeypatch.setattr(whole, "_BOOT_ID", rig.datadir.path / "none")
    assert [evident(each) for each in (here, CLOSED)] == [False, True]
