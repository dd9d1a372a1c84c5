"""Streams that lie, and disks that refuse: a replica takes what was good, and is not ended."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.block
import pytest

from petsem import limits
from petsem.model import Position
from petsem.replication.ltx import Header
from petsem.server.peer import server
from petsem.server.replica import follow
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.errors import BadFrame, NotContiguous
from petsem.wire import petsem_pb2 as pb
from tests.support.fake_leader import QUICK, Script, Talk, World, eventually, following
from tests.support.ltx_files import Chain
from tests.support.patience import PATIENCE_S

Lie = Callable[[Talk, Chain, bytes], Any]
"""What a lying leader says after one good file, which is given."""


def shown(at: Position) -> pb.Position:
    return pb.Position(epoch=at.epoch, txid=at.txid, checksum=at.checksum)


async def repeats(talk: Talk, _: Chain, file: bytes) -> None:
    await talk.files((1, file))


async def skips(talk: Talk, made: Chain, _: bytes) -> None:
    made.next()
    await talk.files((1, made.next()))


async def goes_back(talk: Talk, _: Chain, __: bytes) -> None:
    other = Chain(seed=1)
    other.next()
    await talk.files((1, other.next()))


async def lies_in_its_checksum(talk: Talk, made: Chain, _: bytes) -> None:
    file = made.next()
    header = Header.parse(file[:100])
    forged = dataclasses.replace(header, pre_apply_checksum=header.pre_apply_checksum ^ 1)
    await talk.files((1, forged.encode() + file[100:]))


async def returns_to_an_epoch(talk: Talk, made: Chain, _: bytes) -> None:
    await talk.files((0, made.next()))


async def is_huge(talk: Talk, _: Chain, __: bytes) -> None:
    await talk.say(pages=pb.SnapshotPages(data=bytes(limits.PEER_REPLY_MAX_BYTES + 1)))


async def announces_a_huge_snapshot(talk: Talk, made: Chain, _: bytes) -> None:
    begin = pb.SnapshotBegin(at=shown(made.at), pages=2**32 - 1, first_page=1)
    await talk.say(snapshot=begin)


async def announces_a_huge_run(talk: Talk, made: Chain, _: bytes) -> None:
    await talk.say(snapshot=pb.SnapshotBegin(at=shown(made.at), pages=9, first_page=1))
    bomb = b"\xff\xff\xff\x7f" + lz4.block.compress(bytes(100_000), store_size=False)
    await talk.say(pages=pb.SnapshotPages(first_page=1, count=1, data=bomb))


async def damages_a_run(talk: Talk, made: Chain, _: bytes) -> None:
    await talk.say(snapshot=pb.SnapshotBegin(at=shown(made.at), pages=9, first_page=1))
    block = (4096).to_bytes(4, "little") + b"\xff" * 9
    await talk.say(pages=pb.SnapshotPages(first_page=1, count=1, data=block))


async def says_nothing_known(talk: Talk, _: Chain, __: bytes) -> None:
    await talk.say_bytes(b"")


async def says_no_protobuf(talk: Talk, _: Chain, __: bytes) -> None:
    await talk.say_bytes(b"\xff\xff\xff\xff")


async def welcomes_again(talk: Talk, _: Chain, __: bytes) -> None:
    await talk.welcome()


LIES: list[tuple[Lie, str]] = [
    (repeats, "repeats transactions"),
    (skips, "skips transactions"),
    (goes_back, "repeats transactions"),
    (lies_in_its_checksum, "do not continue each other"),
    (returns_to_an_epoch, "goes back to an earlier epoch"),
    # Without the limit it would be "not due".
    (is_huge, "more than there may be|the stream broke off"),
    (announces_a_huge_snapshot, "more than there may be"),
    (announces_a_huge_run, "more than there may be"),
    (damages_a_run, "cannot be unpacked"),
    (says_nothing_known, "no message of the stream"),
    (says_no_protobuf, "no message of the stream"),
    (welcomes_again, "not due"),
]


@pytest.mark.parametrize(("lie", "problem"), LIES, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_stream_that_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Lie, problem: str
) -> None:
    """What came before the lie is stored and nothing after it; then an honest one is followed."""
    monkeypatch.setattr(follow, "SETTLED_S", 0.2)
    # The honest side would not even send what is too large.
    boundless = [(k, v) for k, v in server.OPTIONS if "max_send_message" not in str(k)]
    monkeypatch.setattr(server, "OPTIONS", boundless)
    made = Chain()
    made.next()
    at, good = made.at, made.next()
    stored = made.at
    last = Chain(made.at)
    rest = last.next()
    after_lie: list[Position | None] = []

    async def liar(talk: Talk) -> None:
        await talk.welcome()
        await talk.files((1, good))
        await lie(talk, made, good)
        await asyncio.Event().wait()

    async def honest(talk: Talk) -> None:
        await talk.welcome()
        await gate.wait()
        await talk.files((1, rest))
        while True:
            await talk.beat(last.at)
            await asyncio.sleep(0.05)

    gate = asyncio.Event()
    async with following(tmp_path, at, liar, honest, start=False) as world:
        if lie is is_huge:
            # A write that is the first to meet the end hides why.
            world.replica.retime(dataclasses.replace(QUICK, report_s=2 * PATIENCE_S))
        world.replica.follow.start()
        await world.replica.problem(*problem.split("|"))
        await eventually(lambda: len(world.leader.hellos) >= 2)
        after_lie.append(world.disk.durable)
        assert world.leader.hellos[1].position == shown(stored)
        gate.set()
        await world.disk.until(lambda: world.disk.durable == last.at)
        assert after_lie == [stored]
        assert [each for batch in world.disk.batches for each in batch] == [(1, good), (1, rest)]
        await eventually(lambda: world.replica.view.problem is None)


@pytest.mark.parametrize(
    ("welcome", "problem"),
    [
        ({"cluster": b"x" * 16}, "of another cluster"),
        ({"protocol": 9}, "another version of the stream"),
        ({"path": ["ams-1", "fra-1"]}, "follows this node itself"),
        ({"path": ["a", "b", "c", "d"]}, "too far from the leader"),
        ({"node": "evil", "path": ["evil"]}, "makes no sense"),
        ({"epoch_seen": 0}, "a leader that is none any more"),
    ],
)
async def test_whom_it_does_not_follow(
    tmp_path: Path, welcome: dict[str, Any], problem: str
) -> None:
    """Nothing is stored, nobody is bound to, and no request is passed on there."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()

    async def script(talk: Talk) -> None:
        if "path" in welcome and welcome["path"][0] != "evil":
            welcome.setdefault("node", welcome["path"][0])
        await talk.welcome(**welcome)
        await talk.files((1, file))
        await asyncio.Event().wait()

    async with following(tmp_path, at, script, start=False) as world:
        world.replica.view.epoch_seen = 1
        world.replica.follow.start()
        await world.replica.problem(problem)
        await eventually(lambda: len(world.leader.hellos) >= 3)
        assert (world.disk.durable, world.disk.batches, world.replica.bound) == (at, [], [])
        assert (world.replica.upstream.connected, world.replica.view.path) == (False, ())


