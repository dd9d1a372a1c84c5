"""A replica and the nodes that it follows, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from pathlib import Path

import lz4.block

from petsem.errors import conflict, invalid, unavailable
from petsem.model import Position
from petsem.server.cluster_view import LeaderAddresses
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.errors import NeedsOperator, OwnDisk
from petsem.server.replica.hearsay import Teller
from petsem.wire import petsem_pb2 as pb
from tests.support.fake_leader import QUICK, Script, Talk, eventually, following
from tests.support.ltx_files import Chain
from tests.support.patience import PATIENCE_S


def chain(count: int = 3) -> tuple[Chain, Position, list[tuple[int, bytes]]]:
    """Where a replica stands, and the files after that."""
    made = Chain()
    made.next()
    at = made.at
    return made, at, [(1, made.next()) for _ in range(count)]


async def forever() -> None:
    await asyncio.Event().wait()


async def beating(talk: Talk, at: Position) -> None:
    """Say that this is all, until the stream ends."""
    while True:
        await talk.beat(at)
        await asyncio.sleep(0.05)


async def test_the_walk(tmp_path: Path) -> None:
    """Hello, Welcome, transactions: stored and acknowledged; a heartbeat: known to the node."""
    made, at, files = chain()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files(*files)
        await talk.until_durable(4)
        told = [pb.NodeReport(node=name, path=[name]) for name in ("ams-9", "fra-1")]
        while True:
            await talk.beat(made.at, nodes=told)
            await asyncio.sleep(0.05)
        await forever()

    async with following(tmp_path, at, script) as world:
        await world.disk.until(lambda: world.disk.durable == made.at)
        hello = world.leader.hellos[0]
        assert (hello.protocol, hello.node, hello.region) == (1, "fra-1", "fra")
        assert hello.position == pb.Position(epoch=1, txid=1, checksum=at.checksum)
        assert list(hello.epochs) == [pb.Epoch(epoch=1, first_txid=1, leader="fra-0")]
        assert [each for batch in world.disk.batches for each in batch] == files
        view, node_id = world.replica.view, world.leader.node_id
        hearsay = world.replica.hearsay
        await eventually(lambda: hearsay.of("ams-9"))
        assert hearsay.of("fra-1") is None
        assert (view.leader_position, view.epoch_seen) == (made.at, 1)
        assert view.path == ("fra-1", node_id)
        assert view.leader == LeaderAddresses(node_id, "h:1", "h:2", "h:3")
        assert world.replica.bound == [(1, node_id)]
        last = world.leader.talks[0].acks[-1]
        assert last == pb.Ack(received=4, durable=4, applied=4, epoch=1)
        assert view.problem is None
    assert not view.path
    told = hearsay.of("ams-9")
    assert told is not None
    assert not hearsay.counts(told)
    assert not world.replica.upstream.connected


async def test_what_has_arrived_is_stored_together(tmp_path: Path) -> None:
    """While the disk is busy with one file the others gather; calls to it never overlap."""
    made, at, files = chain(20)
    gate, sent = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files(*files)
        await talk.beat(made.at)
        sent.set()
        await forever()

    async with following(tmp_path, at, script, start=False) as world:
        world.disk.slow = gate.wait
        world.replica.follow.start()
        # The heartbeat is heard while the disk is busy, and is as old as it is.
        await eventually(lambda: world.replica.view.leader_position == made.at)
        assert (world.disk.durable, world.disk.batches) == (at, [])
        gate.set()
        await world.disk.until(lambda: world.disk.durable == made.at)
        assert [len(batch) for batch in world.disk.batches] == [1, 19]
        assert world.replica.view.problem is None


async def test_received_is_said_before_it_is_stored(tmp_path: Path) -> None:
    """Else a busy disk would close the sender's window."""
    made = Chain()
    made.next()
    at, files = made.at, [(1, made.next(size=700_000)) for _ in range(3)]

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files(*files)
        await talk.until(lambda: talk.acks and talk.acks[-1].received >= 3)
        assert talk.acks[-1].durable == 1
        gate.set()
        await talk.until_durable(4)
        await forever()

    gate = asyncio.Event()
    async with following(tmp_path, at, script, start=False) as world:
        world.replica.retime(dataclasses.replace(QUICK, report_s=60))
        world.disk.slow = gate.wait
        world.replica.follow.start()
        await world.disk.until(lambda: world.disk.durable == made.at)


