"""The replica's disk: a snapshot, what follows it, refusals, and clean stops."""

from __future__ import annotations

import pytest

from petsem.model import Position
from petsem.replication.ltx import CHECKSUM_FLAG, Header, compact, decode, encode, page_checksum
from petsem.server.replica.errors import BadFrame, NotContiguous
from tests.support.leader_source import LeaderSource
from tests.unit.server.replica.store_rig import Rig


async def test_an_empty_directory_has_nothing(rig: Rig) -> None:
    """A new replica claims no position, is not synced, and refuses transactions."""
    store = await rig.open()
    found = (store.durable, store.applied, store.resume, store.epochs(), store.needs_snapshot)
    assert found == (None, None, None, [], True)
    assert not rig.view.synced
    with pytest.raises(NotContiguous):
        await store.receive([(1, b"")])
    await rig.close()


async def test_a_snapshot_and_what_follows_make_the_leaders_image(
    rig: Rig, leader: LeaderSource
) -> None:
    """After each transaction, one at a time and many together, the file is the leader's, byte for
    byte, and readers see it."""
    store = await rig.open()
    await rig.take(leader)
    assert rig.image() == leader.image()
    at = leader.position
    assert (store.durable, store.applied, store.epochs()) == (at, at, [(1, 1, "leader")])
    for _ in range(5):
        await rig.follow([leader.run("UPDATE t SET x = randomblob(900) WHERE id % 20 = 3")])
        assert rig.image() == leader.image()
        assert store.durable == store.applied == rig.view.applied == leader.position
    await rig.follow(
        [leader.fill(300), leader.new_epoch(), leader.run("DELETE FROM t WHERE id > 50")]
    )
    await rig.follow([leader.vacuum(), leader.fill(40)])
    assert rig.image() == leader.image()
    assert rig.read("SELECT count(*) FROM t") == [(90,)]
    assert store.epochs() == [(1, 1, "leader"), (2, 9, "leader")]
    assert rig.heard("jumped") == [None]
    assert rig.heard("durable")[-1] == rig.heard("applied")[-1] == leader.position
    await rig.close()


async def test_a_compacted_range_is_as_good(rig: Rig, leader: LeaderSource) -> None:
    """Many transactions in one file, and one that is applied off the loop."""
    await rig.open()
    await rig.take(leader)
    at = leader.position.txid
    for _ in range(10):
        leader.fill(100)
    await rig.follow([(1, compact([data for _, data in leader.after(at)]))])
    assert rig.image() == leader.image()
    assert rig.store.applied == leader.position
    await rig.close()


async def test_a_clean_stop_leaves_nothing_to_do(rig: Rig, leader: LeaderSource) -> None:
    """The next start is where the last one ended, with every page's checksum known."""
    await rig.open()
    await rig.take(leader)
    await rig.follow([leader.run()])
    assert rig.datadir.read_state().synced_txid == leader.position.txid - 1
    await rig.close()
    assert rig.datadir.read_state().synced_txid == leader.position.txid
    again = Rig(rig.datadir.path)
    store = await again.open()
    assert (store.durable, store.applied) == (leader.position, leader.position)
    assert (store.verified, again.view.synced) == (True, True)
    await again.follow([leader.run()])
    assert again.image() == leader.image()
    await again.close()
    again.helper.shutdown()


def remade(record: tuple[int, bytes], **changes: int) -> tuple[int, bytes]:
    """The file with other header fields, otherwise as good as a file can be."""
    epoch, data = record
    file = decode(data)
    post = changes.pop("post", file.trailer.post_apply_checksum)
    fields = {name: getattr(file.header, name) for name in Header.__dataclass_fields__}
    return epoch, encode(Header(**{**fields, **changes}), file.pages, post)


def not_canonical(record: tuple[int, bytes]) -> tuple[int, bytes]:
    """The file with a page 1 as a node in WAL mode has it, and every checksum right."""
    epoch, data = record
    file = decode(data)
    (_, page1), *rest = file.pages
    other = page1[:18] + b"\x02\x02" + page1[20:]
    post = file.trailer.post_apply_checksum ^ page_checksum(1, page1) ^ page_checksum(1, other)
    return epoch, encode(file.header, [(1, other), *rest], post | CHECKSUM_FLAG)


async def test_bad_files_change_nothing(rig: Rig, leader: LeaderSource) -> None:
    """Each is refused with its reason, is kept to be looked at, and the good one is taken after."""
    store = await rig.open()
    await rig.take(leader)
    before, image = leader.position, rig.image()
    good = leader.run("UPDATE t SET x = randomblob(90) WHERE id < 5")
    epoch, data = good
    later = leader.run()
    flipped = bytearray(data)
    flipped[-200] ^= 1
    bad: list[tuple[tuple[int, bytes], str]] = [
        ((epoch, bytes(flipped)), "file-checksum"),
        ((epoch, data[:-1]), "truncated"),
        ((epoch, data + b"x"), "trailing"),
        ((epoch, b""), "truncated"),
        (remade(good, post=1 << 63 | 7), "rolling-checksum"),
        ((epoch + 1, data), "stamp"),
        (not_canonical(good), "not-canonical"),
        (remade(good, commit=decode(data).header.commit + 1), "commit"),
    ]
    for record, reason in bad:
        with pytest.raises(BadFrame) as refused:
            await store.receive([record])
        assert refused.value.reason == reason
    for record in (later, leader.records[0], remade(good, pre_apply_checksum=1 << 63 | 5)):
        with pytest.raises(NotContiguous):
            await store.receive([record])
    assert (store.durable, store.applied, rig.image()) == (before, before, image)
    assert len(list(rig.datadir.log.glob("quarantine/frame-*.ltx"))) == 1
    await rig.follow([good, later])
    assert rig.image() == leader.image()
    await rig.close()


async def test_what_precedes_a_bad_file_is_stored(rig: Rig, leader: LeaderSource) -> None:
    """In a batch whose second file is bad, the first counts and nothing behind it."""
    store = await rig.open()
    await rig.take(leader)
    first, second, third = leader.run(), leader.run(), leader.run()
    with pytest.raises(BadFrame):
        await store.receive([first, (1, second[1][:-4]), third])
    assert store.durable == store.applied == leader.positions[-3]
    await rig.follow([second, third])
    assert rig.image() == leader.image()
    await rig.close()


async def test_positions_are_told_in_order(rig: Rig, leader: LeaderSource) -> None:
    """Durable first, then applied, once a batch."""
    await rig.open()
    await rig.take(leader)
    rig.told.clear()
    await rig.follow([leader.run(), leader.run()])
    at = leader.position
    assert rig.told == [("durable", at), ("applied", at)]
    await rig.close()


def test_the_source_is_a_leader(leader: LeaderSource) -> None:
    """Its positions follow each other, as the test support promises."""
    assert [each.txid for each in leader.positions] == [0, 1, 2]
    assert leader.position == Position(1, 2, leader.position.checksum)