async def test_files_that_do_not_fit(tmp_path: Path) -> None:
    """They are fetched again; after the third time a snapshot is asked for, which cures it."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        if talk.hello.HasField("position"):
            await talk.files((1, file))
        else:
            world.disk.refuse = lambda: None
            block = lz4.block.compress(bytes(4096), store_size=True)
            await talk.say(snapshot=pb.SnapshotBegin(at=shown(made.at), pages=1, first_page=1))
            await talk.say(pages=pb.SnapshotPages(first_page=1, count=1, data=block))
            await talk.say(snapshot_end=pb.SnapshotEnd(at=shown(made.at), epoch=1))
        await asyncio.Event().wait()

    def refuse() -> None:
        raise BadFrame("rolling-checksum")

    async with following(tmp_path, at, script, start=False) as world:
        world.disk.refuse = refuse
        world.replica.follow.start()
        await world.disk.until(lambda: world.disk.durable == made.at)
        assert [each.HasField("position") for each in world.leader.hellos] == [True] * 3 + [False]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (NotContiguous(), "does not follow what this node has"),
        (RuntimeError("hunter2"), "internal error; see this node's log"),
        (OSError(28, "No space left on device"), "internal error; see this node's log"),
    ],
)
async def test_a_disk_that_refuses(tmp_path: Path, error: Exception, problem: str) -> None:
    """Whatever it raises, it is tried again."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files((1, file))
        await asyncio.Event().wait()

    def refuse() -> None:
        raise error

    async with following(tmp_path, at, script, start=False) as world:
        world.disk.refuse = refuse
        world.replica.follow.start()
        await world.replica.problem(problem)
        world.disk.refuse = lambda: None
        await world.disk.until(lambda: world.disk.durable == made.at)


