"""One call's way round the nodes: whom to ask next, for how long, and when to stop.

Guarantees: each node is asked once before any is asked again; a node that cannot do better is not
asked again in this call; nothing is started past the deadline, and no single attempt may use up
the time of the others. Pure: time is an argument, chance comes from the caller.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from petsem_client.endpoints import Endpoint, Rotation

_PAUSE_MIN_S: Final = 0.1
_LEAST_ATTEMPT_S: Final = 0.01
"""With less time than this left no node can answer; asking would only blame it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this node, and wait at most that long."""

    endpoint: Endpoint
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Everyone was asked: wait this long, then go round again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take, in parts. `whole_s` None: as long as it likes."""

    whole_s: float | None
    attempt_s: float
    pause_max_s: float
    may_wait: bool = False
    """The answer may rightly take long, so each node gets an equal share of the time instead."""


class Tour:
    """The state of one call. `next` is called at the start and after each failure or pause."""

    def __init__(
        self, rotation: Rotation, patience: Patience, jitter: random.Random, now_s: float
    ) -> None:
        self._rotation = rotation
        self._patience = patience
        self._jitter = jitter
        whole_s = patience.whole_s
        self._deadline_s = float("inf") if whole_s is None else now_s + whole_s
        self._round = 0
        self._queue = rotation.order(now_s)
        self._hopeless: set[Endpoint] = set()

    def give_up_on(self, endpoint: Endpoint) -> None:
        """Do not ask `endpoint` again in this call."""
        self._hopeless.add(endpoint)

    def next(self, now_s: float) -> Ask | Pause | None:
        """What to do now; None: nobody is left to ask, or no time."""
        left_s = self._deadline_s - now_s
        if left_s < _LEAST_ATTEMPT_S:
            return None
        if self._queue:
            waiting = len(self._queue)
            return Ask(self._queue.pop(0), self._attempt_s(left_s, waiting))
        self._queue = [e for e in self._rotation.order(now_s) if e not in self._hopeless]
        if not self._queue:
            return None
        most_s = min(self._patience.pause_max_s, _PAUSE_MIN_S * 2 ** min(self._round, 16))
        pause_s = most_s * self._jitter.uniform(0.5, 1.0)
        self._round += 1
        return Pause(pause_s) if pause_s < left_s - _LEAST_ATTEMPT_S else None

    def again(self, endpoint: Endpoint, now_s: float) -> Ask | None:
        """The same node once more, for a reason that is not its fault."""
        left_s = self._deadline_s - now_s
        return None if left_s < _LEAST_ATTEMPT_S else Ask(endpoint, self._attempt_s(left_s, 1))

    def _attempt_s(self, left_s: float, waiting: int) -> float:
        # The last hope gets all the time there is: cutting it short could only ask it again.
        if self._rotation.size - len(self._hopeless) == 1:
            return left_s
        # Each round is more patient, so that nodes which are slow but alive are heard in the end.
        attempt_s = self._patience.attempt_s * 2.0 ** min(self._round, 16)
        if self._patience.may_wait:
            attempt_s = max(attempt_s, left_s / waiting)
        return min(left_s, attempt_s)
