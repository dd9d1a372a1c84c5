"""Which tokens were verified here lately, until somebody writes it down.

Guarantees: bounded; the newest note of a token counts, and the oldest ones give way. It holds ids,
never a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final

NOTE_EVERY_MS: Final = 10 * 60 * 1000
"""How long a token that was noted is not noted again, by whoever remembers that."""
_MAX: Final = 65_536


class SeenNotes:
    """Unix milliseconds by nonce."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}

    def note(self, nonce: bytes, at_ms: int) -> None:
        """The token was verified then."""
        before = self._at.get(nonce)
        if before is not None:
            self._at[nonce] = max(before, at_ms)
            return
        if len(self._at) >= _MAX:
            del self._at[next(iter(self._at))]
        self._at[nonce] = at_ms

    def some(self, limit: int) -> dict[bytes, int]:
        """Up to `limit` of them, the oldest first."""
        return dict(islice(self._at.items(), limit))

    def forget(self, written: Mapping[bytes, int]) -> None:
        """These are written down; a later note of the same token stays."""
        for nonce, at_ms in written.items():
            if self._at.get(nonce) == at_ms:
                del self._at[nonce]
