"""A replica whose machine loses power: a few times with a fixed seed.

`python -m tests.faults power` goes on for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults import power


async def test_its_own_log_makes_it_whole(tmp_path: Path) -> None:
    """With log, database and journal torn: nothing that was said to be durable is missing, and
    what is torn is put right."""
    await power.of_losses(tmp_path, losses=2, seed=20260108)
