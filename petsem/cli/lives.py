"""How long something lives, and whether it is near its end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_ENDING_PART: Final = 10
"""The last tenth of a life is its end."""


@dataclass(frozen=True, slots=True)
class Life:
    """From `since_ms` until `until_ms`, Unix milliseconds; over from `until_ms` on."""

    since_ms: int
    until_ms: int

    def is_over(self, now_ms: int) -> bool:
        """Whether nothing of it is left."""
        return now_ms >= self.until_ms

    def is_ending(self, now_ms: int) -> bool:
        """Whether less than a tenth of it is left, or nothing."""
        return (self.until_ms - now_ms) * _ENDING_PART < self.until_ms - self.since_ms
