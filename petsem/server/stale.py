"""The ways in which a node's data can be too old for what was asked.

Guarantees: each says what the node has and, where somebody asked for more than that, what he needs;
only the latter are worth waiting for.
"""

from __future__ import annotations

from petsem.errors import Code, Detail, PetsemError
from petsem.model import Position

UNHEARD = "LEADER_UNHEARD"
"""The reason of a refusal because the leader was not heard for too long."""


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
