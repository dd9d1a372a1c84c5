"""A replica whose disk fails at the n-th call: a few of them by a fixed seed.

`python -m tests.faults disk` goes through all.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from tests.faults.disk_calls import KINDS, Case, sweep

SEED: Final = 20260107
CASES: Final = 2
CALLS: Final = {"write": 28, "sync": 18, "truncate": 1}
"""So many at least are in each run."""


def test_a_call_that_fails(tmp_path: Path) -> None:
    """What is left is a sound database at a position of its own, and a healthy process catches up
    from there."""
    chance = random.Random(SEED)
    with sweep(tmp_path) as made:
        for number in range(CASES):
            operation = chance.choice(list(CALLS))
            call = chance.randrange(1, CALLS[operation] + 1)
            made.run(Case(KINDS[number % 2], operation, call, on=chance.random() < 0.5))
        assert made.outcomes["not come to"] == 0
