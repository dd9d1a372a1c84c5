"""Snapshots over a real peer port: whole, resumed, and beside changes that never stop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from petsem import limits
from petsem.errors import unavailable
from petsem.model import Position
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE
from petsem.replication.ltx import decode
from petsem.server.replica import snapshot_source
from petsem.server.replica.feed_files import Files, pages_of
from petsem.server.replica.snapshot_source import SnapshotSource
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf
from tests.support.feeding import Follower, Source, feeding
from tests.support.patience import PATIENCE_S
from tests.unit.replication.drivers.log_support import flip, segment_files


async def _snapshot(follower: Follower) -> pb.SnapshotBegin:
    """How the snapshot begins that comes next."""
    while True:
        message = await follower.next()
        assert message is not None
        if message.HasField("snapshot"):
            return message.snapshot


def _second_run(message: pb.FromLeader) -> bool:
    """In the midst of a snapshot: its first pages are on their way, others are not read yet."""
    return message.pages.first_page > 1


async def test_a_new_follower(tmp_path: Path) -> None:
    """Gets all pages and then files; what it has is verified by its position's checksum."""
    source = Source(tmp_path, pages=200)
    for number in range(2, 40):
        source.change(number)
    async with feeding(source) as node, node.follower() as follower:
        await follower.until(source.end)
        assert follower.image == (source.commit, source.pages)
        assert follower.files == []
        await follower.until(node.change(201, 202))
        assert follower.image == (source.commit, source.pages)
        await follower.ack()
        assert await node.followers.wait(source.end, 1, PATIENCE_S) == ["fra-1"]


async def test_changes_meanwhile(tmp_path: Path) -> None:
    """Pages that are newer than the snapshot's position, older, gone or half written: the changes
    since then put them right."""
    source = Source(tmp_path, pages=300)
    async with feeding(source) as node, node.knock() as follower:
        begun = source.end
        with node.holding(_second_run) as held:
            await follower.hello()
            await held.reached.wait()
            source.change(2, 70, 150)
            source.checkpoint()
            source.change(71, 299, 300)
            source.change(2, commit=220)
            source.checkpoint()
            source.change(221, 222)
            # Half of what the log says, as a checkpoint that is under way.
            with os.fdopen(os.open(source.path, os.O_WRONLY), "r+b", buffering=0) as file:
                file.seek(220 * PAGE_SIZE)
                file.write(source.pages[221][:2000])
        await follower.until(source.end)
        assert follower.image == (source.commit, source.pages)
        assert follower.files[-1] == (begun.txid + 3, source.end.txid)


