"""What the feed of revocations says: how far it has come, and up to when it is known.

Guarantees: a token's answer may be kept only if every revocation that the feed has delivered was
known to the node that gave it; later ones come through the feed. How old what is kept may be is
counted from when the node sent its last sign of life, less how far behind the leader it was then,
so a node that is cut off, or a connection that holds messages back, does not keep anything alive.

Pure: no stream, no clock; boot time is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

from petsem.model import Freshness, Position
from petsem_client.replies import BrokenReply


class News(NamedTuple):
    """One message of the feed; `nonce` is None in a sign of life."""

    nonce: bytes | None
    freshness: Freshness
    position: Position
    """To go on from for whoever has seen this message and those before it."""


class Feed:
    """Where the feed is. A new one, or one that was `lost`, knows nothing."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.known_until_s: float | None = None
        """Boot time up to which every revocation is known; None before the first sign of life."""
        self._fence: tuple[int, int] | None = None
        self._opened_s = 0.0
        self._first_ms = 0

    def lost(self) -> None:
        """There is a gap, or the branch is gone: nothing that was learnt holds."""
        self.position = self._fence = self.known_until_s = None

    def opened(self, now_s: float) -> None:
        """A stream was asked for, to go on where the last one ended."""
        self._opened_s = now_s
        self._first_ms = 0

    def heard(self, news: News, now_s: float) -> bool:
        """Take in a message. False: what was learnt before it is void.

        Raises BrokenReply if it cannot follow the one before.
        """
        at, before = news.position, self.position
        if before is not None and _order(at) < _order(before):
            raise BrokenReply("a feed that goes backwards")
        # A failover may have dropped transactions that answers were given from.
        holds = before is None or at.epoch == before.epoch
        if not holds:
            self._fence = self.known_until_s = None
        self.position = at
        if not self._first_ms:
            self._first_ms = news.freshness.server_time_ms
        if news.nonce is None:
            if self._fence is None:
                self._fence = _order(at)
            self._alive(news.freshness, now_s)
        elif before is not None and _order(at) > _order(before):
            self._fence = _order(at)
        else:
            # One of several in a transaction, whose position is told with the last of them.
            self._fence = None
        return holds

    def _alive(self, freshness: Freshness, now_s: float) -> None:
        # The first message was sent after the stream was opened. How long the others were on their
        # way is what the node's clock lacks of ours since then.
        since_s = (freshness.server_time_ms - self._first_ms) / 1000
        if freshness.lag_ms is None:
            return
        until_s = min(now_s, self._opened_s + since_s) - freshness.lag_ms / 1000
        if self.known_until_s is None or until_s > self.known_until_s:
            self.known_until_s = until_s

    @property
    def told_through(self) -> tuple[int, int] | None:
        """The (epoch, TXID) of the last revocation that was told, or of where the feed began; None
        amid those of one transaction."""
        return self._fence

    def covers(self, at: Position) -> bool:
        """Whether an allowed answer of that position may be kept: what the feed has delivered was
        known there, and the rest is still to come."""
        return (
            self.position is not None
            and self._fence is not None
            and at.epoch == self.position.epoch
            and _order(at) >= self._fence
        )

    def is_reached_by(self, at: Position) -> bool:
        """Whether an answer of that position is as new as the feed itself."""
        return self.position is not None and _order(at) >= _order(self.position)


def _order(position: Position) -> tuple[int, int]:
    return position.epoch, position.txid
