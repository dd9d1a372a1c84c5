"""Reading the whole database in the background, after a start without the saved checksums.

Guarantees: a step is short, so that commits and syncs pass between two of them; it ends with the
verdict whether the file is what the log says. It repairs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import apsw
import structlog

log = structlog.get_logger(__name__)

_PAUSE_S: Final = 0.001


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
        self._task = asyncio.create_task(self._run(scan()), name="scan")

    async def stop(self) -> None:
        """End it where it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, steps: Iterator[int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if await loop.run_in_executor(self._helper, next, steps, None) is None:
                    return
                await asyncio.sleep(_PAUSE_S)
        except ValueError:
            self.damaged = True
            log.error(
                "database_damaged",
                message="pages of the database are not what was logged; run 'petsem check'",
            )
        except (OSError, apsw.Error) as e:
            log.error("scan_failed", error=type(e).__name__)
