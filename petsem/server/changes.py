"""Telling those who wait that something was committed or applied.

Guarantees: a waiter that read the database before it subscribed misses nothing, because it
subscribes first and reads after. It carries no data; whoever wakes reads the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

POSITION: Final = "position"
"""The topic of those who wait for the node to reach a position."""
REVOCATIONS: Final = "revocations"
"""The topic of whatever takes authority away: revocations, and orgs that are deleted."""


class Changes:
    """Events by topic: an app's row number, or one of the names above."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Event]] = {}
        self.authority = 0
        """Goes up with each transaction that may have taken authority away. Whoever verified a
        token at one value and finds it unchanged need not ask the database again."""

    def publish(self, topics: Iterable[Hashable]) -> None:
        """Wake the waiters of these topics, and those of POSITION in any case."""
        topics = tuple(topics)
        if REVOCATIONS in topics:
            self.authority += 1
        for topic in (POSITION, *topics):
            for event in self._waiting.get(topic, ()):
                event.set()

    def publish_all(self) -> None:
        """Wake everybody: after an apply it is not known what changed."""
        self.authority += 1
        for events in self._waiting.values():
            for event in events:
                event.set()

    @contextmanager
    def subscribed(self, topic: Hashable) -> Iterator[asyncio.Event]:
        """An event that is set at each change; clear it before reading what may have changed."""
        event = asyncio.Event()
        self._waiting.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            events = self._waiting[topic]
            events.discard(event)
            if not events:
                del self._waiting[topic]
