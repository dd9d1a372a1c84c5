"""How much of the log is kept."""

from __future__ import annotations

import pytest

from petsem.model import Position
from petsem.replication.drivers.log_types import SegmentInfo
from petsem.replication.retention import Retention, droppable

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def segments(count: int, size_bytes: int = 10, step_ms: int = HOUR_MS) -> list[SegmentInfo]:
    """Segments of ten transactions each, the last of them begun now."""
    return [
        SegmentInfo(
            Position(1, number * 10, 1),
            Position(1, number * 10 + 10, 1),
            size_bytes,
            NOW_MS - (count - 1 - number) * step_ms,
        )
        for number in range(count)
    ]


def drop(
    found: list[SegmentInfo],
    needed_txid: int,
    *,
    most_bytes: int = 1_000,
    most_age_s: float = 1e9,
    kept_bytes: int = 0,
) -> int | None:
    bounds = Retention(most_bytes, most_age_s, kept_bytes)
    return droppable(found, needed_txid, NOW_MS, bounds)


def test_what_everybody_has_may_go() -> None:
    """Whole segments only, and never the last one."""
    assert drop(segments(4), 25) == 20
    assert drop(segments(4), 20) == 20
    assert drop(segments(4), 1_000) == 30


def test_what_somebody_needs_stays() -> None:
    """A follower that has acknowledged nothing holds all of it."""
    assert drop(segments(4), 0) is None
    assert drop(segments(4), 9) is None


def test_some_is_kept_that_nobody_needs() -> None:
    """For whoever connects again."""
    assert drop(segments(4), 1_000, kept_bytes=25) == 10
    assert drop(segments(4), 1_000, kept_bytes=40) is None


def test_beyond_its_bytes_the_oldest_goes_whoever_needs_it() -> None:
    """Down to what may be there, and no further."""
    assert drop(segments(4), 0, most_bytes=25) == 20
    assert drop(segments(4), 0, most_bytes=40) is None
    assert drop(segments(4), 0, most_bytes=1) == 30


def test_beyond_its_age_the_oldest_goes_whoever_needs_it() -> None:
    """By the newest transaction of a segment, which is where the next one begins."""
    assert drop(segments(4), 0, most_age_s=1.5 * 3600) == 10
    assert drop(segments(4), 0, most_age_s=0.5 * 3600) == 20


@pytest.mark.parametrize("count", [0, 1])
def test_one_segment_or_none(count: int) -> None:
    """There is nothing that may go."""
    assert drop(segments(count), 1_000, most_bytes=0, most_age_s=0) is None
