"""Waiting for a version or a position that a reader asked for.

A fence (e, t) holds if `epochs` places t in e and the snapshot is at or past it. If t lies beyond
the end of e, the transaction is on a branch that is gone, and no waiting will bring it back. Two
branches of one epoch are told apart only by a checksum: if the fence has one, and the node's log
still reaches back to t.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from typing import Final, TypeVar

import apsw

from petsem.errors import Code, Detail, PetsemError
from petsem.model import Freshness, Position
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.stale import stale_position

T = TypeVar("T")

WAIT_S: Final = 2.0
"""How long a read waits for what it asked for before it answers `stale`."""
_PAUSE_MAX_S: Final = 0.25
_ORIGIN: Final = (0, 0)
"""Before everything, on every branch."""


def check_fence(
    db: apsw.Connection,
    have: Position,
    need: Position,
    logged: Callable[[int], Position | None] | None = None,
) -> None:
    """Raise `stale` while the fence may still come to hold, `conflict` (LOST) when it cannot.
    `logged` is what the log has at a TXID, with its checksum; None if it does not say."""
    if need.epoch > have.epoch or (need.epoch == have.epoch and need.txid > have.txid):
        raise stale_position(have, need)
    if (need.epoch, need.txid) == _ORIGIN:
        return
    first, end = sql.rows(
        db,
        "SELECT (SELECT first_txid FROM epochs WHERE epoch = ?1),"
        " (SELECT first_txid FROM epochs WHERE epoch > ?1 ORDER BY epoch LIMIT 1)",
        (need.epoch,),
    )[0]
    lost = first is None or need.txid < first or (end is not None and need.txid >= end)
    if need.checksum is not None and logged is not None and not lost:
        found = logged(need.txid)
        lost = found is not None and found.checksum not in (None, need.checksum)
    if lost:
        raise PetsemError(
            Code.CONFLICT,
            f"position {need} is on a branch that was lost; read again, then decide",
            Detail(reason="LOST", have=have, need=need),
        )


def check_durable(fresh: Freshness) -> None:
    """Raise `stale` while what was read is not known to survive a failover."""
    held, at = fresh.replicated, fresh.position
    if held is None or (held.epoch, held.txid) < (at.epoch, at.txid):
        raise PetsemError(
            Code.STALE,
            "what this node holds is not yet known to survive a failover; ask again shortly",
            Detail(have=held, need=at),
        )


async def until_fresh(
    changes: Changes, topic: Hashable, read: Callable[[], T], wait_s: float = WAIT_S
) -> T:
    """`read()`, again after changes while it says `stale`, for at most `wait_s` seconds.

    Only what may come with the next transactions is waited for, and no age. The pauses between
    two looks become longer and longer, so that those who wait cost a bounded number of
    them each, however often the node commits.
    """
    try:
        return read()
    except PetsemError as e:
        if not _may_come(e):
            raise
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    pause_s = 0.0
    with changes.subscribed(topic) as event:
        while True:
            event.clear()
            try:
                return read()
            except PetsemError as e:
                if not _may_come(e) or loop.time() >= deadline_s:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline_s):
                    await event.wait()
                    await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s + 0.002, _PAUSE_MAX_S)


def _may_come(error: PetsemError) -> bool:
    detail = error.detail
    return error.code is Code.STALE and (detail.need is not None or detail.need_version is not None)
