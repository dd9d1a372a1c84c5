"""`kill -9` of the leader under load, with replicas that follow it.

A few kills with a fixed seed; `python -m tests.faults leader` goes on for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kills


@pytest.mark.parametrize("number", [1, 3])
async def test_nothing_acknowledged_is_lost(tmp_path: Path, number: int) -> None:
    """Every write that was acknowledged is on the leader and on both replicas in the end, no TXID
    was given twice, each start has an epoch of its own and goes on with the log that there is."""
    await kills.of_the_leader(tmp_path, kills=number, seed=20260105)