async def test_a_flood(tmp_path: Path) -> None:
    """While the disk stands still, no more than the inbox holds is taken from a sender who does
    not mind the window; the rest stays with him."""
    made = Chain()
    made.next()
    at = made.at
    sent = 0

    async def script(talk: Talk) -> None:
        nonlocal sent
        await talk.welcome()
        for _ in range(60):
            file = made.next(size=1_000_000)
            await talk.files((1, file))
            sent += len(file)
        while True:
            await talk.beat(made.at)
            await asyncio.sleep(0.05)

    gate, dead_s = asyncio.Event(), 1.5
    async with following(tmp_path, at, script, start=False) as world:
        world.replica.retime(dataclasses.replace(QUICK, dead_s=dead_s))
        world.disk.slow = gate.wait
        world.replica.follow.start()
        await eventually(lambda: sent > limits.FOLLOW_INBOX_MAX_BYTES)
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.2)
        await asyncio.sleep(2 * dead_s)
        # What is in the inbox, on its way to the disk, and in the transport.
        assert sent < limits.FOLLOW_INBOX_MAX_BYTES + limits.FOLLOW_BATCH_MAX_BYTES + 12_000_000
        gate.set()
        await world.disk.until(lambda: world.disk.durable and world.disk.durable.txid == 61)
        # A sender that was not read is not taken for dead.
        assert len(world.leader.hellos) == 1


async def test_reports_end_no_stream(tmp_path: Path) -> None:
    """Whatever is told of other nodes, and of how many: it is dropped, and the data goes on."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()
    told = [
        pb.NodeReport(),
        pb.NodeReport(node="N 1", path=["N 1"]),
        pb.NodeReport(node="fra-1", path=["fra-1"]),
        pb.NodeReport(node="ams-8", path=["ams-8", "fra-1"]),
        pb.NodeReport(node="ams-8", path=["ams-8"], last_error="x" * 9_000),
        *[pb.NodeReport()] * limits.NODES_MAX,
        pb.NodeReport(node="ams-9", path=["ams-9"]),
    ]

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.until(lambda: talk.reports)
        await talk.beat(at, nodes=told)
        await talk.files((1, file))
        await talk.beat(made.at, nodes=told[-1:])
        await asyncio.Event().wait()

    async with following(tmp_path, at, script) as world:
        await world.disk.until(lambda: world.disk.durable == made.at)
        await eventually(lambda: world.replica.hearsay.of("ams-9"))
        assert list(world.replica.hearsay._heard) == ["ams-9"]
        assert (len(world.leader.talks), world.replica.view.problem) == (1, None)


async def test_an_honest_beginning_does_not_hide_a_liar(tmp_path: Path) -> None:
    """Its heartbeat does not clear the problem that its last lie was."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()
    problems = set()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        number = f"n{len(talk.leader.talks)}"
        while world.replica.hearsay.of(number) is None:
            await talk.beat(at, nodes=[pb.NodeReport(node=number, path=[number])])
            await asyncio.sleep(0.01)
        if number != "n1":
            problems.add(world.replica.view.problem)
        await talk.files((1, file), (1, file))
        await asyncio.Event().wait()

    liar: Script = script
    async with following(tmp_path, at, liar) as world:
        await world.replica.problem("repeats")
        await eventually(lambda: len(world.leader.talks) >= 4)
        assert None not in problems


