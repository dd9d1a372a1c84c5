"""Connections for asking, one to each node that is asked.

Guarantees: a connection is to the node that was named, by its certificate; the next one in line is
dialled only when those before it failed or took their time, so while the first stands there is no
other. One that failed is closed, and the next time it is made anew, with the certificate that this
node has by then. It does not decide whom to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from petsem.server.replica.candidates import Candidate

CLOSE_S: Final = 5.0
"""How long requests that are under way over a connection may still take when it is closed."""
_HEAD_START_S: Final = 0.25
"""How long one may take to connect before the next is tried beside it."""
_FAILED: Final = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


@dataclass(frozen=True, slots=True)
class _Line:
    node: Candidate
    channel: grpc.aio.Channel


class Lines:
    """Open channels by node id; `dial` opens one."""

    def __init__(self, dial: Callable[[Candidate], grpc.aio.Channel]) -> None:
        self._dial = dial
        self._open: dict[str, _Line] = {}
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def nodes(self) -> list[str]:
        """To whom there is one."""
        return list(self._open)

    def keep(self, node: Candidate) -> None:
        """Dial this node, and close the lines to all others."""
        for each in self.nodes():
            if each != node.node_id:
                self._drop(each, CLOSE_S)
        self._line(node).channel.get_state(try_to_connect=True)
        self._changed.set()

    def drop(self, node_id: str) -> None:
        """Close the line to this node now."""
        self._drop(node_id, None)

    async def close(self) -> None:
        """Close them all, now."""
        for closing in list(self._closing):
            closing.cancel()
        for each in self.nodes():
            self._drop(each, None)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def first(
        self, order: Callable[[], Sequence[Candidate]], until_s: float
    ) -> tuple[str, grpc.aio.Channel] | None:
        """The first of `order`, which is asked for again at each change, whose line stands; None if
        none does in time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            self._changed.clear()
            lines: list[tuple[_Line, grpc.ChannelConnectivity]] = []
            due_s = began_s
            for node in order():
                if lines and lines[-1][1] not in _FAILED and loop.time() < due_s:
                    break
                line = self._line(node)
                state = line.channel.get_state(try_to_connect=True)
                if state is grpc.ChannelConnectivity.READY:
                    return line.node.node_id or "", line.channel
                lines.append((line, state))
                due_s += _HEAD_START_S
            left_s = until_s - loop.time()
            if left_s <= 0:
                for line, state in lines:
                    if state in _FAILED:
                        self._drop(line.node.node_id or "", None)
                return None
            waits: list[Coroutine[Any, Any, object]] = [
                line.channel.wait_for_state_change(state) for line, state in lines
            ]
            await _any_of([*waits, self._changed.wait()], min(left_s, _HEAD_START_S))

    def _line(self, node: Candidate) -> _Line:
        name = node.node_id or ""
        line = self._open.get(name)
        if line is not None and line.node.address != node.address:
            self._drop(name, CLOSE_S)
            line = None
        if line is None:
            line = self._open[name] = _Line(node, self._dial(node))
        return line

    def _drop(self, node_id: str, grace_s: float | None) -> None:
        line = self._open.pop(node_id, None)
        if line is None:
            return
        task = asyncio.create_task(line.channel.close(grace_s), name="line-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _any_of(waits: Sequence[Coroutine[Any, Any, object]], timeout_s: float) -> None:
    """Until one of them ends, however, or the time is over."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        # A channel that is closed under whoever waits for it raises here.
        await asyncio.gather(*tasks, return_exceptions=True)
