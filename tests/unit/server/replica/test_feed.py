"""Feeding followers over a real peer port: who may follow, where they begin, what they get."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from petsem import limits
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf
from tests.support.feeding import CLUSTER, Source, feeding
from tests.support.patience import PATIENCE_S


async def test_a_follower_at_the_end_gets_each_transaction(tmp_path: Path) -> None:
    """Welcome first, then one file a transaction, and what it then has is what the source has."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.follower(position=source.end) as follower:
        start = source.end
        follower.like(source)
        welcome = await follower.next()
        assert welcome is not None
        assert welcome.welcome == pb.Welcome(
            protocol=1,
            cluster=CLUSTER,
            node="ams-1",
            region="ams",
            version=welcome.welcome.version,
            epoch_seen=1,
            path=["ams-1"],
            position=position_to_protobuf(start),
            epochs=[pb.Epoch(epoch=1, first_txid=1, leader="here")],
        )
        for number in (2, 3, 9):
            await follower.until(node.change(number))
        assert follower.files == [(2, 2), (3, 3), (4, 4)]
        assert follower.image == (source.commit, source.pages)


async def test_heartbeats(tmp_path: Path) -> None:
    """Say where the leader is, what time it has, and how the other nodes are."""
    source = Source(tmp_path)
    report = pb.NodeReport(node="ams-1", region="ams")
    async with (
        feeding(source, heartbeat_s=0.01, report=lambda: report) as node,
        node.follower("fra-2", position=source.end) as other,
        node.follower(position=source.end) as follower,
    ):
        await other.next()
        # What it says of its own way is not what is passed on.
        theirs = pb.NodeReport(node="fra-2", path=["fra-2", "ams-1"])
        await other.say(pb.FromReplica(report=theirs))
        own = pb.NodeReport(node="fra-1")
        await follower.say(pb.FromReplica(report=own))
        while node.hearsay.of("fra-1") is None or node.hearsay.of("fra-2") is None:
            await other.beat()
        await follower.next()
        beat = await follower.beat()
        node.clock.advance(5)
        while beat.leader_time_ms < node.clock.unix_ms():
            beat = await follower.beat()
        passed = pb.NodeReport(node="fra-2", path=["fra-2"], age_ms=5_000)
        assert beat == pb.Heartbeat(
            position=position_to_protobuf(source.end),
            leader_time_ms=node.clock.unix_ms(),
            leader_seen_ms_ago=0,
            epoch_seen=1,
            nodes=[report, passed],
            path=["ams-1"],
            leader="here",
        )


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"protocol": 2}, "invalid", "another version of the stream"),
        ({"cluster": bytes(16)}, "denied", "another cluster"),
        ({"node": "fra-2"}, "denied", "certificate names another node"),
        ({"epoch_seen": 2}, "conflict", "newer epoch"),
        ({"epoch_seen": 1 + limits.EPOCHS_AHEAD_MAX}, "conflict", "newer epoch"),
        ({"epoch_seen": 2 + limits.EPOCHS_AHEAD_MAX}, "invalid", "no cluster comes to"),
        ({"epoch_seen": 2**32 - 1}, "invalid", "no cluster comes to"),
        ({"epochs": [pb.Epoch(epoch=1)] * 1025}, "invalid", "more than it may"),
    ],
)
async def test_who_is_refused(
    tmp_path: Path, fields: dict[str, Any], code: str, words: str
) -> None:
    """For what its hello says, with a sentence."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.follower(position=source.end, **fields) as follower:
        found, message = await follower.refused()
    assert found == code
    assert words in message
    assert node.followers.connected == []
    # What is believed is remembered, and nothing else.
    believed = "newer epoch" in words
    assert node.view.epoch_seen == (fields["epoch_seen"] if believed else 0)


async def test_who_is_on_the_way_to_the_leader_is_refused(tmp_path: Path) -> None:
    """A node does not feed whom it follows, nor anybody when it is three steps away itself."""
    source = Source(tmp_path)
    async with feeding(source) as node:
        node.view.path = ("ams-1", "fra-1", "lax-1")
        async with node.follower() as follower:
            assert (await follower.refused())[0] == "conflict"
        async with node.follower("nrt-1", position=source.end) as follower:
            welcome = await follower.next()
            assert welcome is not None
            assert list(welcome.welcome.path) == ["ams-1", "fra-1", "lax-1"]
        node.view.path = ("ams-1", "sin-1", "fra-2", "lax-1")
        async with node.follower("nrt-1") as follower:
            assert "too far" in (await follower.refused())[1]


async def test_a_deposed_leader_stays_one(tmp_path: Path) -> None:
    """It refuses who knows of a newer epoch each time, also once it has heard of it itself."""
    source = Source(tmp_path)
    async with feeding(source) as node:
        for _ in range(2):
            async with node.follower(epoch_seen=7) as follower:
                assert (await follower.refused())[0] == "conflict"
            node.view.epoch_seen = 7


async def test_another_way_to_the_leader(tmp_path: Path) -> None:
    """Is told at once, and the stream goes on."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.follower(position=source.end) as follower:
        follower.like(source)
        await follower.next()
        assert list((await follower.beat()).path) == ["ams-1"]
        node.view.goes("ams-1", "lax-1")
        assert list((await follower.beat()).path) == ["ams-1", "lax-1"]
        await follower.until(node.change(2))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("ams-1", "fra-1", "lax-1"), "this node follows it"),
        (("ams-1", "sin-1", "fra-2", "lax-1"), "too far"),
    ],
)
async def test_another_way_that_leads_over_the_follower(
    tmp_path: Path, path: tuple[str, ...], words: str
) -> None:
    """Or is too long for one that follows: ends the stream at once."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.follower(position=source.end) as follower:
        await follower.next()
        node.view.goes(*path)
        code, message = await follower.refused()
        assert (code, words in message) == ("conflict", True)


async def test_reports_end_no_stream(tmp_path: Path) -> None:
    """Whatever a follower says of whomever."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.follower(position=source.end) as follower:
        follower.like(source)
        await follower.next()
        for report in (
            pb.NodeReport(),
            pb.NodeReport(node="ams-1", path=["ams-1"]),
            pb.NodeReport(node="fra-2"),
            pb.NodeReport(node="fra-2", path=["fra-2", "ams-1"]),
            pb.NodeReport(node="fra-2", path=["fra-2"], last_error="x" * 9_000),
        ):
            await follower.say(pb.FromReplica(report=report))
        position = node.change(2)
        await follower.until(position)
        assert await node.followers.wait(position, 1, PATIENCE_S) == ["fra-1"]
        assert (node.hearsay.of("fra-2"), node.followers.connected) == (None, ["fra-1"])


