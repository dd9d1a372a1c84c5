"""What a follower says: its hello, acks when something moved, reports at intervals.

Guarantees: one message is written at a time; an ack says where everything is when it is written,
so a slow link makes acks fewer, never late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from petsem.wire import petsem_pb2 as pb


class Outgoing:
    """The writing side of one stream."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[Any, Any],
        hello: bytes,
        ack: Callable[[], pb.Ack | None],
        reports: Callable[[], Iterable[pb.NodeReport]],
        report_every_s: float,
    ) -> None:
        self._call = call
        self._hello = hello
        self._ack = ack
        self._reports = reports
        self._report_every_s = report_every_s
        self._due = asyncio.Event()
        self._report_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.writing_since_s: float | None = None
        """Of the loop's clock: when the write began that has not ended."""

    def moved(self) -> None:
        """There may be something to acknowledge."""
        self._due.set()

    async def run(self) -> None:
        """Write until cancelled, or until nothing can be written any more; why not, the reading
        side learns."""
        await self._write(self._hello)
        self._tick()
        said = pb.Ack()
        reports: deque[pb.NodeReport] = deque()
        while True:
            if not reports:
                await self._due.wait()
            self._due.clear()
            now = self._ack()
            if now is not None and now != said:
                said = now
                await self._write(pb.FromReplica(ack=now).SerializeToString())
            if self._report_due and not reports:
                self._report_due = False
                reports.extend(self._reports())
            if reports:
                # One at a time: the next ack does not wait for the others.
                report = reports.popleft()
                await self._write(pb.FromReplica(report=report).SerializeToString())

    def close(self) -> None:
        """No more reports."""
        if self._timer is not None:
            self._timer.cancel()

    async def _write(self, message: bytes) -> None:
        self.writing_since_s = asyncio.get_running_loop().time()
        await self._call.write(message)
        self.writing_since_s = None

    def _tick(self) -> None:
        self._report_due = True
        self._due.set()
        self._timer = asyncio.get_running_loop().call_later(self._report_every_s, self._tick)
