"""What a node knows of its cluster, and how old that is."""

from __future__ import annotations

from petsem import limits
from petsem.clock import ManualClock
from petsem.model import Position, Role
from petsem.server.cluster_view import ClusterView


def replica() -> tuple[ManualClock, ClusterView]:
    clock = ManualClock()
    return clock, ClusterView(clock, role=Role.REPLICA)


def test_what_was_never_heard_is_unknown() -> None:
    """Not 0: a replica that never had anything has no lag that a number could tell."""
    _, view = replica()
    assert (view.lag_ms(), view.lag_transactions(), view.leader_seen_ms_ago()) == (None,) * 3
    view.leader_heard(Position(1, 9), ago_ms=0, epoch_seen=1)
    assert (view.lag_ms(), view.lag_transactions(), view.leader_seen_ms_ago()) == (None, None, 0)


def test_a_leader_lags_nothing() -> None:
    """Whatever it heard before it led."""
    clock, view = replica()
    view.leader_heard(Position(1, 9), ago_ms=0, epoch_seen=1)
    view.has_applied(Position(1, 4))
    clock.advance(5)
    view.role = Role.LEADER
    assert (view.lag_ms(), view.lag_transactions(), view.leader_seen_ms_ago()) == (0, 0, 0)


def test_lag_counts_from_when_the_node_last_had_everything() -> None:
    """Being behind ages, and so does silence; catching up ends both."""
    clock, view = replica()
    view.has_applied(Position(1, 4))
    view.leader_heard(Position(1, 4), ago_ms=0, epoch_seen=1)
    assert (view.lag_ms(), view.lag_transactions()) == (0, 0)
    clock.advance(2)
    view.leader_heard(Position(1, 7), ago_ms=0, epoch_seen=1)
    assert (view.lag_ms(), view.lag_transactions(), view.leader_seen_ms_ago()) == (2_000, 3, 0)
    view.has_applied(Position(1, 7))
    assert (view.lag_ms(), view.lag_transactions()) == (0, 0)
    clock.advance(3)
    assert (view.lag_ms(), view.leader_seen_ms_ago()) == (3_000, 3_000)


def test_another_branch_is_not_caught_up_with() -> None:
    """As many transactions of another epoch are not the leader's."""
    clock, view = replica()
    view.has_applied(Position(1, 9))
    view.leader_heard(Position(2, 9), ago_ms=0, epoch_seen=2)
    clock.advance(1)
    assert view.lag_ms() is None
    assert view.epoch_seen == 2


def test_word_that_was_passed_on_is_as_old_as_it_is() -> None:
    """And an older word does not make a newer one older."""
    _, view = replica()
    view.has_applied(Position(1, 4))
    view.leader_heard(Position(1, 4), ago_ms=700, epoch_seen=1)
    assert (view.lag_ms(), view.leader_seen_ms_ago()) == (700, 700)
    view.leader_heard(Position(1, 4), ago_ms=900, epoch_seen=1)
    assert view.leader_seen_ms_ago() == 700


def test_silence_before_a_restart_counts() -> None:
    """What an earlier run remembered is where this one begins."""
    clock, view = replica()
    view.remember_leader(60_000)
    view.has_applied(Position(1, 4))
    assert (view.lag_ms(), view.leader_seen_ms_ago()) == (60_000, 60_000)
    clock.advance(1)
    view.leader_heard(Position(1, 4), ago_ms=0, epoch_seen=1)
    view.remember_leader(5)
    assert (view.lag_ms(), view.leader_seen_ms_ago()) == (0, 0)


def test_what_is_heard_of_is_believed_within_bounds() -> None:
    """A promotion goes beyond it, and the others have to believe that too."""
    _, view = replica()
    view.heard_of(4)
    assert view.epoch_seen == 4
    view.knows(7)
    assert (view.epoch_known, view.epoch_seen) == (7, 7)
    view.heard_of(9)
    view.heard_of(8)
    assert view.epoch_seen == 9
    for _ in range(3):
        view.heard_of(limits.EPOCH_MAX)
        assert view.epoch_seen == 7 + limits.EPOCHS_AHEAD_MAX
    assert view.epoch_known == 7
