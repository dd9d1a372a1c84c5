"""What this node knows of its cluster at the moment: told by the stream, read by everybody else.

Guarantees: what was never heard is None, never 0; ages are measured by the clock that is not set
back. It decides nothing, and it holds no data of tenants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petsem import limits
from petsem.clock import Clock
from petsem.model import Position, Role


@dataclass(frozen=True, slots=True)
class LeaderAddresses:
    """Where the leader answers, as it says itself."""

    node: str
    http: str
    grpc: str
    peer: str


@dataclass(slots=True)
class ClusterView:
    """Role and leader, and the way to it.

    `synced`: this node has data of its own that it may answer from. `path`: node ids from this node
    to the leader, itself first; empty while nobody is followed. `epoch_known`: the newest epoch of
    this node's own disk, `epoch_seen` the newest that anybody has told of.
    """

    clock: Clock
    role: Role = Role.UNKNOWN
    synced: bool = False
    epoch_known: int = 0
    epoch_seen: int = 0
    leader: LeaderAddresses | None = None
    path: tuple[str, ...] = ()
    applied: Position | None = None
    leader_position: Position | None = None
    replicated: Position | None = None
    lacking: str = "this node has not received its data yet"
    """One sentence on why this node has no data that it may answer from, if it is not `synced`."""
    problem: str | None = None
    """One sentence on what keeps this node from following, if anything does."""
    waits: str | None = None
    """One sentence on what a change of its role waits for, if it waits."""
    unreadable: str | None = None
    """One sentence on why this program must not answer from the data, if it must not."""
    removed: str | None = None
    """One sentence on that this node is a member no more, if its own data say so."""
    ignored_upstream: str | None = None
    """One sentence on why `[peer] upstream` does not count, if it is set and does not."""
    way_changed: Callable[[], None] | None = None
    """Told when `path` is another one: those who follow this node are to know."""
    logged: Callable[[int], Position | None] | None = None
    """What this node's log has at a TXID, with the checksum, as long as it has it."""
    _leader_heard_s: float | None = None
    _caught_up_s: float | None = None

    def goes(self, *path: str) -> None:
        """This is the way to the leader from now on."""
        if path != self.path:
            self.path = path
            if self.way_changed is not None:
                self.way_changed()

    def leader_heard(self, position: Position, *, ago_ms: int, epoch_seen: int) -> None:
        """Word of the leader, `ago_ms` old when it came: where it was then."""
        heard_s = self.clock.boot_s() - ago_ms / 1000
        if self._leader_heard_s is None or heard_s > self._leader_heard_s:
            self._leader_heard_s = heard_s
        self.leader_position = position
        self.heard_of(epoch_seen)
        self._look(heard_s)

    def heard_of(self, epoch: int) -> None:
        """Another node has told of this epoch. No more of it is believed than every other node
        would believe, or a promotion that goes beyond it would be refused by them."""
        if self.epoch_known:
            epoch = min(epoch, self.epoch_known + limits.EPOCHS_AHEAD_MAX)
        self.epoch_seen = max(self.epoch_seen, epoch)

    def knows(self, epoch: int) -> None:
        """This epoch is on this node's own disk."""
        self.epoch_known = max(self.epoch_known, epoch)
        self.epoch_seen = max(self.epoch_seen, epoch)

    def has_applied(self, position: Position) -> None:
        """This node's own database is at `position` now."""
        self.applied = position
        self.synced = True
        self._look(self._leader_heard_s)

    def remember_leader(self, ago_ms: int) -> None:
        """The leader was heard so long ago in an earlier run of this node, which counts too."""
        if self._leader_heard_s is None:
            self._leader_heard_s = self.clock.boot_s() - ago_ms / 1000
            self._caught_up_s = self._leader_heard_s

    def leader_seen_ms_ago(self) -> int | None:
        """How long ago the leader was last heard; 0 on the leader."""
        if self.role is Role.LEADER:
            return 0
        return _ms_since(self.clock, self._leader_heard_s)

    def lag_ms(self) -> int | None:
        """How old this node's data may be: since when it is not known to have had all of the
        leader's. 0 on the leader, None for a node that never had everything."""
        if self.role is Role.LEADER:
            return 0
        return _ms_since(self.clock, self._caught_up_s) if self.synced else None

    def lag_transactions(self) -> int | None:
        """How many transactions the leader was ahead when it was last heard."""
        if self.role is Role.LEADER:
            return 0
        if not self.synced or self.applied is None or self.leader_position is None:
            return None
        return max(0, self.leader_position.txid - self.applied.txid)

    def _look(self, heard_s: float | None) -> None:
        applied, leader = self.applied, self.leader_position
        if heard_s is None or applied is None or leader is None:
            return
        if applied.epoch == leader.epoch and applied.txid >= leader.txid:
            self._caught_up_s = max(heard_s, self._caught_up_s or heard_s)


def _ms_since(clock: Clock, then_s: float | None) -> int | None:
    return None if then_s is None else max(0, round((clock.boot_s() - then_s) * 1000))