async def test_many_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in several files, none of them large, and only the last one is to be verified."""
    monkeypatch.setattr(limits, "STREAM_BULK_MAX_PAGES", 40)
    source = Source(tmp_path, pages=100)
    async with feeding(source) as node, node.knock() as follower:
        with node.holding(_second_run) as held:
            await follower.hello()
            await held.reached.wait()
            for number in range(2, 90):
                source.change(number)
        await _snapshot(follower)
        ends = []
        while follower.taking:
            message = await follower.next()
            assert message is not None
            if message.HasField("snapshot_end"):
                ends.append(message.snapshot_end)
        assert [end.more for end in ends] == [True] * (len(ends) - 1) + [False]
        assert len(ends) == 5
        assert all(len(decode(end.ltx).pages) <= 40 for end in ends)
        assert follower.image == (source.commit, source.pages)


async def test_a_branch_is_dropped_meanwhile(tmp_path: Path) -> None:
    """What was read may be of it, so the follower has to begin anew."""
    source = Source(tmp_path, pages=200)
    async with feeding(source) as node, node.knock() as follower:
        with node.holding(_second_run) as held:
            await follower.hello()
            await held.reached.wait()
            node.feed.rolled_back(source.end)
        code, message = await follower.refused()
    assert (code, message) == ("unavailable", "this node has dropped a branch; connect again")
    assert follower.next_page <= 1 + 2 * limits.SNAPSHOT_RUN_PAGES


async def test_a_snapshot_is_resumed(tmp_path: Path) -> None:
    """From the page that is needed next, if the log still has what changed since."""
    source = Source(tmp_path, pages=400)
    async with feeding(source) as node, node.knock() as first:
        await first.hello()
        begin = await _snapshot(first)
        for _ in range(3):
            await first.next()
        assert first.next_page == 1 + 3 * limits.SNAPSHOT_RUN_PAGES
        source.change(2, 3, 399)
        resume = pb.SnapshotAt(at=begin.at, next_page=first.next_page)
        async with node.knock("fra-2") as second:
            second.like(first)
            second.commit, second.at = begin.pages, None
            await second.hello(resume=resume)
            again = await _snapshot(second)
            assert again == pb.SnapshotBegin(at=begin.at, pages=400, first_page=first.next_page)
            await second.until(source.end)
            assert second.image == (source.commit, source.pages)


@pytest.mark.parametrize("lost", ["branch", "log"])
async def test_a_snapshot_that_cannot_be_resumed(tmp_path: Path, lost: str) -> None:
    """Its position is not of this branch, or the log begins later: it begins anew."""
    source = Source(tmp_path, pages=100)
    at = source.end
    if lost == "branch":
        at = Position(at.epoch, at.txid, 1 << 63)
    else:
        source.log.reset(source.change(2))
    async with feeding(source) as node, node.knock() as follower:
        resume = pb.SnapshotAt(at=position_to_protobuf(at), next_page=50)
        await follower.hello(resume=resume)
        begin = await _snapshot(follower)
        assert (position_from_protobuf(begin.at), begin.first_page) == (source.end, 1)
        await follower.until(source.end)
        assert follower.image == (source.commit, source.pages)


async def test_where_files_do_not_lead_on(tmp_path: Path) -> None:
    """A position that is older than the log, inside one of its files, or of other content."""
    source = Source(tmp_path, pages=20, segment_bytes=8192)
    old = source.end
    for _ in range(20):
        source.change(2, 3)
    source.log.drop_before(10)
    other = Position(source.end.epoch, source.end.txid, 1 << 63)
    epochs = [pb.Epoch(epoch=1, first_txid=1, leader="here")]
    async with feeding(source) as node:
        for position in (old, other):
            async with node.knock() as follower:
                await follower.hello(position=position, epochs=epochs)
                await _snapshot(follower)
                await follower.until(source.end)
                assert follower.image == (source.commit, source.pages)


async def test_a_transaction_too_long_for_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower gets a snapshot from behind it; a resumed one from before it is of no use."""
    monkeypatch.setattr(limits, "STREAM_READ_BYTES", 20_000)
    monkeypatch.setattr(limits, "STREAM_WINDOW_BYTES", 20_000)
    monkeypatch.setattr(limits, "STREAM_FILE_MAX_BYTES", 30_000)
    source = Source(tmp_path, pages=5)
    async with feeding(source) as node, node.follower(position=source.end) as follower:
        before = source.end
        follower.like(source)
        await follower.until(node.change(*range(2, 20)))
        assert follower.files == [(2, 2)]
        node.change(*range(2, 60))
        begin = await _snapshot(follower)
        assert position_from_protobuf(begin.at) == source.end
        await follower.until(source.end)
        assert follower.image == (source.commit, source.pages)
        async with node.knock("fra-2") as other:
            await other.hello(resume=pb.SnapshotAt(at=position_to_protobuf(before), next_page=3))
            assert (await _snapshot(other)).first_page == 1


