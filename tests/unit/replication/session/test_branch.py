"""Where two histories part, as their epochs tell."""

from __future__ import annotations

import pytest

from petsem import limits
from petsem.model import Position
from petsem.replication.session.branch import (
    NOWHERE,
    Epoch,
    fork_of,
    holds,
    is_likely,
    was_begun,
)

A: Epoch = (1, 1, "a")
B: Epoch = (3, 11, "b")
C: Epoch = (4, 21, "c")


@pytest.mark.parametrize(
    ("ours", "our_end", "theirs", "their_end", "fork"),
    [
        # The same branch, as far as either got.
        ([A], (1, 9), [A], (1, 9), (1, 9)),
        ([A], (1, 9), [A], (1, 5), (1, 5)),
        ([A], (1, 5), [A], (1, 9), (1, 5)),
        ([A, B], (3, 15), [A], (1, 7), (1, 7)),
        ([A], (1, 7), [A, B], (3, 15), (1, 7)),
        ([A, B], (3, 15), [A, B], (3, 12), (3, 12)),
        # One of the two went on in an epoch that another leader had ended.
        ([A, B], (3, 15), [A], (1, 14), (1, 10)),
        ([A], (1, 14), [A, B], (3, 15), (1, 10)),
        ([A, B], (3, 30), [A, C], (4, 30), (1, 10)),
        ([A, C], (4, 30), [A, B], (3, 30), (1, 10)),
        # The same number, but not the same epoch.
        ([A, (3, 11, "x")], (3, 15), [A, B], (3, 15), (1, 10)),
        ([A, (3, 12, "b")], (3, 15), [A, B], (3, 15), (1, 10)),
        # Only the newest epochs are named.
        ([B, C], (4, 25), [A, B], (3, 40), (3, 20)),
        ([A, B], (3, 40), [B, C], (4, 25), (3, 20)),
        # Nothing in common that is known.
        ([C], (4, 25), [A], (1, 5), (0, 0)),
        ([], (4, 25), [A], (1, 5), (0, 0)),
        ([A], (1, 5), [], (1, 5), (0, 0)),
    ],
)
def test_forks(
    ours: list[Epoch],
    our_end: tuple[int, int],
    theirs: list[Epoch],
    their_end: tuple[int, int],
    fork: tuple[int, int],
) -> None:
    """The last position that both have, from either side's view."""
    ends = Position(*our_end), Position(*their_end)
    assert fork_of(ours, ends[0], theirs, ends[1]) == Position(*fork)
    assert fork_of(theirs, ends[1], ours, ends[0]) == Position(*fork)


def test_a_log_behind_its_epochs() -> None:
    """A database names an epoch before the log has it: nothing of it is in common yet."""
    assert fork_of([A, B], Position(1, 9), [A, B], Position(3, 20)) == Position(1, 9)
    assert fork_of([B], Position(1, 9), [B], Position(3, 20)) == NOWHERE


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ((1, 1), True),
        ((1, 10), True),
        ((1, 11), False),
        ((3, 10), False),
        ((3, 11), True),
        ((3, 10**9), True),
        ((2, 5), False),
    ],
)
def test_positions_of_a_branch(position: tuple[int, int], expected: bool) -> None:
    """Each transaction is of one epoch."""
    assert holds([A, B], Position(*position)) is expected


def test_epochs_that_a_cluster_comes_to() -> None:
    """A bounded way beyond what is known, and twice that for one that was begun, so that a
    promotion beyond the highest that is heard of is believed; anything by who knows none."""
    ahead = limits.EPOCHS_AHEAD_MAX
    assert is_likely(5 + ahead, 5)
    assert not is_likely(6 + ahead, 5)
    assert was_begun(5 + ahead + limits.EPOCHS_SKIPPED, 5)
    assert was_begun(5 + 2 * ahead, 5)
    assert not was_begun(6 + 2 * ahead, 5)
    assert is_likely(limits.EPOCH_MAX, 0)
    assert was_begun(limits.EPOCH_MAX, 0)