async def test_no_hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else first, a second one, or nothing for long: the stream ends."""
    source = Source(tmp_path)
    async with feeding(source) as node:
        with monkeypatch.context() as patience:
            patience.setattr(limits, "STREAM_HELLO_DEADLINE_S", 0.05)
            async with node.knock() as follower:
                assert await follower.refused() == ("invalid", "a follower says hello first")
        async with node.knock() as follower:
            await follower.say(pb.FromReplica(ack=pb.Ack()))
            assert await follower.refused() == ("invalid", "a follower says hello first")
        async with node.follower(position=source.end) as follower:
            await follower.hello()
            assert await follower.refused() == ("invalid", "a follower says hello once")


async def test_a_node_without_data(tmp_path: Path) -> None:
    """Feeds nobody."""
    source = Source(tmp_path)
    async with feeding(source) as node:
        source.log.close()
        async with node.follower() as follower:
            code, message = await follower.refused()
    assert (code, message) == ("unavailable", "this node has no data yet; follow another one")


async def test_a_follower_that_is_behind_gets_ranges(tmp_path: Path) -> None:
    """Many transactions in few files, and the same database; the last ones single again."""
    source = Source(tmp_path)
    async with feeding(source) as node:
        start = source.end
        async with node.knock() as follower:
            follower.like(source)
            for number in range(600):
                source.change(2 + number % 7)
            await follower.hello()
            await follower.until(source.end)
            assert follower.files[0][0] == start.txid + 1
            assert len(follower.files) < 10
            await follower.until(node.change(4))
            assert follower.files[-1] == (602, 602)
            assert follower.image == (source.commit, source.pages)


async def test_a_database_that_shrinks_and_grows(tmp_path: Path) -> None:
    """While the follower was away: no file spans the place where pages were cut off."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.knock() as follower:
        follower.like(source)
        for _ in range(5):
            source.change(2, 3)
            source.change(2, commit=4)
            source.change(5, 6, 7)
        await follower.hello()
        await follower.until(source.end)
        assert follower.image == (source.commit, source.pages)