async def test_reports(tmp_path: Path) -> None:
    """Its own and those of the nodes that follow it, again and again."""
    _, at, _ = chain()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.until(lambda: len(talk.reports) >= 4)
        await forever()

    async with following(tmp_path, at, script) as world:
        # One that follows, and one whose stream has ended.
        for name, here in (("fra-2", True), ("fra-3", False)):
            teller = Teller(name, follows=True)
            world.replica.hearsay.take(teller, pb.NodeReport(node=name))
            teller.open = here
        await eventually(lambda: world.leader.talks and len(world.leader.talks[0].reports) >= 4)
        reports = world.leader.talks[0].reports
        assert {each.node for each in reports} == {"fra-1", "fra-2"}
        own = next(each for each in reversed(reports) if each.node == "fra-1")
        assert (own.region, own.ready, list(own.warnings)) == ("fra", True, ["w"])
        assert own.durable == own.applied == pb.Position(epoch=1, txid=1, checksum=at.checksum)
        assert (own.source, list(own.path)) == (world.leader.node_id, [])
        behind = next(each for each in reports if each.node == "fra-2")
        assert list(behind.path) == ["fra-2"]
        assert not own.HasField("lag_ms")


# Snapshots


def packed(pages: bytes) -> bytes:
    block: bytes = lz4.block.compress(pages, store_size=True)
    return block


def shown(at: Position) -> pb.Position:
    return pb.Position(epoch=at.epoch, txid=at.txid, checksum=at.checksum)


async def test_a_snapshot(tmp_path: Path) -> None:
    """It reaches the disk page by page, nothing is acknowledged meanwhile, then files follow."""
    made = Chain()
    made.next()
    begun, some = made.at, made.next(count=2)
    then, ltx = made.at, made.next()
    ended = made.at
    after = made.next()
    pages = [bytes([n]) * 4096 for n in range(3)]
    gate = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.say(snapshot=pb.SnapshotBegin(at=shown(begun), pages=3, first_page=1))
        for first, run in ((1, pages[:2]), (3, pages[2:])):
            block = packed(b"".join(run))
            await talk.say(pages=pb.SnapshotPages(first_page=first, count=len(run), data=block))
            await talk.beat(ended)
        await eventually(lambda: len(world.disk.snapshot) == 3)
        world.disk.slow = gate.wait
        await talk.say(snapshot_end=pb.SnapshotEnd(at=shown(then), ltx=some, epoch=1, more=True))
        await talk.say(snapshot_end=pb.SnapshotEnd(at=shown(ended), ltx=ltx, epoch=1))
        await talk.files((1, after))
        await talk.until(lambda: len(talk.reports) >= 4)
        assert [ack for ack in talk.acks if ack.received or ack.durable] == []
        gate.set()
        await talk.until_durable(5)
        await forever()

    # What it has is of another branch, and further on.
    async with following(tmp_path, Position(1, 99, 1 << 63), script, start=False) as world:
        world.disk.needs_snapshot = True
        world.replica.follow.start()
        await world.disk.until(lambda: world.disk.durable == made.at)
        assert not world.leader.hellos[0].HasField("position")
        assert world.disk.snapshot == [
            (begun, 3, 1),
            (1, pages[0] + pages[1]),
            (3, pages[2]),
            (then, some),
            (ended, ltx),
        ]
        assert world.disk.batches == [[(1, after)]]


async def test_a_snapshot_goes_on(tmp_path: Path) -> None:
    """The hello names what there is of one; who needs one has no position."""
    _, at, _ = chain()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.say(snapshot=pb.SnapshotBegin(at=shown(at), pages=9, first_page=8))
        block = packed(bytes(2 * 4096))
        await talk.say(pages=pb.SnapshotPages(first_page=8, count=2, data=block))
        await talk.say(snapshot_end=pb.SnapshotEnd(at=shown(at), epoch=1))
        await talk.until_durable(1)
        await forever()

    async with following(tmp_path, at, script, start=False) as world:
        world.disk.needs_snapshot, world.disk.resume = True, (at, 8)
        world.replica.follow.start()
        await world.disk.until(lambda: not world.disk.needs_snapshot)
        hello = world.leader.hellos[0]
        assert not hello.HasField("position")
        assert hello.resume == pb.SnapshotAt(at=shown(at), next_page=8)
        assert world.disk.snapshot[0] == (at, 9, 8)


