"""Copying the WAL into the database: when, on the helper thread, and never ahead of the log.

Guarantees: what a checkpoint copies is in the log and on the disk before. A scrub, after which no
page from before a destroy lives on in the WAL, is tried between groups until it is done; a reader
can only delay it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import structlog

from petsem.errors import PetsemError, unavailable
from petsem.model import Position
from petsem.replication.steps import CHECKPOINT
from petsem.server.checkpoint import Checkpointer
from petsem.server.logging_commits import Logging
from petsem.server.write_failures import WriteFailures

log = structlog.get_logger(__name__)

T = TypeVar("T")

_COPY_TRIES: Final = 100
_COPY_PAUSE_S: Final = 0.05
_TRUNCATE_BUSY_MS: Final = 20


class WalCopies:
    """The writer's checkpoints."""

    def __init__(
        self,
        path: Path,
        helper: ThreadPoolExecutor,
        logging: Logging,
        failures: WriteFailures,
        *,
        vfs: str | None = None,
    ) -> None:
        self._helper = helper
        self._logging = logging
        self._failures = failures
        self._checkpointer = Checkpointer(path, vfs=vfs)
        self._writer: apsw.Connection | None = None
        self._scrubs: list[asyncio.Future[bool]] = []
        self._scrub_due = False
        self._passive: asyncio.Task[bool] | None = None

    @property
    def frames(self) -> int:
        """Frames in the WAL at the last commit, as SQLite counts them."""
        return self._checkpointer.frames

    @property
    def asked(self) -> bool:
        """Whether somebody waits for a scrub."""
        return bool(self._scrubs)

    def adopt(self, db: apsw.Connection) -> None:
        """Count the frames of what `db` commits from now on; the WAL may hold more. Between groups
        it is used for what it would otherwise take for another's change."""
        self._writer = db
        frames, _ = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)
        self._checkpointer.committed(db, "main", frames)
        db.set_wal_hook(self._checkpointer.committed)

    def scrub(self) -> asyncio.Future[bool]:
        """Have the WAL copied and emptied at the next `between_groups`; whether that was done."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._scrubs.append(done)
        return done

    async def between_groups(self, *, idle: bool) -> None:
        """Do what is due; `idle`: no write waits."""
        scrubs, self._scrubs = self._scrubs, []
        if scrubs or (self._scrub_due and idle):
            self._scrub_due = not await self._run(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            for done in scrubs:
                done.set_result(not self._scrub_due)
            return
        mode = self._checkpointer.due(idle=idle)
        if mode == apsw.SQLITE_CHECKPOINT_PASSIVE:
            # It holds nothing that a transaction needs, so the next group gathers meanwhile, and
            # finds the helper free again by the time it commits.
            if self._passive is None or self._passive.done():
                self._passive = asyncio.create_task(self._run(mode))
        elif mode is not None:
            await self._run(mode)

    async def settled(self) -> None:
        """Wait for a copy that is under way."""
        if self._passive is not None:
            await self._passive

    async def whole(self) -> Position:
        """Have everything that was committed so far copied, and the position that the database file
        has then. `unavailable` if a reader keeps the WAL from being copied."""
        for _ in range(_COPY_TRIES):
            try:
                position = await self._on_helper(self._copy_all)
            except (apsw.Error, OSError) as e:
                raise unavailable("the WAL could not be copied; see the node's log") from e
            if position is not None:
                return position
            await asyncio.sleep(_COPY_PAUSE_S)
        raise unavailable("somebody reads the database for long, so the WAL cannot be copied")

    def close(self) -> None:
        """On the helper thread: copy what may be copied, for the last time."""
        try:
            self._copy(apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.Error, PetsemError, OSError) as e:
            log.warning("checkpoint_failed", error=type(e).__name__)
        self._checkpointer.close()

    async def _run(self, mode: int) -> bool:
        try:
            return await self._on_helper(self._copy, mode)
        except Exception as e:
            self._failures.note(e, "checkpoint")
            log.warning("checkpoint_failed", error=type(e).__name__)
            self._logging.look_again()
            return False

    def _copy(self, mode: int) -> bool:
        """On the helper thread: a checkpoint, and never of what is not in the log."""
        # Counted now: what another process has committed since is not in the log either.
        if not self._logging.before_checkpoint(self._checkpointer.count()):
            return False
        self._logging.reached(CHECKPOINT)
        if mode != apsw.SQLITE_CHECKPOINT_TRUNCATE or self._writer is None:
            return self._checkpointer.run(mode)
        # To every other connection an emptied WAL looks as if somebody had committed.
        self._writer.set_busy_timeout(_TRUNCATE_BUSY_MS)
        try:
            return self._checkpointer.run(mode, self._writer)
        finally:
            self._writer.set_busy_timeout(0)

    def _copy_all(self) -> Position | None:
        """On the helper thread, where no COMMIT can come between: the log's end, if the whole WAL
        is in the database file now."""
        capture = self._logging.capture
        if capture is None:
            raise unavailable("the node is changing its role; ask again in a moment")
        return capture.log.end if self._copy(apsw.SQLITE_CHECKPOINT_PASSIVE) else None

    async def _on_helper(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._helper, call, *args)
