"""When the leader's transactions are written to the log.

At once while anybody follows. Else a little later, many at a time, so that a page that each of them
changed is written once: the WAL has them meanwhile, and nobody waits.

Guarantees: after a failure no transaction commits before the log has caught up (`require`), and no
checkpoint copies what is not in it. It runs on the helper thread whatever touches the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import structlog

from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.replication.steps import Reached, nothing

log = structlog.get_logger(__name__)

_LATER_S: Final = 1.0
_AGAIN_S: Final = 1.0
_AT_ONCE_PAGES: Final = 16_384


class Logging:
    """Decides when `Capture` writes; `followed` says whether anybody waits for it."""

    def __init__(self, helper: ThreadPoolExecutor) -> None:
        self._helper = helper
        self._capture: Capture | None = None
        self._later: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: Exception | None = None
        self.followed: Callable[[], bool] = lambda: False
        self.published: Callable[[], None] = lambda: None
        self.reached: Reached = nothing

    @property
    def capture(self) -> Capture | None:
        """What this node captures with; None while it does not lead."""
        return self._capture

    @property
    def error(self) -> str | None:
        """What the disk said when the log could not be written, until it can again."""
        return None if self._error is None else type(self._error).__name__

    def begin(self, capture: Capture) -> None:
        """Log with `capture` from now on."""
        self._capture = capture

    async def require(self) -> None:
        """Return if the log has no failure behind it, or has caught up now; else its OSError."""
        if self._error is not None:
            await self._write()
            if self._error is not None:
                raise OSError("the log cannot be written") from self._error

    async def committing(self, commit: Callable[..., None], *args: Any) -> None:
        """Run `commit(*args)` on the helper thread, and see that what it commits is logged."""
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._helper, commit, *args)
        if self.followed():
            # Behind it in the helper's queue, so that it does not wait for a turn of the loop.
            self._soon()
            await done
            return
        # The helper cannot begin before it is lent the GIL, and COMMIT is what everybody waits for.
        time.sleep(0)  # noqa: ASYNC251 (for no time at all)
        try:
            await done
        finally:
            # Also after a failed COMMIT, which may have happened.
            capture = self._capture
            if capture is not None and capture.waiting_pages >= _AT_ONCE_PAGES:
                self._soon()
            elif self._later is None:
                self._later = loop.call_later(_LATER_S, self._soon)

    def disturbed(self) -> None:
        """On the helper thread: another process has written to the database."""
        if self._capture is not None:
            self._capture.disturbed()

    def committed(self, frames: int, position: Position, now_ms: int) -> None:
        """On the helper thread, after a COMMIT."""
        if self._capture is not None:
            self._capture.committed(frames, position, now_ms)

    def reopened(self, frames: int, position: Position, now_ms: int) -> None:
        """On the helper thread, after the database was opened again."""
        if self._capture is not None:
            self._capture.reopened(frames, position, now_ms)

    def before_checkpoint(self, frames: int) -> bool:
        """On the helper thread: whether the WAL may be copied. Raises what `Capture.write` does if
        the log cannot be written."""
        try:
            return self._capture is None or self._capture.before_checkpoint(frames)
        except Exception as e:
            self._error = e
            raise

    def look_again(self) -> None:
        """After a checkpoint that failed: if the log was why, write it again in a while, also if no
        transaction comes."""
        if self._error is not None and self._later is None and self._capture is not None:
            self._later = asyncio.get_running_loop().call_later(_AGAIN_S, self._soon)

    def end(self) -> None:
        """On the helper thread, when the database is closed: everything is in the log and on the
        disk, or said to be missing."""
        capture, self._capture = self._capture, None
        if capture is None:
            return
        for finish in (capture.finish, capture.close):
            try:
                finish()
            except Exception as e:
                log.error("log_not_written", error=type(e).__name__)

    def _soon(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        task = asyncio.get_running_loop().create_task(self._write())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self) -> None:
        capture = self._capture
        if capture is None:
            return
        loop = asyncio.get_running_loop()
        write = partial(capture.write, merged=not self.followed())
        try:
            await loop.run_in_executor(self._helper, write)
        except Exception as e:
            # Whatever it is: what is not in the log would be copied away by no checkpoint.
            if self._error is None:
                log.error("log_not_written", error=type(e).__name__)
            self._error = e
            if self._later is None and self._capture is not None:
                self._later = loop.call_later(_AGAIN_S, self._soon)
            return
        if self._error is not None:
            log.info("log_written_again")
            self._error = None
        self.published()
