"""Who the members are, for what asks again and again.

Guarantees: the answer is at most a second old while the database can be read, and None until it
could be read once. It decides nothing about who may call: `petsem.server.peer.membership` does, and
remembers nothing.
"""

from __future__ import annotations

import contextlib
import math
from typing import Final

import apsw

from petsem.clock import Clock
from petsem.errors import PetsemError
from petsem.server.database import ReadPool
from petsem.server.store import nodes as rows

READ_EVERY_S: Final = 1.0


class Roll:
    """The ids of the rows of `nodes`."""

    def __init__(self, pool: ReadPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._ids: frozenset[str] | None = None
        self._read_s = -math.inf

    def __call__(self) -> frozenset[str] | None:
        """The members."""
        now_s = self._clock.boot_s()
        if now_s - self._read_s >= READ_EVERY_S:
            self._read_s = now_s
            with contextlib.suppress(apsw.Error, PetsemError), self._pool.reading() as db:
                self._ids = frozenset(row.id for row in rows.every(db))
        return self._ids
