"""How long to wait before the next attempt."""

from __future__ import annotations


class Backoff:
    """Pauses that double from `first_s` to `most_s`, each shortened by up to a half so that nodes
    which lost the same leader do not all return at once."""

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self, chance: float) -> float:
        """The next pause; `chance` is a random number from 0 to 1."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return pause_s * (1 + chance) / 2

    def reset(self) -> None:
        """It went well: begin anew."""
        self._next_s = self._first_s
