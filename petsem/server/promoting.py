"""What the operator hears of a promotion, in a sentence or two: who leads and what may be lost, or
why nothing has changed.
"""

from __future__ import annotations

import apsw

from petsem.counted import counted
from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.replication.drivers.role_change import DatabaseInUse
from petsem.server.database import read_refusal
from petsem.wire import http


def not_led(node_id: str, error: Exception) -> PetsemError:
    """What the operator hears of a promotion that `error` has ended."""
    if isinstance(error, apsw.Error):
        error = read_refusal(error) or error
    if not isinstance(error, PetsemError):
        return PetsemError(
            Code.INTERNAL, f"{node_id} could not lead and is a replica again; see its log"
        )
    why = error.message
    if isinstance(error, DatabaseInUse):
        why = f"{why}; end that, then promote it again"
    return PetsemError(error.code, f"{node_id} could not lead and is a replica again: {why}")


def led(node_id: str, position: Position, lost: http.MayBeLost) -> str:
    """Who leads now, and what of `lost` is known."""
    leads = f"{node_id} leads from epoch {position.epoch} on."
    leader = lost.leader or "the old leader"
    if lost.transactions is None or lost.leader_seen_ms_ago is None:
        return f"{leads} What {leader} had beyond {position} is not known, and lost to the cluster"
    ago = f"{lost.leader_seen_ms_ago / 1000:.1f} s ago"
    if lost.transactions == 0:
        return (
            f"{leads} It had everything that {leader} was last heard to have, {ago}; what that "
            "committed later is lost to the cluster"
        )
    return (
        f"{leads} {leader} was {counted(lost.transactions, 'transaction')} ahead when it was last "
        f"heard, {ago}; that and what it committed later is lost to the cluster"
    )
