"""How much of the log is kept.

Guarantees: what a follower has not acknowledged is kept while the log is within its bounds of
bytes and age; beyond them the oldest goes, and a follower that still needs it takes a snapshot.
Some is kept that nobody needs, for whoever connects again or is in the middle of a snapshot. It
looks at numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from petsem import limits
from petsem.replication.drivers.log_types import SegmentInfo


@dataclass(frozen=True, slots=True)
class Retention:
    """The bounds: whatever is needed goes beyond `most_bytes` or `most_age_s`, and of what nobody
    needs the last `kept_bytes` stay."""

    most_bytes: int = limits.LOG_MAX_BYTES
    most_age_s: float = limits.LOG_MAX_AGE_S
    kept_bytes: int = limits.LOG_KEPT_BYTES


DEFAULT: Final = Retention()


def droppable(
    segments: Sequence[SegmentInfo],
    needed_txid: int,
    now_ms: int,
    bounds: Retention = DEFAULT,
) -> int | None:
    """The TXID up to which whole segments may go; None if none may.

    `needed_txid`: transactions after it are still needed, by a follower or by this node's own
    database. The last segment stays in any case.
    """
    left = sum(segment.size_bytes for segment in segments)
    found = None
    for segment, following in pairwise(segments):
        left -= segment.size_bytes
        # Nothing came since: the segment is of one day, and as old as it began.
        newest_ms = following.oldest_ms or segment.oldest_ms
        too_old = newest_ms is not None and now_ms - newest_ms > bounds.most_age_s * 1000
        too_much = left + segment.size_bytes > bounds.most_bytes
        spare = segment.end.txid <= needed_txid and left >= bounds.kept_bytes
        if not (too_old or too_much or spare):
            break
        found = segment.end.txid
    return found
