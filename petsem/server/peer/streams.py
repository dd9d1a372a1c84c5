"""Streams between nodes: one of a sort from each node, and their end.

Guarantees: a node that opens a stream anew ends the one that it had before (which is dead, or of a
copy of its directory), so a node holds one stream of each method however often it connects. A
stream that is told to end unwinds at its next wait, with the error that it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from petsem import limits
from petsem.errors import Code, PetsemError, conflict, limited, unavailable
from petsem.server.peer.identity import Caller


@dataclass(slots=True, eq=False)
class _Open:
    """An open stream. The scope is a timeout without a time, until `end` sets one."""

    caller: Caller
    scope: asyncio.Timeout
    error: PetsemError | None = None

    def end(self, error: PetsemError) -> None:
        self.error = error
        self.scope.reschedule(asyncio.get_running_loop().time())


class PeerStreams:
    """The open streams of a peer port, by method and node."""

    def __init__(self, most: int = limits.PEER_STREAMS_MAX) -> None:
        self._most = most
        self._open: dict[tuple[str, str], _Open] = {}
        self._stopping = False

    @asynccontextmanager
    async def opened(self, path: str, caller: Caller) -> AsyncIterator[None]:
        """Around the life of one stream."""
        if self._stopping:
            raise _stopping()
        key = path, caller.identity.node_id
        before = self._open.get(key)
        if before is not None:
            before.end(
                conflict(
                    "the node has opened this stream again; if that was not this process, its "
                    "directory was copied: stop one of the two"
                )
            )
        elif len(self._open) >= self._most:
            raise limited("this node has as many streams open as it takes")
        this = _Open(caller, asyncio.timeout(None))
        try:
            async with this.scope:
                self._open[key] = this
                try:
                    yield
                finally:
                    if self._open.get(key) is this:
                        del self._open[key]
        except TimeoutError:
            if this.scope.expired() and this.error is not None:
                raise this.error from None
            raise

    def check(self, admit: Callable[[Caller], object]) -> None:
        """End the streams of callers that `admit` refuses now. While it cannot tell
        (`unavailable`), they go on."""
        for stream in self._open.values():
            try:
                admit(stream.caller)
            except PetsemError as error:
                if error.code is not Code.UNAVAILABLE:
                    stream.end(error)

    def stop(self) -> None:
        """End them all, and open no more."""
        self._stopping = True
        for stream in self._open.values():
            stream.end(_stopping())


def _stopping() -> PetsemError:
    return unavailable("the node is stopping; connect again, or to another node")