# Forks


def forked(epoch: int, fork: Position) -> Script:
    """A leader of `epoch` on whose branch the replica is not, until it is at `fork`."""

    async def script(talk: Talk) -> None:
        await talk.welcome(
            epoch_seen=epoch,
            epochs=[pb.Epoch(epoch=epoch, first_txid=1, leader=talk.leader.node_id)],
        )
        if talk.hello.position.txid != fork.txid:
            await talk.say(rollback=pb.Rollback(fork=shown(fork)))
        await talk.beat(fork, epoch_seen=epoch)
        await forever()

    return script


async def test_a_fork(tmp_path: Path) -> None:
    """The branch is dropped, and the next hello says where the node is."""
    made, fork, _ = chain()
    async with following(tmp_path, made.at, forked(2, fork)) as world:
        await eventually(lambda: len(world.leader.hellos) >= 2)
        assert world.disk.rollbacks == [(fork, True, False)]
        assert world.leader.hellos[1].position == shown(fork)
        assert world.replica.bound[-1] == (2, world.leader.node_id)


async def test_a_fork_that_a_person_decides(tmp_path: Path) -> None:
    """The disk refuses: nothing is acknowledged, the problem says what to do; then it is done."""
    made, fork, _ = chain()
    async with following(tmp_path, made.at, forked(1, fork), start=False) as world:
        world.disk.asks = NeedsOperator("run: petsem accept")
        world.replica.follow.start()
        await world.replica.problem("run: petsem accept")
        await eventually(lambda: len(world.leader.hellos) >= 3)
        assert all(not talk.acks or talk.acks[-1].durable == 4 for talk in world.leader.talks)
        assert world.replica.view.problem == "run: petsem accept"
        assert world.disk.rollbacks == []
        assert world.replica.follow.accept_loss()
        await world.disk.until(lambda: world.disk.durable == fork)
        assert world.disk.rollbacks == [(fork, False, True)]


async def test_another_leader_of_the_same_epoch(tmp_path: Path) -> None:
    """What is bound to one id is not taken from another."""
    made, at, files = chain()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files(*files)
        await forever()

    async with following(tmp_path, at, script, start=False) as world:
        world.replica.bind_error = conflict("epoch 1 is another node's")
        world.replica.follow.start()
        await world.replica.problem("epoch 1 is another node's")
        assert (world.disk.batches, world.replica.upstream.connected) == ([], False)
        world.replica.bind_error = None
        await world.disk.until(lambda: world.disk.durable == made.at)


# Links that die


async def test_a_silent_leader(tmp_path: Path) -> None:
    """It welcomes, or does not even that, and says no more: the node connects anew."""
    made, at, files = chain()

    async def mute(_: Talk) -> None:
        await forever()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        has = talk.hello.position.txid
        if has == at.txid:
            # Faint: no more than one file.
            await talk.files(files[0])
            await forever()
        await talk.files(*files[has - at.txid :])
        await beating(talk, made.at)

    async with following(tmp_path, at, mute, script, start=False) as world:
        world.replica.retime(dataclasses.replace(QUICK, dead_s=0.3, connect_s=2.0))
        world.replica.follow.start()
        await world.disk.until(lambda: world.disk.durable == made.at)
        # A busy machine may take a leader that is well for a silent one, and find it again.
        mute_one, *others = [each.position.txid for each in world.leader.hellos]
        assert mute_one == 1
        assert others == sorted(others)
        assert {1, 2} <= {*others}
        await eventually(lambda: world.replica.view.problem is None)


