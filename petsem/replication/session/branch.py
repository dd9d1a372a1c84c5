"""Branches: which epochs a history is made of, and where two histories part.

Guarantees: an epoch is taken for the same on both sides only if it has the same number, first
transaction and leader. Nothing here compares content; checksums do.

A branch is its epochs in ascending order. Either side may name only the newest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from petsem import limits
from petsem.model import Position

Epoch = tuple[int, int, str]
"""Number, first TXID, leader: a row of the table `epochs`."""
NOWHERE: Final = Position(0, 0)
"""The fork of histories that have nothing in common that is known."""


def is_likely(epoch: int, known: int, ahead: int = limits.EPOCHS_AHEAD_MAX) -> bool:
    """Whether a cluster may have come to `epoch` that a node claims, for one that knows of `known`
    itself; 0 is nothing, and then anything may be."""
    return not known or epoch <= known + ahead


def was_begun(epoch: int, known: int) -> bool:
    """The same of an epoch that is said to be of a branch."""
    return is_likely(epoch, known, 2 * limits.EPOCHS_AHEAD_MAX)


def holds(branch: Sequence[Epoch], position: Position) -> bool:
    """Whether `position` is one of the branch, as far as epochs tell, whatever its end is."""
    for index, (epoch, first, _) in enumerate(branch):
        if epoch == position.epoch:
            ends = index + 1 < len(branch) and branch[index + 1][1] <= position.txid
            return first <= position.txid and not ends
    return False


def fork_of(
    ours: Sequence[Epoch], our_end: Position, theirs: Sequence[Epoch], their_end: Position
) -> Position:
    """The last position, without checksum, that both branches have. It is their own end if theirs
    is all in ours, and our own if ours is all in theirs."""
    known = set(ours)
    common = [index for index, each in enumerate(theirs) if each in known]
    if not common:
        return NOWHERE
    last = theirs[common[-1]]
    txid = min(
        _end_of(theirs, common[-1], their_end.txid), _end_of(ours, ours.index(last), our_end.txid)
    )
    # A branch may end before its last epochs begin, if its database was not there yet.
    reached = [each for each in theirs[: common[-1] + 1] if each[1] <= txid and each in known]
    return Position(reached[-1][0], txid) if reached else NOWHERE


def _end_of(branch: Sequence[Epoch], index: int, end_txid: int) -> int:
    """The last transaction of one epoch of a branch."""
    return min(branch[index + 1][1] - 1, end_txid) if index + 1 < len(branch) else end_txid
