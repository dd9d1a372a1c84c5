"""The feeding side of the stream: what one follower is sent next, and how much of it at once.

Guarantees: transactions are only sent to a follower that has, to the checksum, what they begin
with. Where that is not known to be so, it gets a snapshot; where it has something else, a Rollback.
No more than a window of bytes is on its way, or one file. What a follower acknowledges is within
what it was sent, or `Unfit`.

    AHEAD ──▶ FILES ◀──▶ SNAPSHOT        FORKED

A session begins where the hello puts it. AHEAD has more of our own branch than we have,
which a node between leader and follower may see: nothing is sent until we know better. FORKED has
another branch: Rollback is the last word, and the follower's next hello says what it keeps.

It reads no log and no database, and knows no sockets or clocks.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from petsem import limits
from petsem.model import Position
from petsem.replication.session.branch import Epoch, fork_of, is_likely

PROTOCOL: Final = 1


class Rule(enum.StrEnum):
    """What a follower must obey; the text is for people."""

    PROTOCOL = "it speaks another version of the stream"
    CLUSTER = "it is of another cluster"
    NAME = "its certificate names another node"
    LOOP = "this node follows it"
    TOO_FAR = "this node is too far from the leader to be followed"
    DEPOSED = "it has seen a newer epoch than this leader's"
    EPOCH = "it has heard of an epoch that no cluster comes to"
    SIZE = "it says more than it may"
    ACK = "it acknowledges what it was not sent"


class Unfit(ValueError):  # noqa: N818 (the follower is)
    """A follower that cannot be served, or not as it behaves; `rule` says why."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.value)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Hello:
    """What a follower says of itself first. `resume`: a snapshot's position and next page."""

    protocol: int
    cluster_id: bytes
    node_id: str
    epoch_seen: int
    position: Position | None
    resume: tuple[Position, int] | None
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, slots=True)
class Own:
    """This node. `path`: node ids from it to the leader, itself first. `epoch_known`: the newest
    epoch on its own disk, `epoch_seen` the newest that it has heard of."""

    node_id: str
    cluster_id: bytes
    epoch_seen: int
    path: tuple[str, ...]
    is_leader: bool
    epoch_known: int = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """What there is to be sent: from `base` to `end`, of these epochs."""

    base: Position
    end: Position
    epochs: Sequence[Epoch]
    position_of: Callable[[int], Position | None]


class State(enum.Enum):
    """What the follower is due."""

    FILES = enum.auto()
    SNAPSHOT = enum.auto()
    AHEAD = enum.auto()
    FORKED = enum.auto()


def admit(hello: Hello, own: Own, caller: str) -> None:
    """`Unfit` if the node `caller`, as its certificate says, may not follow this one now."""
    _require(hello.protocol == PROTOCOL, Rule.PROTOCOL)
    _require(hello.cluster_id == own.cluster_id, Rule.CLUSTER)
    _require(hello.node_id == caller, Rule.NAME)
    _require(len(hello.epochs) <= limits.STREAM_EPOCHS_MAX, Rule.SIZE)
    _require(caller != own.node_id, Rule.LOOP)
    admit_over(own.path, caller)
    _require(is_likely(hello.epoch_seen, own.epoch_known), Rule.EPOCH)
    # Only a leader is deposed; who follows may well hear of a new epoch later than its follower.
    _require(not own.is_leader or hello.epoch_seen <= own.epoch_seen, Rule.DEPOSED)


def admit_over(path: Sequence[str], caller: str) -> None:
    """`Unfit` if `caller` may not follow a node whose way to the leader is `path` now."""
    _require(caller not in path, Rule.LOOP)
    _require(len(path) <= limits.STREAM_HOPS_MAX, Rule.TOO_FAR)


class FeedSession:
    """One follower. `at` is the end of what it was sent; None before its first data. `resume` is
    the interrupted snapshot that it could go on with, `fork` where a FORKED one left our branch."""

    def __init__(self, hello: Hello, branch: Branch) -> None:
        self._epochs = hello.epochs
        self.at = hello.position
        self.resume = hello.resume
        self.fork: Position | None = None
        self._in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0
        self.state = self._place(branch)

    def look_again(self, branch: Branch) -> None:
        """Whether a follower that was ahead still is."""
        if self.state is State.AHEAD:
            self.state = self._place(branch)

    def room_for(self, size: int) -> bool:
        """Whether a file of `size` bytes may be sent now."""
        return not self._in_flight or self.in_flight_bytes + size <= limits.STREAM_WINDOW_BYTES

    def sent(self, position: Position, size: int) -> None:
        """A file that ends at `position` was sent."""
        assert self.state is State.FILES
        self.at = position
        self._in_flight.append((position.txid, size))
        self.in_flight_bytes += size

    def needs_snapshot(self) -> None:
        """Files do not lead on from where the follower is."""
        assert self.state is State.FILES
        self._begin_anew(State.SNAPSHOT)

    def snapshot_sent(self, position: Position) -> None:
        """The follower has everything up to `position` once it has taken it in."""
        assert self.state is State.SNAPSHOT
        self.at = position
        self._begin_anew(State.FILES)

    def acknowledged(self, received: int, durable: int, applied: int) -> bool:
        """Take an ack; whether it counts. It says nothing while a snapshot is on its way, since
        then it is about data that is on its way out. `Unfit` if it claims what was never sent."""
        _require(applied <= durable <= received, Rule.ACK)
        if self.state is State.SNAPSHOT:
            return False
        _require(received <= (0 if self.at is None else self.at.txid), Rule.ACK)
        while self._in_flight and self._in_flight[0][0] <= received:
            self.in_flight_bytes -= self._in_flight.popleft()[1]
        return True

    def _begin_anew(self, state: State) -> None:
        self.state = state
        self.resume = None
        self._in_flight.clear()
        self.in_flight_bytes = 0

    def _place(self, branch: Branch) -> State:
        at = self.at
        if at is None:
            return State.SNAPSHOT
        if branch.base.txid <= at.txid <= branch.end.txid and branch.position_of(at.txid) == at:
            return State.FILES
        fork = fork_of(branch.epochs, branch.end, self._epochs_to(at, branch), at)
        if fork.txid < min(at.txid, branch.end.txid):
            self.fork = branch.position_of(fork.txid) or fork
            return State.FORKED
        if at.txid > branch.end.txid:
            # All of ours is in theirs, by the epochs. Were the leader itself behind, it would have
            # begun an epoch since.
            return State.AHEAD
        # Older than the log, inside a file of it, or the same position with other content.
        return State.SNAPSHOT

    def _epochs_to(self, at: Position, branch: Branch) -> Sequence[Epoch]:
        """The follower's epochs. They come from its database, which may be behind its log; an
        epoch that it has in the log alone is taken to be ours of that number."""
        theirs = self._epochs
        if theirs and theirs[-1][0] >= at.epoch:
            return theirs
        known = theirs[-1][0] if theirs else 0
        return (*theirs, *(each for each in branch.epochs if known < each[0] <= at.epoch))


def _require(holds: bool, rule: Rule) -> None:
    if not holds:
        raise Unfit(rule)