async def test_a_leader_that_is_started_anew(tmp_path: Path) -> None:
    """Each end is followed by a new beginning."""
    made, at, files = chain(5)

    def script(index: int) -> Script:
        async def run(talk: Talk) -> None:
            await talk.welcome()
            await talk.files(files[index])
            await talk.until_durable(index + 2)

        return run

    async def last(talk: Talk) -> None:
        await talk.welcome()
        await forever()

    async with following(tmp_path, at, *map(script, range(5)), last, start=False) as world:
        # A report on its way to a stream that has ended would be what the node complains of.
        world.replica.retime(dataclasses.replace(QUICK, report_s=2 * PATIENCE_S))
        world.replica.follow.start()
        await world.disk.until(lambda: world.disk.durable == made.at)
        assert world.replica.view.problem is None or "has ended" in world.replica.view.problem


async def test_a_node_that_was_removed(tmp_path: Path) -> None:
    """It says so, goes on serving and trying, and is back once it is a member again."""

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await forever()

    _, at, _ = chain()
    async with following(tmp_path, at, script, start=False) as world:
        await world.port.remove("fra-1")
        world.replica.follow.start()
        await world.replica.problem("not a node of this cluster")
        await world.port.member("fra-1")
        await eventually(lambda: world.leader.hellos)


async def test_the_first_choice_is_gone(tmp_path: Path) -> None:
    """After some attempts another node is followed, and later the first is tried again."""

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await beating(talk, at)

    _, at, _ = chain()
    async with following(tmp_path, at, script, start=False) as world:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        world.replica.dialled.insert(0, Candidate(f"127.0.0.1:{port}"))
        # It looks at the clock six times in `dead_s`.
        world.replica.retime(dataclasses.replace(QUICK, dead_s=3.0, home_s=0.2))
        world.replica.follow.start()
        await eventually(lambda: len(world.leader.hellos) >= 2)


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """That is what is said, also while the leader is heard, and not how the next node answered,
    which is not asked: to follow another one would not help. It ends when something is stored."""

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.beat(at)
        await talk.files(*files)
        await beating(talk, at)

    def refuse() -> None:
        raise OwnDisk("its disk is full")

    _, at, files = chain()
    async with following(tmp_path, at, script, start=False) as world:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        replica = world.replica
        replica.dialled.append(Candidate(f"127.0.0.1:{port}"))
        replica.disk.refuse = refuse
        replica.follow.start()
        await replica.problem("this node cannot store what it has replicated: its disk is full")
        said: set[str | None] = set()

        def several_times() -> bool:
            said.add(replica.view.problem)
            return len(world.leader.hellos) >= 6

        await eventually(several_times)
        assert said == {"this node cannot store what it has replicated: its disk is full"}
        replica.disk.refuse = lambda: None
        await eventually(lambda: replica.disk.batches)
        replica.follow.moved()
        assert replica.view.problem is None


async def test_who_follows_this_node_is_no_problem(tmp_path: Path) -> None:
    """That the leader is gone is; and both are asked again soon, in Petsem's words."""

    async def script(talk: Talk) -> None:
        raise conflict("the node cannot follow this one: this node follows it", reason="LOOP")

    async with following(tmp_path, None, script, start=False) as world:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            gone = Candidate(f"127.0.0.1:{closed.getsockname()[1]}", "ams-0")
        replica = world.replica
        replica.dialled.insert(0, gone)
        replica.follow.start()
        await replica.problem("ams-0: it cannot be reached at the moment")
        said: set[str | None] = set()

        def several_times() -> bool:
            said.add(replica.view.problem)
            return len(world.leader.talks) >= 3

        await eventually(several_times)
        assert said == {"ams-0: it cannot be reached at the moment"}


async def test_where_all_follow_this_node(tmp_path: Path) -> None:
    """It says so."""

    async def script(talk: Talk) -> None:
        raise conflict("the node cannot follow this one: this node follows it", reason="LOOP")

    async with following(tmp_path, None, script) as world:
        await world.replica.problem(f"{world.leader.node_id} follows this node itself")


async def test_a_useless_node_delays_no_other(tmp_path: Path) -> None:
    """The long pauses are for where trying again at once is of no use with anybody."""

    async def script(talk: Talk) -> None:
        raise invalid("nobody says so")

    async with following(tmp_path, None, script, start=False) as world:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            gone = Candidate(f"127.0.0.1:{closed.getsockname()[1]}", "ams-0")
        world.replica.dialled.insert(0, gone)
        world.replica.retime(dataclasses.replace(QUICK, refused_s=(2 * PATIENCE_S, 2 * PATIENCE_S)))
        world.replica.follow.start()
        await eventually(lambda: len(world.leader.talks) >= 3)


