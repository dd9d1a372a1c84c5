"""What a replica's files need from time to time, and taking back what the log refused."""

from __future__ import annotations

import random
import shutil
from array import array

import pytest

from petsem.errors import Code, PetsemError
from petsem.replication.drivers.apply import Applier, ApplyFailed
from petsem.replication.ltx import decode
from petsem.replication.retention import Retention
from petsem.replication.rolling import PageChecksums
from petsem.server.database import open_reader
from petsem.server.replica.undo import before, undone
from petsem.server.replica.upkeep import Upkeep, trim
from tests.support.failing_vfs import IO, FailingVfs
from tests.support.leader_source import START_MS, LeaderSource
from tests.unit.server.replica.store_rig import Rig, rest


async def filled(rig: Rig, leader: LeaderSource) -> list[int]:
    """A replica with several segments; the last TXID of each."""
    await rig.open()
    await rig.take(leader)
    for _ in range(12):
        leader.now_ms += 60_000
        await rig.follow([leader.fill(100)])
    await rig.store.sync()
    ends = [each.end.txid for each in rig.store.log.segments]
    assert len(ends) > 4
    return ends


async def test_the_log_keeps_what_followers_and_recovery_need(
    rig: Rig, leader: LeaderSource
) -> None:
    """Whole segments below the followers' floor go, never one behind the last sync."""
    ends = await filled(rig, leader)
    log = rig.store.log

    def ends_now() -> list[int]:
        return [each.end.txid for each in log.segments]

    for floor, left in ((0, ends), (ends[1], ends[2:]), (ends[2] + 1, ends[3:])):
        trim(log, ends[3], floor, START_MS, Retention(kept_bytes=0))
        assert ends_now() == left
    trim(log, ends[3], None, START_MS, Retention(kept_bytes=0))
    assert ends_now() == ends[4:]
    trim(log, ends[3], 10**9, START_MS, Retention(kept_bytes=0))
    assert ends_now() == ends[4:]
    # So little is kept for whoever connects again.
    await rig.store.trim(10**9)
    assert ends_now() == ends[4:]
    await rig.close()


async def test_bytes_and_age_go_before_a_followers_need(rig: Rig, leader: LeaderSource) -> None:
    """A follower that is far behind takes a snapshot instead."""
    ends = await filled(rig, leader)
    log = rig.store.log
    sizes = [each.size_bytes for each in log.segments]
    trim(log, ends[-1], 0, leader.now_ms, Retention(most_bytes=sum(sizes[1:]), most_age_s=10**6))
    assert [each.end.txid for each in log.segments] == ends[1:]
    oldest = log.segments[1].oldest_ms
    assert oldest is not None
    trim(log, ends[-1], 0, oldest + 61_001, Retention(most_bytes=10**9, most_age_s=1))
    assert [each.end.txid for each in log.segments] == ends[2:]
    await rig.close()


async def test_the_database_is_synced_after_a_time_or_an_amount(
    rig: Rig, leader: LeaderSource
) -> None:
    """And `state.json` says so afterwards."""
    store = await rig.open()
    await rig.take(leader)
    store._upkeep._after_bytes = 10 * 4096
    for sql in ("UPDATE t SET x = randomblob(90) WHERE id = 3", "UPDATE t SET x = randomblob(900)"):
        had = rig.datadir.read_state().synced_txid
        await rig.follow([leader.run(sql)])
    while rig.datadir.read_state().synced_txid == had:
        await rest()
    assert rig.datadir.read_state().synced_txid == leader.position.txid
    soon = Upkeep(rig.datadir, store._applier, rig.helper, lambda: leader.position, after_s=0)
    await rig.follow([leader.run("UPDATE t SET x = randomblob(90) WHERE id = 3")])
    soon.wrote(1)
    while rig.datadir.read_state().synced_txid != leader.position.txid:
        await rest()
    await soon.stop()
    await rig.close()


async def test_what_is_not_on_the_disk_is_not_said_to_be(rig: Rig, leader: LeaderSource) -> None:
    """A sync of the database that fails leaves `state.json` as it was, so that the log is replayed
    from there; one that succeeds comes before the word of it."""
    await rig.open()
    await rig.take(leader)
    had = rig.datadir.read_state().synced_txid
    await rig.follow([leader.run()])
    vfs, noted = FailingVfs(), []
    applier = Applier(
        rig.datadir.database,
        vfs=vfs.name,
        reached=lambda _: noted.append(rig.datadir.read_state().synced_txid),
    )
    upkeep = Upkeep(rig.datadir, applier, rig.helper, lambda: leader.position)
    vfs.fail("sync", "petsem.db", 0, IO)
    with pytest.raises(ApplyFailed):
        await upkeep.sync()
    assert (vfs.failed, rig.datadir.read_state().synced_txid) == (1, had)
    vfs.heal()
    await upkeep.sync()
    assert (noted, rig.datadir.read_state().synced_txid) == ([had, had], leader.position.txid)
    applier.close()
    await rig.close()


