"""From the log into the database, behind whatever is durable.

Guarantees: transactions are applied in order and only once they are on the disk in the log; a
reader sees whole ones. What was just received is applied at once if it is small and nobody is in
the way; anything else is read back from the log, many transactions together and each page once, so
that a reader who stays costs this node neither memory nor its acknowledgements.
It never raises into its caller: a disk that refuses is tried again, and a database or log that does
not hold is reported once, by `failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain, islice
from typing import Final

import structlog

from petsem.model import Position
from petsem.replication.drivers.apply import Applied, Applier, ApplyFailed, Busy, PositionMismatch
from petsem.replication.drivers.locks import PENDING_MAX_S
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError
from petsem.replication.image import stamp
from petsem.replication.ltx import LtxError
from petsem.replication.page_set import NotApplicable
from petsem.server.replica.batches import read_batch
from petsem.server.replica.frames import Frame
from petsem.server.replica.offload import offload
from petsem.server.replica.patience import until_free

log = structlog.get_logger(__name__)

INLINE_MAX_PAGES: Final = 256
"""What is applied on the loop, in well under a millisecond."""
_BATCH_BYTES: Final = 1024 * 1024
_HELD_PAGES: Final = 1_024
_RETRY_S: Final = 1.0


class Applying:
    """`applied` is where the database is. `done(position, pages)` is told on the loop after each
    apply, `failed(what, error)` when it cannot go on by itself, `full()` when the disk is full."""

    def __init__(
        self,
        applier: Applier,
        transactions: TransactionLog,
        helper: Executor,
        applied: Position,
        *,
        done: Callable[[Position, int], None],
        failed: Callable[[str, Exception], None],
        full: Callable[[], None],
        retry_s: float = _RETRY_S,
    ) -> None:
        self.applied = applied
        self._applier = applier
        self._log = transactions
        self._helper = helper
        self._done = done
        self._failed = failed
        self._full = full
        self._retry_s = retry_s
        self._task: asyncio.Task[None] | None = None

    @property
    def behind(self) -> bool:
        """Whether something that is durable still has to be applied."""
        end = self._log.synced
        return end is not None and end.txid > self.applied.txid

    def received(self, frames: Sequence[Frame], at: Position) -> None:
        """`frames`, which follow `at`, are durable now."""
        if self._task is None and self.applied == at and self._now(frames):
            return
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="apply")

    async def settled(self) -> None:
        """Wait until everything durable is applied, or this has given up."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def resume(self) -> None:
        """Apply what is durable, if anything is left."""
        if self._task is None and self.behind:
            self._task = asyncio.create_task(self._drain(), name="apply")

    async def stop(self) -> None:
        """End the waiting for others; what is being written is finished first."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        # A try on the helper thread goes on when its waiter is gone.
        await offload(self._helper, _nothing)

    def _now(self, frames: Sequence[Frame]) -> bool:
        """On the loop, if that is quick; whether it has been done."""
        newest: dict[int, bytes] = {}
        for frame in frames:
            if frame.held is None or len(frame.held) > INLINE_MAX_PAGES:
                return False
            newest.update(frame.held)
            if len(newest) > INLINE_MAX_PAGES:
                return False
        last = frames[-1]
        commit, end = last.header.commit, last.end
        # A page above a size that the database had in between came with the growth after it.
        pages = sorted((pgno, page) for pgno, page in newest.items() if pgno <= commit)
        try:
            outcome = self._applier.try_apply(
                pages, commit, before=_stamp(self.applied), after=_stamp(end)
            )
        except Exception as e:
            self._not_applied(e)
            # A disk may take it later, from the log.
            return not isinstance(e, ApplyFailed)
        if isinstance(outcome, Busy):
            return False
        self._moved(end, outcome)
        return True

    async def _drain(self) -> None:
        try:
            while self.behind:
                found: list[Position] = []
                try:
                    attempt = partial(self._next, found)
                    outcome = await until_free(attempt, self._helper, self._applier.path)
                except Exception as e:
                    if not self._not_applied(e):
                        return
                    await asyncio.sleep(self._retry_s)
                    continue
                self._moved(found[-1], outcome)
        finally:
            self._task = None

    def _next(self, found: list[Position]) -> Applied | Busy:
        """One batch from the log, on the helper thread."""
        batch = read_batch(self._log, self.applied, _BATCH_BYTES)
        assert batch is not None
        found.append(batch.end)
        # Unpacked before readers are kept out.
        held = list(islice(batch.pages, _HELD_PAGES))
        return self._applier.try_apply(
            chain(held, batch.pages),
            batch.commit,
            before=_stamp(self.applied),
            after=_stamp(batch.end),
            patience_s=PENDING_MAX_S,
        )

    def _moved(self, end: Position, outcome: Applied) -> None:
        self.applied = end
        self._done(end, outcome.pages)

    def _not_applied(self, error: Exception) -> bool:
        """Report it; whether it is worth trying again."""
        match error:
            case ApplyFailed():
                log.error("apply_failed", message=error.message, disk_full=error.disk_full)
                if error.disk_full:
                    self._full()
                return True
            case PositionMismatch():
                self._failed("the database was changed by something else than this node", error)
            case NotApplicable() | LtxError() | LogError():
                self._failed("the log no longer holds what is to be applied", error)
            case _:
                log.error("apply_broken", exc_info=error)
                self._failed("a transaction could not be applied", error)
        return False


def _stamp(position: Position) -> int:
    return stamp(position.epoch, position.txid)


def _nothing() -> None:
    """Something for the helper thread to be done with."""
