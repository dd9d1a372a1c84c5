"""The revocations that a verifier has heard of, to hold against nodes that have not.

Guarantees: bounded, and nothing is forgotten silently: of those that make room for newer ones it is
known up to which position they were, and an answer from before that counts for nothing. A feed that
loses its place, or another epoch, takes nothing back: no node lets a revoked token live again, and
one whose revocation a failover lost was meant to end.

Does not follow the feed, and judges no token.
"""

from __future__ import annotations

from typing import Final

from petsem.model import Position

GENERATION_MAX: Final = 16_384
"""Twice as many nonces of 16 bytes are held: the newer ones, and the generation before."""

_Order = tuple[int, int]
_NONE: Final = (0, 0)
_NOT_TOLD: Final = (2**64, 0)
"""Past every position: until the end of their transaction is told, no answer is known to be."""


class HeardRevocations:
    """Nonces in two generations; with the newer one full, the older is forgotten as a whole."""

    __slots__ = ("_forgotten_to", "_newer", "_older", "_older_to")

    def __init__(self) -> None:
        self._newer: set[bytes] = set()
        self._older: set[bytes] = set()
        self._older_to: _Order = _NONE
        self._forgotten_to: _Order = _NONE

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def __contains__(self, nonce: bytes) -> bool:
        return nonce in self._newer or nonce in self._older

    def hear(self, nonce: bytes, through: _Order | None) -> None:
        """One more; `through`: the (epoch, TXID) that it and all before it are at most of, None
        amid a transaction."""
        if len(self._newer) >= GENERATION_MAX:
            self._forgotten_to = max(self._forgotten_to, self._older_to)
            self._older, self._newer = self._newer, set()
            self._older_to = _NOT_TOLD
        self._newer.add(nonce)
        if through is not None:
            if self._older_to == _NOT_TOLD:
                self._older_to = through
            if self._forgotten_to == _NOT_TOLD:
                self._forgotten_to = through

    def may_be_unknown_at(self, position: Position) -> bool:
        """Whether a node at that position may lack a revocation that was forgotten here."""
        return (position.epoch, position.txid) < self._forgotten_to
