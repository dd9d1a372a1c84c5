"""`python -m tests.faults [NAME…]`: the long campaigns, with real processes.

Each prints how far it is and in the end what was seen to hold. Exit code 1 if something does not:
then the seed is printed, which gives the same order of faults again (not the same moments), and the
directory in which everything is left as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

from tests.faults import disk_calls, kills, large, power
from tests.faults.kills import Tell

Campaign = Callable[[Path, int, int, Tell], Coroutine[None, None, list[str]]]

_CAMPAIGNS: Final[dict[str, Campaign]] = {
    "replica": kills.of_a_replica,
    "leader": kills.of_the_leader,
    "disk": disk_calls.of_every_call,
    "power": power.of_losses,
    "large": large.over_the_lock_page,
}


def main() -> int:
    """Run what was named, in order, to the first failure."""
    parser = argparse.ArgumentParser(description="Petsem's long fault campaigns.")
    parser.add_argument("names", nargs="*", choices=[*_CAMPAIGNS, "all"], default="all")
    parser.add_argument(
        "--kills", type=int, default=100, help="also losses of power (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    asked = parser.parse_args()
    seed = random.randrange(2**32) if asked.seed is None else asked.seed
    print(f"--seed {seed}", flush=True)
    for name, campaign in _CAMPAIGNS.items():
        if name in asked.names or "all" in asked.names:
            directory = Path(tempfile.mkdtemp(prefix=f"petsem-faults-{name}-"))
            if not _holds(name, campaign, directory, asked.kills, seed):
                return 1
            shutil.rmtree(directory)
    return 0


def _holds(name: str, campaign: Campaign, directory: Path, count: int, seed: int) -> bool:
    began_s = time.monotonic()

    def tell(line: str) -> None:
        print(f"{name}: {line} ({time.monotonic() - began_s:.0f} s)", flush=True)

    try:
        checked = asyncio.run(campaign(directory, count, seed, tell))
    except Exception:
        traceback.print_exc()
        print(f"{name}: FAILED with --seed {seed}; everything is in {directory}", flush=True)
        return False
    for line in checked:
        print(f"{name}: {line}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
