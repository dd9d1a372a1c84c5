"""The ways in which a node's data can be too old for what was asked.

Guarantees: each says what the node has and, where somebody asked for more than that, what he needs;
only the latter are worth waiting for.
"""

from __future__ import annotations

from typing import Final

from petsem import limits
from petsem.errors import Code, Detail, PetsemError
from petsem.model import Position
from petsem.server.cluster_view import ClusterView

UNHEARD = "LEADER_UNHEARD"
"""The reason of a refusal because the leader was not heard for too long."""

TXIDS_PER_S_MAX: Final = 10_000
"""More transactions than a leader commits in a second."""
_WORD_MS: Final = 2_000
"""How old the leader's word may be beyond what is known of its age: it is sent each second."""


def may_be_there(view: ClusterView, have: Position, at: Position) -> bool:
    """Whether the cluster can have come to a position that somebody claims, by what this node,
    itself at `have`, has heard of the leader, and since when it has not. TXIDs go on through
    promotions; epochs are believed as far ahead as between nodes."""
    told, ago_ms = view.leader_position, view.leader_seen_ms_ago()
    if told is None or ago_ms is None:
        return True
    txid = max(told.txid, have.txid) + TXIDS_PER_S_MAX * (ago_ms + _WORD_MS) // 1000
    epoch = max(told.epoch, have.epoch, view.epoch_seen) + 2 * limits.EPOCHS_AHEAD_MAX
    return at.txid <= txid and at.epoch <= epoch


def stale_position(have: Position, need: Position) -> PetsemError:
    """The node has not reached what was asked for."""
    return PetsemError(
        Code.STALE,
        f"this node is at {have} and has not reached {need}; ask another node, or later",
        Detail(have=have, need=need),
    )


def stale_version(have: int, need: int) -> PetsemError:
    """The app's version on this node is older than what was asked for."""
    return PetsemError(
        Code.STALE,
        f"this node has version {have} of the app, not yet {need}; ask another node, or later",
        Detail(have_version=have, need_version=need),
    )


def leader_unheard(have: Position, ago_ms: int | None, bound_s: int) -> PetsemError:
    """What the node has may be older than is allowed for what was asked."""
    age = "of unknown age" if ago_ms is None else f"up to {ago_ms // 1000} s old"
    return PetsemError(
        Code.STALE,
        f"this node's data may be {age}, and at most {bound_s} s is allowed here; ask another node",
        Detail(reason=UNHEARD, have=have),
    )
