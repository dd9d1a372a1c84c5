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


_TOGETHER_S: Final = 0.025


class Changes:
    """Events by topic: an app's row number, or one of the names above.

    A replica does not know what an apply changed, so each wakes everybody. Those who wait for one
    answer are woken at once; streams, of which there may be thousands and which wait for ever, all
    together and at most every 25 ms, so that their looks stay few however often the node applies.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Event]] = {}
        self._streams: dict[Hashable, set[asyncio.Event]] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._missed = False
        self.authority = 0
        """Goes up with each transaction that may have taken authority away. Whoever verified a
        token at one value and finds it unchanged need not ask the database again."""

    @property
    def waited_for(self) -> set[Hashable]:
        """The topics that somebody waits for."""
        return self._waiting.keys() | self._streams.keys()

    def publish(self, topics: Iterable[Hashable]) -> None:
        """Wake the waiters of these topics, and those of POSITION in any case."""
        topics = tuple(topics)
        if REVOCATIONS in topics:
            self.authority += 1
        for topic in (POSITION, *topics):
            for group in (self._waiting, self._streams):
                for event in group.get(topic, ()):
                    event.set()

    def publish_all(self) -> None:
        """Wake everybody now: it is not known what changed, or each is to look for himself."""
        self.authority += 1
        _wake(self._waiting)
        _wake(self._streams)

    def publish_applied(self) -> None:
        """After an apply. The streams are woken now, or with those of the next ones."""
        self.authority += 1
        _wake(self._waiting)
        if self._pause is not None:
            self._missed = True
            return
        _wake(self._streams)
        self._pause = asyncio.get_running_loop().call_later(_TOGETHER_S, self._paused)

    @contextmanager
    def subscribed(self, topic: Hashable, *, stream: bool = False) -> Iterator[asyncio.Event]:
        """An event that is set at each change; clear it before reading what may have changed."""
        group = self._streams if stream else self._waiting
        event = asyncio.Event()
        group.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            events = group[topic]
            events.discard(event)
            if not events:
                del group[topic]

    def _paused(self) -> None:
        self._pause = None
        if self._missed:
            self._missed = False
            _wake(self._streams)
            self._pause = asyncio.get_running_loop().call_later(_TOGETHER_S, self._paused)


def _wake(group: dict[Hashable, set[asyncio.Event]]) -> None:
    for events in group.values():
        for event in events:
            event.set()
