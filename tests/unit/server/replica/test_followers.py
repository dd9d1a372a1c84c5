"""Who has what: durable positions of followers and of the nodes behind them."""

from __future__ import annotations

import asyncio

import pytest

from petsem import limits
from petsem.clock import ManualClock
from petsem.model import Position
from petsem.server.replica.followers import Follower, Followers
from petsem.server.replica.hearsay import FRESH_S, Hearsay
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf

EPOCHS = ((1, 1, "a"), (3, 11, "a"))


MEMBERS = {"n1", "n2", "n3", "n4", "n5"}


def _followers(clock: ManualClock | None = None) -> Followers:
    clock = clock or ManualClock()
    hearsay = Hearsay("n1", clock, members=lambda: MEMBERS, way=lambda: ("n1",))
    return Followers(clock, lambda: EPOCHS, hearsay)


def _joined(followers: Followers, name: str, durable: Position | None = None) -> Follower:
    follower = Follower(name, "fra")
    followers.joined(follower)
    if durable is not None:
        followers.acknowledged(follower, durable, durable.txid)
    return follower


@pytest.mark.parametrize(
    ("durable", "counts"),
    [
        (Position(1, 7), False),
        (Position(1, 8), True),
        # A later epoch of this branch.
        (Position(3, 12), True),
        # Of a branch that is not ours: epoch 1 ended before, 2 never was, 3 began later.
        (Position(2, 12), False),
        (Position(3, 10), False),
    ],
)
def test_what_counts_as_durable(durable: Position, counts: bool) -> None:
    """At or past the position, on its branch."""
    followers = _followers()
    _joined(followers, "n2", durable)
    assert followers.durable_at(Position(1, 8)) == (["n2"] if counts else [])


def test_an_older_epoch_does_not_have_a_newer_one() -> None:
    """However far it went on."""
    followers = _followers()
    _joined(followers, "n2", Position(1, 50))
    assert followers.durable_at(Position(3, 12)) == []


async def test_waiting_for_two() -> None:
    """Ends with the second, and names both; one that leaves does not count."""
    followers = _followers()
    first, second = _joined(followers, "n2"), _joined(followers, "n3")
    waiting = asyncio.create_task(followers.wait(Position(3, 12), 2, 10))
    await asyncio.sleep(0)
    followers.acknowledged(first, Position(3, 12), 12)
    followers.left(first)
    followers.acknowledged(second, Position(3, 13), 12)
    await asyncio.sleep(0)
    assert not waiting.done()
    _joined(followers, "n2", Position(3, 12))
    assert await waiting == ["n2", "n3"]


async def test_waiting_in_vain() -> None:
    """Ends in time with those that have it."""
    followers = _followers()
    _joined(followers, "n2", Position(3, 12))
    assert await followers.wait(Position(3, 12), 2, 0.001) == ["n2"]


def test_the_floor() -> None:
    """The lowest of those that follow or did lately."""
    clock = ManualClock()
    followers = _followers(clock)
    assert followers.floor_txid() is None
    one, two = _joined(followers, "n2", Position(3, 12)), _joined(followers, "n3", Position(3, 20))
    followers.left(one)
    assert followers.floor_txid() == 12
    clock.advance(limits.FOLLOWER_REMEMBERED_S + 1)
    assert followers.floor_txid() == 20
    followers.left(two)
    assert (followers.connected, followers.floor_txid()) == ([], 20)
    clock.advance(limits.FOLLOWER_REMEMBERED_S + 1)
    assert followers.floor_txid() is None


def test_a_stream_that_was_opened_again() -> None:
    """The end of the first one says nothing about the second."""
    followers = _followers()
    before = _joined(followers, "n2", Position(3, 12))
    _joined(followers, "n2", Position(3, 14))
    followers.left(before)
    assert followers.connected == ["n2"]
    assert followers.durable_at(Position(3, 13)) == ["n2"]


def _behind(node: str, at: Position, *path: str) -> pb.NodeReport:
    return pb.NodeReport(node=node, durable=position_to_protobuf(at), path=path or [node])


def test_who_follows_at_a_distance_counts() -> None:
    """If it is a member, as long as word of it comes, over a stream that is open."""
    clock = ManualClock()
    followers = _followers(clock)
    between = _joined(followers, "n2", Position(3, 12))
    followers.reported(between, _behind("n3", Position(3, 12)))
    followers.reported(between, _behind("nobody", Position(3, 12)))
    assert followers.durable_at(Position(3, 12)) == ["n2", "n3"]
    assert followers.behind() == {"n2", "n3"}
    clock.advance(FRESH_S + 1)
    assert followers.durable_at(Position(3, 12)) == followers.connected == ["n2"]
    followers.reported(between, _behind("n3", Position(3, 12)))
    followers.left(between)
    assert (followers.durable_at(Position(3, 12)), followers.behind()) == ([], set())


def test_nobody_speaks_for_whom_is_here() -> None:
    """What another node says of a direct follower's disk counts for nothing, nor does what the
    follower reports beside its acks."""
    followers = _followers()
    _joined(followers, "n3", Position(3, 12))
    liar = _joined(followers, "n2")
    followers.reported(liar, _behind("n3", Position(3, 90)))
    followers.reported(liar, _behind("n2", Position(3, 90)))
    assert followers.durable_at(Position(3, 13)) == []


async def test_a_report_ends_a_wait() -> None:
    """Of one that follows at a distance."""
    followers = _followers()
    between = _joined(followers, "n2", Position(3, 12))
    waiting = asyncio.create_task(followers.wait(Position(3, 12), 2, 10))
    await asyncio.sleep(0)
    followers.reported(between, _behind("n3", Position(3, 12)))
    assert await waiting == ["n2", "n3"]


def test_who_is_here_knows_better_than_who_left() -> None:
    """The node itself, or one that it follows now: what it said here before is no more."""
    clock = ManualClock()
    followers = _followers(clock)
    before = _joined(followers, "n3")
    followers.reported(before, pb.NodeReport(node="n3", version="1"))
    followers.left(before)
    between = _joined(followers, "n2")
    clock.advance(1)
    followers.reported(between, pb.NodeReport(node="n3", version="2", path=["n3"]))
    assert followers.live()["n3"].version == "2"
    now = _joined(followers, "n3")
    followers.reported(now, pb.NodeReport(node="n3", version="3"))
    clock.advance(1)
    followers.reported(between, pb.NodeReport(node="n3", version="2", path=["n3"]))
    assert followers.live()["n3"].version == "3"


def test_who_is_live() -> None:
    """Only who is here now, and who is behind him: what was heard of who left is not of now."""
    followers = _followers()
    follower = _joined(followers, "n2")
    followers.reported(follower, pb.NodeReport(node="n2"))
    followers.reported(follower, pb.NodeReport(node="n3", path=["n3"]))
    assert sorted(followers.live()) == ["n2", "n3"]
    followers.left(follower)
    assert followers.live() == {}


def test_followers_that_left_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are here stay."""
    monkeypatch.setattr(limits, "NODES_MAX", 2)
    followers = _followers()
    for name in ("n2", "n3", "n4"):
        followers.left(_joined(followers, name, Position(3, 12)))
    _joined(followers, "n5")
    assert followers.connected == ["n5"]
    assert len(followers._nodes) == 2
