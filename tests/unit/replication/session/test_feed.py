"""What a follower is due: where it begins, what may be on its way, what it may acknowledge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from petsem import limits
from petsem.model import Position
from petsem.replication.session.branch import Epoch
from petsem.replication.session.feed import (
    Branch,
    FeedSession,
    Hello,
    Own,
    Rule,
    State,
    Unfit,
    admit,
)

EPOCHS: tuple[Epoch, ...] = ((1, 1, "a"), (2, 11, "b"))
HELLO = Hello(1, b"cluster", "n2", 2, Position(2, 15, 150), None, EPOCHS)
OWN = Own("n1", b"cluster", 2, ("n1",), is_leader=True)
INSIDE = 13
"""A transaction that is no position of the log: inside one of its files."""


def _position_of(txid: int) -> Position | None:
    if not 5 <= txid <= 20 or txid == INSIDE:
        return None
    return Position(1 if txid <= 10 else 2, txid, 10 * txid)


BRANCH = Branch(Position(1, 5, 50), Position(2, 20, 200), EPOCHS, _position_of)


def _session(position: Position | None, epochs: tuple[Epoch, ...] = EPOCHS) -> FeedSession:
    return FeedSession(replace(HELLO, position=position, epochs=epochs), BRANCH)


def _state(session: FeedSession) -> State:
    return session.state


@pytest.mark.parametrize(
    ("position", "epochs", "state"),
    [
        (Position(2, 20, 200), EPOCHS, State.FILES),
        (Position(1, 5, 50), EPOCHS, State.FILES),
        (Position(1, 10, 100), EPOCHS[:1], State.FILES),
        # Its database is behind its log and does not know of the epoch yet.
        (Position(2, 15, 150), EPOCHS[:1], State.FILES),
        (Position(2, 25, 250), EPOCHS[:1], State.AHEAD),
        (None, (), State.SNAPSHOT),
        (Position(1, 4, 40), EPOCHS[:1], State.SNAPSHOT),
        (Position(2, INSIDE, 130), EPOCHS, State.SNAPSHOT),
        (Position(2, 15, 151), EPOCHS, State.SNAPSHOT),
        (Position(2, 15), EPOCHS, State.SNAPSHOT),
        (Position(2, 21, 210), EPOCHS, State.AHEAD),
        (Position(3, 30, 300), (*EPOCHS, (3, 25, "c")), State.AHEAD),
        (Position(1, 11, 110), EPOCHS[:1], State.FORKED),
        (Position(1, 99, 990), EPOCHS[:1], State.FORKED),
        (Position(3, 30, 300), (*EPOCHS, (3, 18, "c")), State.FORKED),
    ],
)
def test_where_it_begins(
    position: Position | None, epochs: tuple[Epoch, ...], state: State
) -> None:
    """By its position and its epochs."""
    assert _session(position, epochs).state is state


@pytest.mark.parametrize(
    ("position", "epochs", "fork"),
    [
        (Position(1, 12, 120), EPOCHS[:1], Position(1, 10, 100)),
        (Position(3, 30, 300), (*EPOCHS, (3, 18, "c")), Position(2, 17, 170)),
        # Where the log does not reach, or has no position, only the epochs tell.
        (Position(3, 30, 300), (*EPOCHS, (3, 14, "c")), Position(2, 13)),
        (Position(1, 30, 300), ((1, 1, "x"),), Position(0, 0)),
    ],
)
def test_the_fork(position: Position, epochs: tuple[Epoch, ...], fork: Position) -> None:
    """Is where the follower's branch left ours, with its checksum if the log has it."""
    assert _session(position, epochs).fork == fork


def test_a_follower_that_was_ahead() -> None:
    """Goes on from where it is once this node is there, or has forked after all."""
    session = _session(Position(2, 25, 250))
    session.look_again(BRANCH)
    assert _state(session) is State.AHEAD
    more = replace(
        BRANCH, end=Position(2, 26, 260), position_of=lambda txid: Position(2, txid, 250)
    )
    session.look_again(more)
    assert _state(session) is State.FILES
    session = _session(Position(2, 25, 250))
    session.look_again(replace(BRANCH, end=Position(3, 21, 210), epochs=(*EPOCHS, (3, 21, "c"))))
    assert (session.state, session.fork) == (State.FORKED, Position(2, 20, 200))


def test_the_window() -> None:
    """Bytes count until they are received; a single file is never too large."""
    session = _session(Position(2, 15, 150))
    most = limits.STREAM_WINDOW_BYTES
    assert session.room_for(10 * most)
    session.sent(Position(2, 16, 160), most - 10)
    session.sent(Position(2, 18, 180), 10)
    assert (session.at, session.in_flight_bytes) == (Position(2, 18, 180), most)
    assert not session.room_for(1)
    assert session.acknowledged(17, 15, 15)
    assert session.in_flight_bytes == 10
    assert session.room_for(most - 10)
    assert not session.room_for(most - 9)
    assert session.acknowledged(18, 18, 15)
    assert session.in_flight_bytes == 0


@pytest.mark.parametrize("ack", [(19, 15, 15), (15, 16, 15), (15, 14, 15)])
def test_an_ack_that_cannot_be(ack: tuple[int, int, int]) -> None:
    """Of more than was sent, or out of order."""
    session = _session(Position(2, 15, 150))
    session.sent(Position(2, 18, 180), 1)
    with pytest.raises(Unfit) as refused:
        session.acknowledged(*ack)
    assert refused.value.rule is Rule.ACK


def test_a_snapshot_in_between() -> None:
    """Empties the window; acks count again when all of it was sent; it is resumed at most once."""
    session = FeedSession(replace(HELLO, position=None, resume=(Position(2, 11), 7)), BRANCH)
    assert (session.state, session.resume) == (State.SNAPSHOT, (Position(2, 11), 7))
    assert not session.acknowledged(99, 99, 99)
    session.snapshot_sent(Position(2, 18, 180))
    assert (session.state, session.at) == (State.FILES, Position(2, 18, 180))
    session.sent(Position(2, 19, 190), 5)
    assert session.acknowledged(18, 18, 18)
    session.needs_snapshot()
    assert (session.state, session.resume, session.in_flight_bytes) == (State.SNAPSHOT, None, 0)


@pytest.mark.parametrize(
    ("hello", "own", "caller", "rule"),
    [
        ({"protocol": 0}, {}, "n2", Rule.PROTOCOL),
        ({"cluster_id": b""}, {}, "n2", Rule.CLUSTER),
        ({}, {}, "n3", Rule.NAME),
        ({"epochs": EPOCHS * 513}, {}, "n2", Rule.SIZE),
        ({"node_id": "n1"}, {}, "n1", Rule.LOOP),
        ({}, {"path": ("n1", "n2", "n3")}, "n2", Rule.LOOP),
        ({}, {"path": ("n1", "n5", "n4", "n3")}, "n2", Rule.TOO_FAR),
        ({"epoch_seen": 3}, {}, "n2", Rule.DEPOSED),
    ],
)
def test_who_may_not_follow(
    hello: dict[str, object], own: dict[str, object], caller: str, rule: Rule
) -> None:
    """Each rule, alone."""
    with pytest.raises(Unfit) as refused:
        admit(replace(HELLO, **hello), replace(OWN, **own), caller)  # type: ignore[arg-type]
    assert refused.value.rule is rule


def test_who_may_follow() -> None:
    """Also of a node between, which hears of a new epoch later."""
    admit(HELLO, OWN, "n2")
    between = replace(OWN, path=("n1", "n5", "n4"), is_leader=False)
    admit(replace(HELLO, epoch_seen=3), between, "n2")