# Who is no member


async def _refuses_to_follow(world: World) -> None:
    await world.replica.problem("it is no node of this cluster, or not any more; set [peer] upstr")
    assert (world.replica.view.problem or "").startswith(world.leader.node_id)
    assert world.disk.batches == world.replica.bound == []
    assert world.replica.view.leader is None
    assert not world.replica.upstream.connected


async def test_a_node_that_was_removed_is_not_followed(tmp_path: Path) -> None:
    """Its certificate is good and it welcomes: nothing is stored, bound, shown or asked."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()

    async def feeds(talk: Talk) -> None:
        await talk.welcome()
        await talk.files((1, file))
        await asyncio.Event().wait()

    async with following(tmp_path, at, feeds, start=False) as world:
        world.replica.roster.members = {"fra-1", "nrt-1"}
        world.replica.follow.start()
        await _refuses_to_follow(world)


@pytest.mark.parametrize("lies", [False, True])
async def test_a_thief_at_the_address_of_the_configuration(tmp_path: Path, lies: bool) -> None:
    """A removed node answers where `[peer] upstream` leads, under its own name or a member's: it
    gets a question for its name, and no more."""
    made = Chain()
    made.next()

    async def thief(talk: Talk) -> None:
        await talk.welcome(**({"node": "nrt-1", "path": ["nrt-1"]} if lies else {}))
        await talk.files((1, made.next()))
        await asyncio.Event().wait()

    async with following(tmp_path, made.at, thief, start=False) as world:
        world.replica.roster.members = {"fra-1", "nrt-1"}
        world.replica.dialled = [Candidate(world.port.address)]
        world.replica.follow.start()
        await world.replica.problem(f"[peer] upstream in petsem.toml is {world.port.address}")
        said = world.replica.view.ignored_upstream or ""
        assert (world.leader.node_id in said) is not lies
        assert "set it anew" in said
        assert all(hello.asks for hello in world.leader.hellos)
        assert world.disk.batches == world.replica.bound == []
        assert not world.replica.upstream.connected


async def test_an_address_that_proves_to_be_a_member_s(tmp_path: Path) -> None:
    """It need not be the one by which the cluster knows the node."""
    made = Chain()
    made.next()
    at, file = made.at, made.next()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        if not talk.hello.asks:
            await talk.files((1, file))
            await asyncio.Event().wait()

    async with following(tmp_path, at, script, start=False) as world:
        world.replica.roster.members = {"fra-1", world.leader.node_id}
        world.replica.dialled = [Candidate(world.port.address)]
        world.replica.follow.start()
        await world.disk.until(lambda: world.disk.durable == made.at)
        assert world.replica.view.ignored_upstream is None
        assert world.replica.upstream.node_id == world.leader.node_id


async def test_a_node_that_is_removed_while_it_is_followed(tmp_path: Path) -> None:
    """It is left at once, and what it sent meanwhile is not stored."""
    made = Chain()
    made.next()
    at, first, second = made.at, made.next(), made.next()
    busy, gate = asyncio.Event(), asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.files((1, first))
        await busy.wait()
        await talk.files((1, second))
        await talk.beat(made.at)
        await asyncio.Event().wait()

    async def slow() -> None:
        busy.set()
        await gate.wait()

    async with following(tmp_path, at, script, start=False) as world:
        world.replica.roster.members = {"fra-1", world.leader.node_id}
        world.disk.slow = slow
        world.replica.follow.start()
        await eventually(lambda: world.replica.view.leader_position == made.at)
        world.replica.roster.members.discard(world.leader.node_id)
        world.replica.follow.members_changed()
        gate.set()
        await world.replica.problem("it is no node of this cluster")
        assert [each for batch in world.disk.batches for each in batch] == [(1, first)]
        assert not world.replica.upstream.connected
