"""SQLite's lock on a database file, taken without stopping those who read it.

Guarantees: PENDING, which keeps every new reader out, is held for `PENDING_MAX_S` at most while
readers leave; whoever is refused holds no lock at all afterwards. It does not guarantee a turn: a
reader that stays keeps the applier out for as long as it stays, and `holders` says who it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import apsw

PENDING_MAX_S: Final = 0.005
NAME_HOLDERS_AFTER_S: Final = 1.0
"""How long somebody may be in the way before a warning names the process."""
_POLL_S: Final = 0.000_2
_FIRST_WAIT_S: Final = 0.01
_LONGEST_WAIT_S: Final = 0.1


def take_exclusive(
    file: apsw.VFSFile,
    patience_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Go from no lock to EXCLUSIVE; False, with no lock, if somebody else is in the way.

    With patience 0 it does not wait at all. With more it blocks its thread until then (never
    longer than `PENDING_MAX_S`), which lets the readers that are inside leave and no new one in:
    without that, many short readers who overlap could keep the applier out for ever.
    """
    try:
        try:
            file.xLock(apsw.SQLITE_LOCK_SHARED)
            file.xLock(apsw.SQLITE_LOCK_RESERVED)
            return _wait_for_readers(file, min(patience_s, PENDING_MAX_S), clock, pause)
        except apsw.BusyError:
            file.xUnlock(apsw.SQLITE_LOCK_NONE)
            return False
    except BaseException:
        file.xUnlock(apsw.SQLITE_LOCK_NONE)
        raise


def _wait_for_readers(
    file: apsw.VFSFile,
    patience_s: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> bool:
    until_s: float | None = None
    while True:
        try:
            # The first try takes PENDING, and keeps it if a reader is inside.
            file.xLock(apsw.SQLITE_LOCK_EXCLUSIVE)
        except apsw.BusyError:
            now_s = clock()
            if until_s is None:
                until_s = now_s + patience_s
            if now_s >= until_s:
                raise
            pause(_POLL_S)
        else:
            return True


def wait_s(attempt: int, chance: float) -> float:
    """How long to stay away after the `attempt`-th patient refusal in a row (from 0); `chance` is
    in [0, 1) and spreads it over the upper half.

    Longer than PENDING was held, from the first time on: readers that poll must find the gap.
    Whoever was refused without patience tries again with patience at once.
    """
    longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * (1 << min(attempt, 16)))
    return longest_s * (0.5 + chance / 2)
