"""The replica's disk after stops that were not clean, and after damage."""

from __future__ import annotations

import dataclasses
import errno
import random
import uuid
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from petsem.errors import Code, PetsemError
from petsem.replication import steps
from petsem.replication.drivers.database_file import open_file
from petsem.replication.drivers.log_files import LogOps
from petsem.replication.drivers.rollback import Journal, journal_path
from petsem.replication.image import PAGE_SIZE
from petsem.server.database import open_reader
from petsem.server.replica.errors import BadFrame
from petsem.server.replica.store import ReplicaStore
from tests.support.leader_source import LeaderSource
from tests.unit.server.replica.store_rig import Rig, rest


async def prepared(rig: Rig, leader: LeaderSource, transactions: int = 8) -> None:
    """A replica that was synced at its snapshot and has applied a few transactions since."""
    await rig.open()
    await rig.take(leader)
    for _ in range(transactions):
        await rig.follow([leader.run("UPDATE t SET x = randomblob(500) WHERE id % 9 = 2")])


async def opened_again(
    rig: Rig, reached: steps.Reached = steps.nothing
) -> tuple[Rig, ReplicaStore]:
    """The next start of the same node."""
    again = Rig(rig.datadir.path)
    again.helper.shutdown()
    again.helper = rig.helper
    return again, await again.open(reached)


def the_power_went(rig: Rig) -> None:
    """The machine was started anew since."""
    state = rig.datadir.read_state()
    rig.datadir.write_state(dataclasses.replace(state, whole_in=f"{uuid.UUID(int=7)}:1"))


def write_pages(path: Path, pages: dict[int, bytes], commit: int) -> None:
    """What the disk made of the database file, behind everybody's back."""
    file = open_file(path)
    for pgno, page in pages.items():
        file.xWrite(page, (pgno - 1) * PAGE_SIZE)
    file.xTruncate(commit * PAGE_SIZE)
    file.xClose()


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file that is no database."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def page_of(image: bytes, pgno: int) -> bytes:
    return image[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE]


async def test_an_unclean_stop_is_replayed(rig: Rig, leader: LeaderSource) -> None:
    """Everything durable is there again, and what is replayed is synced."""
    await prepared(rig, leader)
    await rig.crash()
    again, store = await opened_again(rig)
    assert (store.durable, store.applied) == (leader.position, leader.position)
    assert again.image() == leader.image()
    assert again.datadir.read_state().synced_txid == leader.position.txid
    assert (store.verified, again.view.synced) == (False, True)
    await again.close()