async def test_epochs_stay_apart(tmp_path: Path) -> None:
    """A range ends where an epoch does, so that forks are found there."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.knock() as follower:
        follower.like(source)
        for epoch in (1, 2, 3):
            for _ in range(20):
                source.change(2, epoch=epoch)
        await follower.hello()
        await follower.until(source.end)
        assert follower.files == [(2, 21), (22, 41), (42, 61)]
        assert follower.at == source.end


async def test_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not acknowledged as received is bounded; a longer file goes when nothing else does;
    an ack lets the next ones through."""
    monkeypatch.setattr(limits, "STREAM_WINDOW_BYTES", 10_000)
    source = Source(tmp_path)
    async with (
        feeding(source, heartbeat_s=0.02) as node,
        node.follower(position=source.end) as follower,
    ):
        follower.like(source)
        await follower.next()
        for _ in range(6):
            node.change(2)
            await asyncio.sleep(0)
        node.change(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
        while not follower.beats or len(follower.files) < 4:
            message = await follower.next() if len(follower.files) < 4 else None
            follower.beats += [] if message else [await follower.beat()]
        assert follower.files == [(2, 2), (3, 3), (4, 4), (5, 5)]
        await follower.beat()
        await follower.ack(3)
        for _ in range(2):
            await follower.next()
        assert follower.files[-1] == (7, 7)
        await follower.beat()
        await follower.ack(6)
        await follower.beat()
        await follower.ack(7)
        await follower.next()
        assert follower.image == (source.commit, source.pages)


@pytest.mark.parametrize(
    "ack",
    [pb.Ack(received=2), pb.Ack(received=1, durable=2), pb.Ack(received=1, applied=1)],
)
async def test_a_follower_that_lies(tmp_path: Path, ack: pb.Ack) -> None:
    """It acknowledges what it was not sent, or more as durable than as received: it is let go."""
    source = Source(tmp_path)
    async with feeding(source) as node, node.follower(position=source.end) as follower:
        await follower.next()
        await follower.say(pb.FromReplica(ack=ack))
        code, message = await follower.refused()
    assert (code, message) == (
        "invalid",
        "the node cannot follow this one: it acknowledges what it was not sent",
    )


async def test_a_fork(tmp_path: Path) -> None:
    """Whoever has another branch is told where ours left it, and then the stream ends."""
    source, other = Source(tmp_path / "a"), Source(tmp_path / "b")
    common = [source.change(2), other.change(2)]
    assert common[0] == common[1]
    other.change(3)
    other.change(3)
    source.change(4, epoch=2)
    async with (
        feeding(source) as node,
        node.follower(
            position=other.end, epochs=[pb.Epoch(epoch=1, first_txid=1, leader="here")]
        ) as follower,
    ):
        await follower.next()
        told = await follower.next()
        assert told is not None
        assert position_from_protobuf(told.rollback.fork) == common[0]
        assert await follower.next() is None


async def test_a_follower_that_is_ahead(tmp_path: Path) -> None:
    """Of a node between, which only has not got so far: it gets heartbeats, then files."""
    source, leader = Source(tmp_path / "a"), Source(tmp_path / "b")
    for _ in range(3):
        leader.change(2)
    epochs = [pb.Epoch(epoch=1, first_txid=1, leader="here")]
    async with (
        feeding(source, heartbeat_s=0.01) as node,
        node.follower(position=leader.end, epochs=epochs) as follower,
    ):
        follower.like(leader)
        await follower.next()
        for _ in range(3):
            node.change(2)
            await follower.beat()
        assert source.end == leader.end
        await follower.until(node.change(5))
        assert follower.files == [(5, 5)]


async def test_this_node_drops_its_branch(tmp_path: Path) -> None:
    """Who has more than the fork drops it too; who has less goes on."""
    source = Source(tmp_path)
    fork = source.change(2)
    async with (
        feeding(source, heartbeat_s=0.01) as node,
        node.knock("fra-2") as behind,
        node.knock() as follower,
    ):
        behind.like(source)
        source.change(3)
        await follower.hello(position=source.end)
        await follower.next()
        node.feed.rolled_back(fork)
        told = await follower.next()
        assert told is not None
        assert position_from_protobuf(told.rollback.fork) == fork
        assert await follower.next() is None
        source.log.cut_after(fork)
        await behind.hello()
        await behind.next()
        node.feed.rolled_back(fork)
        await behind.until(node.change(4, epoch=2))
        # What it was sent since is not what was dropped.
        await behind.until(node.change(5))
        assert behind.files == [(3, 3), (4, 4)]
    assert node.followers.connected == []


async def test_files_of_the_branch_that_this_node_drops(tmp_path: Path) -> None:
    """Those that are not on their way yet are not sent."""
    source = Source(tmp_path)
    fork = source.change(2)
    for number in (3, 4, 5):
        source.change(number)
    async with feeding(source) as node, node.knock() as follower:
        with node.holding(lambda message: message.HasField("transactions")) as held:
            await follower.hello(position=fork)
            await held.reached.wait()
            source.log.cut_after(fork)
            node.feed.rolled_back(fork)
        for _ in range(2):
            await follower.next()
        told = await follower.next()
        assert told is not None
        assert position_from_protobuf(told.rollback.fork) == fork
        assert follower.files == [(3, 3)]


async def test_this_node_drops_its_branch_while_it_says_welcome(tmp_path: Path) -> None:
    """Who is just being welcomed is told of it as well."""
    source = Source(tmp_path)
    fork = source.change(2)
    source.change(3)
    async with feeding(source) as node, node.knock() as follower:
        with node.holding(lambda message: message.HasField("welcome")) as held:
            await follower.hello(position=source.end)
            await held.reached.wait()
            node.feed.rolled_back(fork)
        await follower.next()
        told = await follower.next()
        assert told is not None
        assert position_from_protobuf(told.rollback.fork) == fork
        assert await follower.next() is None


async def test_acks_and_reports_reach_the_followers(tmp_path: Path) -> None:
    """Durable positions, also those of nodes behind the follower; gone when the stream is."""
    source = Source(tmp_path)
    async with feeding(source, members=lambda: {"fra-1", "fra-2"}) as node:
        async with node.follower(position=source.end) as follower:
            follower.like(source)
            await follower.next()
            assert node.followers.durable_at(source.end) == ["fra-1"]
            position = node.change(2)
            assert node.followers.durable_at(position) == []
            behind = pb.NodeReport(
                node="fra-2",
                durable=position_to_protobuf(position),
                path=["fra-2"],
            )
            await follower.until(position)
            assert await node.followers.wait(position, 1, PATIENCE_S) == ["fra-1"]
            await follower.say(pb.FromReplica(report=behind))
            assert await node.followers.wait(position, 2, PATIENCE_S) == ["fra-1", "fra-2"]
            assert node.followers.connected == ["fra-1"]
            behind.path.append("fra-1")
            assert node.followers.live() == {"fra-2": behind}
            assert node.followers.floor_txid() == position.txid
            changed = node.followers.changed
        await asyncio.wait_for(changed.wait(), PATIENCE_S)
        assert node.followers.durable_at(position) == []
        assert node.followers.live() == {}
        assert await node.followers.wait(position, 1, 0.01) == []
        assert node.followers.floor_txid() == position.txid


async def test_a_stopped_follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads nothing and acknowledges nothing holds up nobody else."""
    monkeypatch.setattr(limits, "STREAM_WINDOW_BYTES", 100_000)
    source = Source(tmp_path)
    async with (
        feeding(source) as node,
        node.follower("fra-2", position=source.end),
        node.follower(position=source.end) as follower,
    ):
        follower.like(source)
        for _ in range(200):
            await follower.until(node.change(2, 3))
        assert follower.image == (source.commit, source.pages)