async def test_another_way_to_the_leader(tmp_path: Path) -> None:
    """Is known as soon as it is told, and passed on; over this node itself nothing is followed."""
    _, at, _ = chain()
    ways: list[tuple[str, ...]] = []

    async def script(talk: Talk) -> None:
        own = talk.leader.node_id
        await talk.welcome(path=[own, "sin-1"])
        await talk.until(lambda: talk.reports)
        await talk.beat(at, path=[own, "lax-1", "sin-1"])
        await eventually(lambda: ways)
        await talk.beat(at, path=[own, "fra-1", "sin-1"])
        await forever()

    async with following(tmp_path, at, script, start=False) as world:
        view, node_id = world.replica.view, world.leader.node_id

        def changed() -> None:
            if len(view.path) == 4:
                ways.append(view.path)

        view.way_changed = changed
        world.replica.follow.start()
        await world.replica.problem("follows this node itself")
        assert ways[0] == ("fra-1", node_id, "lax-1", "sin-1")


async def test_another_leader(tmp_path: Path) -> None:
    """Hello is said again at once, and it is heard and bound whose the epoch is."""
    _, at, _ = chain()

    async def before(talk: Talk) -> None:
        await talk.welcome(epochs=[pb.Epoch(epoch=1, first_txid=1, leader="sin-1")])
        await talk.beat(at, leader="sin-1")
        await talk.beat(at, leader="lax-1")
        await forever()

    async def after(talk: Talk) -> None:
        await talk.welcome(epochs=[pb.Epoch(epoch=2, first_txid=2, leader="lax-1")])
        while True:
            await talk.beat(at, leader="lax-1")
            await asyncio.sleep(0.05)

    async with following(tmp_path, at, before, after) as world:
        await eventually(lambda: world.replica.bound[-1:] == [(2, "lax-1")])
        assert world.replica.view.leader is not None
        assert world.replica.view.leader.node == "lax-1"
        assert (len(world.leader.talks), world.replica.view.problem) == (2, None)


async def test_a_node_that_cannot_say_how_it_is(tmp_path: Path) -> None:
    """Acknowledges all the same."""
    made, at, files = chain()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.until(lambda: talk.reports)
        await talk.files(*files)
        await talk.until_durable(4)
        said.append(talk.reports[-1])
        await forever()

    def paused() -> pb.NodeReport:
        raise unavailable("the node is changing its role")

    said: list[pb.NodeReport] = []
    async with following(tmp_path, at, script, start=False) as world:
        world.replica.parts = dataclasses.replace(world.replica.parts, describe=paused)
        world.replica.retime(QUICK)
        world.replica.follow.start()
        await eventually(lambda: said)
        assert (world.disk.durable, said[0].node, said[0].ready) == (made.at, "fra-1", False)


async def test_nobody_to_follow(tmp_path: Path) -> None:
    """It says so, and looks again."""

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await forever()

    async with following(tmp_path, None, script, start=False) as world:
        dialled = world.replica.dialled[:]
        world.replica.dialled.clear()
        world.replica.follow.start()
        await world.replica.problem("no other node of the cluster is known")
        world.replica.dialled.extend(dialled)
        await eventually(lambda: world.replica.upstream.connected)


async def test_stopping_waits_for_the_disk(tmp_path: Path) -> None:
    """What has arrived is stored, and no call is cut short."""
    made, at, files = chain()
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files(*files)
        await talk.beat(made.at)
        await forever()

    async def slow() -> None:
        arrived.set()
        await gate.wait()

    async with following(tmp_path, at, script, start=False) as world:
        world.disk.slow = slow
        world.replica.follow.start()
        await arrived.wait()
        await eventually(lambda: world.replica.view.leader_position == made.at)
        stopping = asyncio.create_task(world.replica.follow.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        gate.set()
        await stopping
        assert world.disk.durable == made.at