async def test_a_snapshot_whose_log_did_not_begin_anew(
    rig: Rig, leader: LeaderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk failed when it was in the database already, and it was thrown away for another one:
    the old log is not replayed over it."""
    await prepared(rig, leader)
    leader.run("DELETE FROM t WHERE id > 10")
    leader.vacuum()

    def failing(_: object) -> None:
        raise OSError(errno.EIO, "on command")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store.log, "reset", failing)
        with pytest.raises(PetsemError):
            await rig.take(leader)
    await rig.store.begin_snapshot(leader.position, 1, 1)
    await rig.crash()
    again, store = await opened_again(rig)
    assert store.needs_snapshot
    assert again.image() == leader.image()
    await again.take(leader)
    assert (store.durable, store.applied) == (leader.position, leader.position)
    await again.close()


@pytest.mark.parametrize("seed", range(6))
async def test_a_loss_of_power_leaves_any_mixture(
    rig: Rig, leader: LeaderSource, seed: int
) -> None:
    """Pages written since the last sync are old, new or zeros, at random, the file longer or
    shorter; the log puts them right, and the scan finds nothing wrong."""
    await rig.open()
    await rig.take(leader)
    old = leader.image()
    for _ in range(4):
        await rig.follow([leader.run("UPDATE t SET x = randomblob(500) WHERE id % 9 = 2")])
        await rig.follow([leader.fill(20)])
    await rig.crash()
    new = rig.image()
    noise = random.Random(seed)
    torn = {}
    for pgno in range(1, len(new) // PAGE_SIZE + 1):
        before, after = page_of(old, pgno), page_of(new, pgno)
        if before != after:
            torn[pgno] = noise.choice((before or bytes(PAGE_SIZE), after, bytes(PAGE_SIZE)))
    write_pages(rig.datadir.database, torn, noise.choice((len(old), len(new))) // PAGE_SIZE)
    again, store = await opened_again(rig)
    assert store.applied == leader.position
    assert again.image() == leader.image()
    store.start_scan()
    assert store._scan is not None
    await store._scan
    assert (store.verified, store.problem) == (True, None)
    await again.close()


async def test_a_journal_that_was_left_is_rolled_back(rig: Rig, leader: LeaderSource) -> None:
    """With nothing to replay, the start still has the database as the log's end says."""
    await prepared(rig, leader)
    await rig.close()
    path, image = rig.datadir.database, leader.image()
    file = open_file(path)
    journal = Journal(journal_path(path), "unix", len(image) // PAGE_SIZE)
    journal.keep(file, [1, 30])
    journal.close()
    file.xClose()
    write_pages(path, {1: bytes(PAGE_SIZE), 30: bytes(PAGE_SIZE)}, len(image) // PAGE_SIZE)
    again, store = await opened_again(rig)
    assert (store.durable, again.image()) == (leader.position, image)
    await again.close()


async def test_following_goes_on_while_the_scan_reads(rig: Rig, leader: LeaderSource) -> None:
    """With no checksum known at the start, transactions are verified from the pages they replace,
    beside the scan, and in the end all is known."""
    leader.fill(2_000)
    await prepared(rig, leader)
    await rig.crash()
    again, store = await opened_again(rig)
    store.start_scan()
    for count in range(12):
        record = leader.vacuum() if count == 7 else leader.run("DELETE FROM t WHERE id % 97 = 5")
        await again.follow([record])
        await again.follow([leader.fill(30)])
    assert store._scan is not None
    await store._scan
    assert (store.verified, store.table.rolling) == (True, leader.position.checksum)
    assert again.image() == leader.image()
    await again.close()


async def test_a_flipped_byte_in_the_database_is_found_and_repaired(
    rig: Rig, leader: LeaderSource
) -> None:
    """The scan finds it; a snapshot writes the damaged page and page 1, and nothing else."""
    await prepared(rig, leader)
    await rig.crash()
    wrong = bytearray(page_of(rig.image(), 30))
    wrong[77] ^= 1
    write_pages(rig.datadir.database, {30: bytes(wrong)}, len(rig.image()) // PAGE_SIZE)
    again, store = await opened_again(rig)
    store.start_scan()
    assert store._scan is not None
    await store._scan
    assert (store.needs_snapshot, store.durable, store.verified) == (True, None, False)
    assert again.heard("trouble") == ["pages of its database are damaged"]
    applied: list[int] = []
    real = store._applier.try_apply

    def counting(pages, commit, **how):  # type: ignore[no-untyped-def]
        pages = list(pages)
        applied.extend(pgno for pgno, _ in pages)
        return real(pages, commit, **how)

    store._applier.try_apply = counting  # type: ignore[method-assign]
    await again.take(leader)
    assert applied == [1, 30]
    assert again.image() == leader.image()
    assert (store.problem, store.verified, store.durable) == (None, True, leader.position)
    await again.follow([leader.run()])
    await again.close()


async def test_a_damaged_page_makes_good_files_look_bad_only_once(
    rig: Rig, leader: LeaderSource
) -> None:
    """A page that is damaged before the scan got there: the second refusal at the same place says
    that it is this node which needs help."""
    await prepared(rig, leader)
    await rig.crash()
    record = leader.run("UPDATE t SET x = zeroblob(800)")
    image = rig.image()
    pages = {pgno: page_of(image, pgno)[:-1] + b"?" for pgno in range(20, 60)}
    write_pages(rig.datadir.database, pages, len(image) // PAGE_SIZE)
    again, store = await opened_again(rig)
    for needs in (False, True):
        with pytest.raises(BadFrame) as refused:
            await store.receive([record])
        assert (refused.value.reason, store.needs_snapshot) == ("rolling-checksum", needs)
    await again.take(leader)
    assert again.image() == leader.image()
    await again.close()


def segments(rig: Rig) -> list[Path]:
    return sorted(rig.datadir.log.glob("*.seg"))


def record_offset(rig: Rig, data: bytes) -> tuple[Path, int]:
    """Where the log holds this file."""
    for path in segments(rig):
        at = path.read_bytes().find(data)
        if at >= 0:
            return path, at
    raise AssertionError


async def test_a_damaged_log_is_set_aside(rig: Rig, leader: LeaderSource) -> None:
    """A byte flips in a record that the start needs to replay: the damaged bytes are kept, and
    somebody who has to look for them is told."""
    await prepared(rig, leader)
    await rig.crash()
    path, at = record_offset(rig, leader.records[-3][1])
    flip(path, at + 150)
    with capture_logs() as told:
        again, store = await opened_again(rig)
    assert any(again.datadir.log.glob("quarantine/*"))
    assert [each["event"] for each in told] == ["replay_failed", "database_is_whole"]
    assert store.durable == leader.position
    await again.close()


async def test_damage_in_the_logs_past_costs_followers_only(rig: Rig, leader: LeaderSource) -> None:
    """A record that this node has applied is found damaged by whoever reads it: it goes on, with a
    log that begins behind the damage."""
    await prepared(rig, leader)
    path, at = record_offset(rig, leader.records[-3][1])
    flip(path, at + 150)
    await rig.store.log_damaged(leader.position.txid - 2)
    assert rig.store.durable == rig.store.applied == leader.position
    assert rig.store.log.base is not None
    assert rig.store.log.base.txid >= leader.position.txid - 2
    await rig.follow([leader.run()])
    await rig.crash()
    again, store = await opened_again(rig)
    assert store.durable == leader.position
    assert again.image() == leader.image()
    await again.close()


async def test_a_record_that_is_lost_before_it_was_applied_is_fetched_again(
    rig: Rig, leader: LeaderSource
) -> None:
    """A foreign reader keeps the applying waiting, and meanwhile the log's disk flips a byte: the
    node goes back to what it has applied, and takes the same transactions again."""
    await prepared(rig, leader)
    before = leader.position
    foreign = open_reader(rig.datadir.database)
    foreign.execute("BEGIN; SELECT * FROM t").fetchone()
    records = [leader.run(), leader.run()]
    await rig.store.receive(records)
    assert (rig.store.durable, rig.store.applied) == (leader.position, before)
    path, at = record_offset(rig, records[0][1])
    flip(path, at + 150)
    foreign.close(True)
    while rig.store.durable != before:
        await rest()
    await rig.follow(records)
    assert rig.store.applied == leader.position
    assert rig.image() == leader.image()
    await rig.close()


async def test_a_foreign_reader_delays_nothing_but_what_is_seen(
    rig: Rig, leader: LeaderSource
) -> None:
    """While it reads, transactions become durable; when it is gone they are applied together."""
    await prepared(rig, leader)
    before = leader.position
    foreign = open_reader(rig.datadir.database)
    foreign.execute("BEGIN; SELECT * FROM t").fetchone()
    for _ in range(5):
        await rig.store.receive([leader.run()])
    assert (rig.store.durable, rig.store.applied) == (leader.position, before)
    rig.told.clear()
    foreign.close(True)
    await rig.store._applying.settled()
    assert rig.heard("applied") == [leader.position]
    assert rig.image() == leader.image()
    await rig.close()


async def test_somebody_elses_write_is_noticed(rig: Rig, leader: LeaderSource) -> None:
    """A shell that writes to a replica's database: the next transaction is durable and not
    applied, and a snapshot puts the database right."""
    await prepared(rig, leader)
    other = apsw.Connection(str(rig.datadir.database))
    other.execute("CREATE TABLE mine(x)")
    other.close()
    await rig.follow([leader.run()])
    assert rig.store.needs_snapshot
    await rig.take(leader)
    assert rig.image() == leader.image()
    await rig.follow([leader.run()])
    assert rig.store.applied == leader.position
    await rig.close()


@pytest.mark.parametrize("call", ["write", "fdatasync"])
async def test_a_disk_that_refuses_the_log_loses_nothing(
    rig: Rig, leader: LeaderSource, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The log's disk fails in the middle of a batch: what was synced counts, the rest is as if it
    had never come, and is taken when the disk is well."""
    rig.segment_bytes = 4 * 2**20
    await prepared(rig, leader)
    records = [leader.run("UPDATE t SET x = randomblob(500) WHERE id % 9 = 2"), leader.vacuum()]
    records += [leader.fill(100), leader.run()]
    real, calls = getattr(LogOps, call), 0

    def failing(self, *args):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == (3 if call == "write" else 1):
            raise OSError(5, "the disk fails")
        return real(self, *args)

    monkeypatch.setattr(LogOps, call, failing)
    with pytest.raises(PetsemError) as refused:
        await rig.store.receive(records)
    assert refused.value.code is Code.UNAVAILABLE
    stored = 2 if call == "write" else 0
    assert rig.store.durable == leader.positions[-5 + stored]
    await rig.follow(records[stored:])
    assert rig.image() == leader.image()
    await rig.close()


async def test_a_disk_that_was_full_once(rig: Rig, leader: LeaderSource) -> None:
    """There is room again, and the replica goes on without being started again."""
    await prepared(rig, leader, 1)
    rig.space.exhausted()
    await rig.follow([leader.run()])
    assert rig.store.applied == leader.position
    assert not rig.space.low
    await rig.close()


async def test_a_full_disk_refuses_before_anything_is_written(
    rig: Rig, leader: LeaderSource
) -> None:
    """Below the reserve nothing is taken, and afterwards everything is."""
    await prepared(rig, leader)
    at, record = leader.position, leader.run()
    rig.free = 0
    with pytest.raises(PetsemError):
        await rig.store.receive([record])
    assert rig.store.durable == at
    rig.free = 2**40
    await rig.follow([record])
    assert rig.store.applied == leader.position
    await rig.close()
