"""Time as a value that is passed in, so that tests decide what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and tokens, boot time for deadlines and leases."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z, of the system's wall clock."""
        ...

    def boot_s(self) -> float:
        """Seconds of CLOCK_BOOTTIME: never set back, and counting while the machine sleeps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, unix_ms: int = 1_800_000_000_000) -> None:
        self._unix_ms = unix_ms
        self._boot_s = 1_000.0

    def unix_ms(self) -> int:
        return self._unix_ms

    def boot_s(self) -> float:
        return self._boot_s

    def advance(self, seconds: float) -> None:
        """Move both clocks on together."""
        self._unix_ms += round(seconds * 1000)
        self._boot_s += seconds


def rfc3339(unix_ms: int) -> str:
    """`2026-12-01T00:00:00Z`: whole seconds, UTC, as caveats and JSON write time."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
