"""`kill -9` of a replica at any moment, its start included, while its leader is written to.

A few kills with a fixed seed; `python -m tests.faults replica` goes on for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults import kills


async def test_it_ends_byte_identical(tmp_path: Path) -> None:
    """However often and whenever it was killed: the leader's canonical image, nothing by snapshot
    that the log has, and every write that the leader acknowledged."""
    await kills.of_a_replica(tmp_path, kills=6, seed=20260104)
