"""Who has what: durable positions of followers and of the nodes behind them."""

from __future__ import annotations

import asyncio

import pytest

from petsem import limits
from petsem.clock import ManualClock
from petsem.errors import PetsemError
from petsem.model import Position
from petsem.server.replica.followers import Followers, Following
from petsem.wire import petsem_pb2 as pb

EPOCHS = ((1, 1, "a"), (3, 11, "a"))


def _followers(clock: ManualClock | None = None) -> Followers:
    return Followers("n1", clock or ManualClock(), lambda: EPOCHS)


def _joined(followers: Followers, name: str, durable: Position | None = None) -> Following:
    following = Following(name, "fra")
    followers.joined(following)
    if durable is not None:
        followers.acknowledged(following, durable, durable.txid)
    return following


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


@pytest.mark.parametrize(
    "report",
    [
        pb.NodeReport(node="n1", path=["n1", "n2"]),
        pb.NodeReport(node="N 3", path=["N 3", "n2"]),
        pb.NodeReport(node="n3"),
        pb.NodeReport(node="n3", path=["n3", "n4"]),
        pb.NodeReport(node="n3", path=["n2", "n3"]),
        pb.NodeReport(node="n3", path=["n3", "n4", "n5", "n6", "n2"]),
        pb.NodeReport(node="n3", path=["n3", "n2"], last_error="x" * limits.NODE_REPORT_MAX_BYTES),
    ],
)
def test_reports_that_cannot_be(report: pb.NodeReport) -> None:
    """Of this node itself, of no node, by another way, or too large."""
    followers = _followers()
    following = _joined(followers, "n2")
    with pytest.raises(PetsemError):
        followers.reported(following, report)
    assert followers.reports() == {}


def test_reports_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are the followers that are remembered; those that are here stay."""
    monkeypatch.setattr(limits, "NODES_MAX", 2)
    followers = _followers()
    for name in ("n2", "n3", "n4"):
        followers.left(_joined(followers, name, Position(3, 12)))
    following = _joined(followers, "n5")
    for name in ("n5", "n6"):
        followers.reported(following, pb.NodeReport(node=name, path=dict.fromkeys([name, "n5"])))
    followers.reported(following, pb.NodeReport(node="n6", region="x", path=["n6", "n5"]))
    with pytest.raises(PetsemError):
        followers.reported(following, pb.NodeReport(node="n7", path=["n7", "n5"]))
    assert {node: each.region for node, each in followers.reports().items()} == {
        "n5": "",
        "n6": "x",
    }
    assert followers.connected == ["n5"]