async def test_damage_in_the_log(tmp_path: Path) -> None:
    """Is taken out of it, and the follower gets a snapshot instead."""
    source = Source(tmp_path, pages=5)
    after = source.change(2)
    for _ in range(5):
        source.change(3, 4)
    source.log.sync()
    [segment] = segment_files(tmp_path / "log")
    offset = segment.read_bytes().index(source.log.read(4, 1 << 16)[0].data) + 300
    flip(segment, offset)
    async with feeding(source) as node, node.knock() as follower:
        await follower.hello(position=after)
        await _snapshot(follower)
        await follower.until(source.end)
        assert [gap.after.txid for gap in source.log.gaps] == [4]
        follower.at = None
        async with node.knock("fra-2") as other:
            await other.hello(position=source.log.position_of(4))
            await _snapshot(other)


async def test_no_snapshot_may_be_made(tmp_path: Path) -> None:
    """The follower is told why."""

    async def refuse() -> Position:
        raise unavailable("pages are damaged")

    source = Source(tmp_path)
    async with feeding(source, checkpointed=refuse) as node, node.follower() as follower:
        assert await follower.refused() == ("unavailable", "pages are damaged")


async def test_the_log_is_kept_for_a_snapshot(tmp_path: Path) -> None:
    """From where it began, until the follower acknowledges more, also while it is away."""
    source = Source(tmp_path, pages=200)
    async with feeding(source) as node:
        async with node.knock() as follower:
            begun = source.end
            with node.holding(_second_run) as held:
                await follower.hello()
                await held.reached.wait()
                node.change(2)
            await follower.until(source.end)
            assert node.followers.floor_txid() == begun.txid
        async with node.follower(position=source.end) as follower:
            follower.like(source)
            await follower.next()
            assert node.followers.floor_txid() == source.end.txid
            changed = node.followers.changed
        await asyncio.wait_for(changed.wait(), PATIENCE_S)
        node.clock.advance(limits.FOLLOWER_REMEMBERED_S + 1)
        assert node.followers.floor_txid() is None


async def test_snapshots_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a few are made at a time; who waits gets heartbeats."""
    source = Source(tmp_path, pages=20)
    gate = asyncio.Event()
    running = 0

    async def slowly() -> Position:
        nonlocal running
        running += 1
        await gate.wait()
        return source.checkpoint()

    async with (
        feeding(source, checkpointed=slowly, heartbeat_s=0.01) as node,
        node.follower("a-1") as a,
        node.follower("a-2") as b,
        node.follower("a-3") as c,
    ):
        for each in (a, b, c):
            await each.call.read()
            await each.beat()
            await each.beat()
        assert running == limits.SNAPSHOTS_AT_ONCE
        gate.set()
        for each in (a, b, c):
            await each.until(source.end)
        assert running == 3


async def test_the_lock_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a database over 1 GiB is in no run; the pages beside it are."""
    source = Source(tmp_path)
    found = []

    async def emit(message: pb.FromLeader) -> None:
        if message.HasField("pages"):
            found.append((message.pages.first_page, message.pages.count))

    first = LOCK_PAGE - 70
    monkeypatch.setattr(snapshot_source, "PageReader", Zeros)
    made = SnapshotSource(
        source.path,
        Files(source.log),
        checkpointed=source.checkpointed,
        position=lambda: source.end,
    )
    await made.send((source.end, first), emit, lambda _: None, lambda _: None)
    run = limits.SNAPSHOT_RUN_PAGES
    assert found == [(first, run), (first + run, 8), (LOCK_PAGE + 1, 20)]


class Zeros:
    """A file of a little more than 1 GiB."""

    def __init__(self, _: Path) -> None:
        pass

    def size_pages(self) -> int:
        return LOCK_PAGE + 20

    def block(self, first: int, count: int) -> bytes:
        assert not first <= LOCK_PAGE < first + count
        return bytes(count * PAGE_SIZE)

    def close(self) -> None:
        pass


def test_the_pages_of_a_file_are_counted(tmp_path: Path) -> None:
    """By its index: also of more pages than one byte of a number holds."""
    source = Source(tmp_path, pages=300)
    source.change(2)
    records = source.log.read(0, 1 << 24)
    assert [pages_of(each.data) for each in records] == [300, 2]
