"""What all calls of one reader share: the nodes' state, their time, the narrowed tokens.

Guarantees: made only of checked arguments; opens nothing and sends nothing. It is not locked: a
reader on one event loop needs no lock, one used by several threads brings its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from petsem.clock import Clock
from petsem.errors import invalid
from petsem_client.endpoints import Endpoint, Rotation, parse_endpoints
from petsem_client.narrowing import Narrower, ServerClock

TIMEOUT_S: Final = 10.0
"""A whole fetch, over however many nodes it takes."""
ATTEMPT_TIMEOUT_S: Final = 1.5
"""The first try at one node of several."""
TIMEOUT_MAX_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Shared:
    """The state itself; the parts change, the set of them does not."""

    endpoints: tuple[Endpoint, ...]
    rotation: Rotation
    clock: Clock
    server_clock: ServerClock
    narrower: Narrower
    jitter: random.Random
    timeout_s: float
    attempt_timeout_s: float

    @classmethod
    def of(
        cls,
        endpoints: Sequence[str],
        *,
        token: str,
        clock: Clock,
        timeout_s: float,
        attempt_timeout_s: float,
    ) -> Shared:
        """State for a new reader; `unauthenticated` if `token` is none, `invalid` for the rest."""
        parsed = parse_endpoints(endpoints)
        jitter = random.Random()  # noqa: S311  spreads retries; nobody gains by guessing it
        server_clock = ServerClock(clock)
        return cls(
            endpoints=parsed,
            rotation=Rotation(parsed, jitter),
            clock=clock,
            server_clock=server_clock,
            narrower=Narrower(token, clock, server_clock),
            jitter=jitter,
            timeout_s=checked_timeout(timeout_s),
            attempt_timeout_s=checked_timeout(attempt_timeout_s),
        )


def checked_timeout(seconds: float) -> float:
    """`seconds`, if a call may be given that long."""
    if not (math.isfinite(seconds) and 0 < seconds <= TIMEOUT_MAX_S):
        raise invalid(f"a timeout is more than 0 and at most {TIMEOUT_MAX_S:.0f} seconds")
    return seconds