async def test_a_log_that_is_deleted_acknowledges_nothing(rig: Rig, leader: LeaderSource) -> None:
    """The next transaction is refused, the log begins anew where the database is, and then takes
    it; after a crash, a loss of power too, everything is there."""
    await filled(rig, leader)
    await rig.follow([leader.run()])
    at = leader.position
    shutil.rmtree(rig.datadir.log)
    record = leader.run()
    with pytest.raises(PetsemError) as refused:
        await rig.follow([record])
    assert refused.value.code is Code.UNAVAILABLE
    assert (rig.store.durable, rig.store.applied, rig.store.problem) == (at, at, None)
    assert rig.datadir.read_state().synced_txid == at.txid
    await rig.follow([record])
    assert (rig.store.durable, rig.store.log.base) == (leader.position, at)
    await rig.crash()
    again = Rig(rig.datadir.path)
    store = await again.open()
    assert store.applied == leader.position
    await again.close()
    again.helper.shutdown()


async def test_a_deleted_segment_is_noticed_by_who_looks_after_the_log(
    rig: Rig, leader: LeaderSource
) -> None:
    """Also where no transaction comes. Until then what is durable and not applied was only in the
    open file: it is applied first."""
    await filled(rig, leader)
    foreign = open_reader(rig.datadir.database)
    foreign.execute("BEGIN; SELECT * FROM t").fetchone()
    await rig.store.receive([leader.run()])
    sorted(rig.datadir.log.glob("*.seg"))[0].unlink()
    foreign.close(True)
    await rig.store.trim(0)
    log = rig.store.log
    assert (log.base, log.end, rig.store.applied) == (leader.position,) * 3
    assert not log.is_deleted(every_file=True)
    await rig.follow([leader.run()])
    assert rig.image() == leader.image()
    await rig.close()


def test_changes_are_taken_back(leader: LeaderSource) -> None:
    """Growing, shrinking and growing again: from the end of any run of transactions back to any
    place in it."""
    noise = random.Random(4)
    for count in range(12):
        leader.vacuum() if count % 5 == 4 else leader.run(
            "DELETE FROM t WHERE id % 3 = ?", count % 3
        ) if count % 2 else leader.fill(noise.randrange(200))
    table, tables, befores = PageChecksums(), [], []
    for _, data in leader.records:
        file = decode(data)
        tables.append((table.rolling, array("Q", table.entries(1, table.commit))))
        change = table.plan(file.pages, file.header.commit)
        befores.append(before(table, change))
        table.accept(change)
    for place, (rolling, entries) in enumerate(tables):
        back = undone(table, befores[place:])
        assert (back.rolling, back.entries(1, back.commit)) == (rolling, entries)
        assert back.complete


async def test_a_quiet_log_is_let_go_of_all_the_same(rig: Rig, leader: LeaderSource) -> None:
    """What was destroyed goes with its day, also where no more transactions come."""
    ends = await filled(rig, leader)
    log, day_ms = rig.store.log, 24 * 3600 * 1000
    last = log.segments[-1].oldest_ms
    assert last is not None
    trim(log, ends[-1], 0, last + day_ms, Retention(most_age_s=7 * 24 * 3600))
    assert [each.end.txid for each in log.segments] == ends
    trim(log, ends[-1], 0, last + day_ms + 1, Retention(most_age_s=7 * 24 * 3600))
    assert [each.end.txid for each in log.segments] == [*ends, ends[-1]]
    trim(log, ends[-1], 0, last + 7 * day_ms + 1, Retention(most_age_s=7 * 24 * 3600))
    assert [each.end.txid for each in log.segments] == [ends[-1]]
    assert log.end is not None
    assert log.end.txid == ends[-1]
    await rig.follow([leader.fill(1)])
    await rig.close()


async def test_a_shorter_age_has_shorter_segments(rig: Rig, leader: LeaderSource) -> None:
    """Of an age of seven hours a segment takes in one, so that nothing stays for long beyond."""
    ends = await filled(rig, leader)
    log, bounds = rig.store.log, Retention(most_age_s=7 * 3600)
    last = log.segments[-1].oldest_ms
    assert last is not None
    trim(log, ends[-1], 0, last + 3_600_000, bounds)
    assert [each.end.txid for each in log.segments] == ends
    trim(log, ends[-1], 0, last + 3_600_001, bounds)
    assert [each.end.txid for each in log.segments] == [*ends, ends[-1]]
    await rig.close()
