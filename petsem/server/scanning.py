"""Reading the whole database in the background, after a start without the saved checksums.

Guarantees: a step is short, so that commits and syncs pass between two of them; it ends with the
verdict whether the file is what the log says. It repairs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_PAUSE_S: Final = 0.001
_AGAIN_S: Final = 5.0


class Scanning:
    """Runs the steps of a scan on the helper thread, one at a time."""

    def __init__(self, helper: ThreadPoolExecutor) -> None:
        self._helper = helper
        self._task: asyncio.Task[None] | None = None
        self.damaged = False
        """Whether the last scan found a page that is not what it was when it was logged."""

    def start(self, scan: Callable[[], Iterator[int]]) -> None:
        """Begin; a scan that runs is ended first by `stop`."""
        assert self._task is None
        self._task = asyncio.create_task(self._run(scan), name="scan")

    async def stop(self) -> None:
        """End it where it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, scan: Callable[[], Iterator[int]]) -> None:
        for tries in count():
            try:
                await self._once(scan)
                return
            except ValueError:
                self.damaged = True
                log.error(
                    "database_damaged",
                    message="pages of the database are not what was logged; run 'petsem check'",
                )
                return
            except Exception as e:
                # The disk fails, or is full. What was read is known; the rest is tried again.
                if not tries:
                    log.error("scan_failed", error=type(e).__name__)
            await asyncio.sleep(_AGAIN_S)

    async def _once(self, scan: Callable[[], Iterator[int]]) -> None:
        loop = asyncio.get_running_loop()
        steps = scan()
        try:
            while True:
                if await loop.run_in_executor(self._helper, next, steps, None) is None:
                    return
                await asyncio.sleep(_PAUSE_S)
        finally:
            # Behind the step that may still run there.
            self._helper.submit(_close, steps)


def _close(steps: Iterator[int]) -> None:
    if isinstance(steps, Generator):
        steps.close()
