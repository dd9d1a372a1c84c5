"""Open streams: how many there may be of a sort, and their end when the node stops.

Guarantees: once `end` was called, every open stream is told `unavailable` at its next wait, so that
a drain does not wait for clients that would stay for ever, and no new one opens. It does not count
the streams that a service bounds itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from petsem.errors import PetsemError, limited, unavailable


class Streams:
    """The streams of one server. `most` bounds those that are open at once."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._open: set[asyncio.Timeout] = set()
        self._ended = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Around the life of one stream."""
        if self._ended:
            raise _stopping()
        if self._most is not None and len(self._open) >= self._most:
            raise limited("this node has as many such streams open as it takes")
        # A timeout without a time, which `end` sets: it unwinds the stream wherever it waits.
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._open.add(scope)
                try:
                    yield
                finally:
                    self._open.discard(scope)
        except TimeoutError:
            if scope.expired():
                raise _stopping() from None
            raise

    def end(self) -> None:
        """End them all."""
        self._ended = True
        now_s = asyncio.get_running_loop().time()
        for scope in self._open:
            scope.reschedule(now_s)


def _stopping() -> PetsemError:
    return unavailable("the node is stopping; ask another node")
