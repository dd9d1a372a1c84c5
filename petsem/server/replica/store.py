"""A replica's own disk: the log first, then the database, and what becomes of both.

Guarantees: `durable` is on the disk, in the log, and was checked page by page against this node's
own checksums before it was written; `applied` is what readers see, never more than that. Bad data
from another node changes nothing. Where only a snapshot helps, `needs_snapshot` says so: the
database goes on answering as it is, and nothing is deleted until the snapshot has been verified.
It does not talk to other nodes. Calls that change something come one after the other; everything
that writes the log runs on the helper thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final

import structlog

from petsem import limits
from petsem.clock import Clock
from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication import steps
from petsem.replication.drivers import page_checksums
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log_types import DamagedRecord, LogDeleted
from petsem.replication.retention import DEFAULT, Retention
from petsem.replication.rolling import PageChecksums
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.database import ReadPool
from petsem.server.datadir import CLOSED, DataDir
from petsem.server.replica.applying import Applying
from petsem.server.replica.errors import (
    DISK_FULL,
    FULL,
    NotContiguous,
    OwnDisk,
    disk_refusals,
    disk_refused,
)
from petsem.server.replica.install import remember_synced
from petsem.server.replica.intake import Intake
from petsem.server.replica.lost import give_up
from petsem.server.replica.mending import Mending
from petsem.server.replica.offload import offload
from petsem.server.replica.receiving import Receiving
from petsem.server.replica.recovery import recover
from petsem.server.replica.replaying import Recovered
from petsem.server.replica.scanning import scan_all
from petsem.server.replica.telling import Listeners, Telling
from petsem.server.replica.upkeep import Upkeep, trim
from petsem.server.replica.whole import remember_whole
from petsem.server.space import Space

log = structlog.get_logger(__name__)

_NOWHERE: Final = Position(0, 0, 0)
_SETTLE_S: Final = 5.0


class ReplicaStore:
    """Made by `open`, in a directory whose role is replica, before anybody reads its database."""

    def __init__(
        self,
        datadir: DataDir,
        found: Recovered,
        *,
        helper: Executor,
        pool: ReadPool,
        changes: Changes,
        view: ClusterView,
        clock: Clock,
        space: Space,
        listeners: Listeners,
        accept_command: str,
        reached: steps.Reached,
    ) -> None:
        self.log = found.log
        self.problem = found.problem
        self._datadir = datadir
        self._applier = found.applier
        self._helper = helper
        self._pool = pool
        self._telling = Telling(pool, view, changes, listeners)
        self._clock = clock
        self._space = space
        self._accept_command = accept_command
        self._turn = asyncio.Lock()
        self._reader = PageReader(datadir.database)
        self._intake = Intake(datadir, helper, found.staged, reached)
        self._receiving = Receiving(found.log, found.table, self._reader, helper)
        self._mending = Mending(
            datadir, found.log, found.applier, self._receiving, self._reader, helper
        )
        self._upkeep = Upkeep(datadir, found.applier, helper, lambda: self._applying.applied)
        self._scan: asyncio.Task[None] | None = None
        self._mend_task: asyncio.Task[None] | None = None
        self._has_data = found.at is not None
        self._applying = self._applying_from(found.at or _NOWHERE)
        if found.at is not None:
            self._telling.readable(found.at)
        if found.problem is not None:
            view.lacking = f"this node cannot answer from its own data, because {found.problem}"
            log.error("replica_needs_snapshot", message=found.problem)

    @classmethod
    async def open(
        cls,
        datadir: DataDir,
        *,
        helper: Executor,
        pool: ReadPool,
        changes: Changes,
        view: ClusterView,
        clock: Clock,
        space: Space,
        listeners: Listeners | None = None,
        accept_command: str = "",
        segment_bytes: int = limits.LOG_SEGMENT_BYTES,
        reached: steps.Reached = steps.nothing,
    ) -> ReplicaStore:
        """Recover what is in the directory. `accept_command` is what an operator runs to give up
        this node's own branch.

        Raises `PetsemError` if the disk refuses; then it may be called again.
        """
        try:
            found = await recover(datadir, helper, reached, segment_bytes)
        except OSError as e:
            raise disk_refused(e) from e
        return cls(
            datadir,
            found,
            helper=helper,
            pool=pool,
            changes=changes,
            view=view,
            clock=clock,
            space=space,
            listeners=listeners or Listeners(),
            accept_command=accept_command,
            reached=reached,
        )

    # What it has

    @property
    def needs_snapshot(self) -> bool:
        """Whether transactions are of no use until a snapshot was taken."""
        return self.problem is not None or not self._has_data

    @property
    def durable(self) -> Position | None:
        """The end of what is on the disk; None without data, or if only a snapshot helps."""
        return None if self.needs_snapshot else self._receiving.end

    @property
    def applied(self) -> Position | None:
        """Where the database is; None without data."""
        return self._applying.applied if self._has_data else None

    @property
    def resume(self) -> tuple[Position, int] | None:
        """A snapshot that was interrupted: what its pages are of, and the next page."""
        return self._intake.resume

    @property
    def table(self) -> PageChecksums:
        """The checksums of the pages at `durable`."""
        return self._receiving.table

    @property
    def verified(self) -> bool:
        """Whether the whole database is known to be what its checksum says, so that a snapshot
        may be made of it."""
        return not self.needs_snapshot and self._receiving.verified

    def epochs(self) -> list[tuple[int, int, str]]:
        """(epoch, first TXID, leader) of the branch, ascending, as readers see it."""
        if not self._has_data:
            return []
        with self._pool.reading() as db:
            found = sql.rows(db, "SELECT epoch, first_txid, leader FROM epochs ORDER BY epoch")
        return [(epoch, first, leader) for epoch, first, leader in found]

    # What comes

    async def receive(self, batch: Sequence[tuple[int, bytes]]) -> None:
        """Store (epoch, LTX file) pairs that follow `durable` and each other, and apply them.

        Returns when they are durable; a reader may keep the applying waiting. What precedes the
        first bad one is stored. Raises `BadFrame`, `NotContiguous`, and `PetsemError` if the disk
        refuses.
        """
        async with self._turn:
            if self.needs_snapshot:
                raise NotContiguous("only a snapshot helps this node")
            if self._space.low:
                # Nobody else on a replica looks whether there is room again.
                with disk_refusals():
                    await offload(self._helper, self._space.restore)
            if self._space.low:
                raise OwnDisk(FULL)
            at = self._receiving.end
            frames, refusal = await self._receiving.receive(batch, self._datadir.log)
            if frames:
                self._telling.durable(self._receiving.end)
                self._applying.received(frames, at)
            if isinstance(refusal, LogDeleted):
                await self._begin_log_anew()
                raise OwnDisk("its log was deleted, and begins anew") from refusal
            if self._receiving.doubted:
                self._fail("its database does not have the pages that its checksum promises")
            if isinstance(refusal, OSError):
                if refusal.errno in DISK_FULL:
                    self._space.exhausted()
                raise disk_refused(refusal) from refusal
            if refusal is not None:
                raise refusal

    async def begin_snapshot(self, at: Position, pages: int, first_page: int) -> None:
        """A snapshot of `at` begins, or goes on at `first_page`."""
        async with self._turn:
            with disk_refusals():
                await self._intake.begin(at, pages, first_page)

    async def snapshot_pages(self, first_page: int, data: bytes) -> None:
        """The next pages of it, one after the other, unpacked."""
        async with self._turn:
            with disk_refusals():
                await self._intake.pages(first_page, data)

    async def snapshot_changes(self, end: Position, ltx: bytes) -> None:
        """Transactions since its pages, up to `end`, if they come in several files."""
        async with self._turn:
            with disk_refusals():
                await self._intake.changes(end, ltx)

    async def end_snapshot(self, at: Position, ltx: bytes) -> None:
        """`ltx` leads from what came to `at`, empty if nothing does: verify and apply it all."""
        async with self._turn:
            with disk_refusals():
                if ltx:
                    await self._intake.changes(at, ltx)
                await self._applying.stop()
                await self._upkeep.stop()
                try:
                    table = await self._intake.install(at, self._applier, self.log)
                except BaseException:
                    self._applying.resume()
                    raise
            self._take_over(at, table)

    async def roll_back(self, fork: Position, *, higher: bool, forced: bool) -> None:
        """What this node has after `fork` is of a branch that is gone: save it, and ask for a
        snapshot.

        `higher`: the other branch has the higher epoch. `forced`: an operator has accepted the
        loss. Raises `NeedsOperator`, and `PetsemError` if the disk refuses.
        """
        async with self._turn:
            if self.needs_snapshot:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._applying.settled(), _SETTLE_S)
            keep = partial(
                give_up,
                self._datadir,
                self.log,
                self._pool,
                fork,
                self._receiving.end,
                higher=higher,
                forced=forced,
                command=self._accept_command,
            )
            with disk_refusals():
                given_up = await offload(self._helper, keep)
            self._fail(f"what followed {fork} was of a branch that is gone")
            self._telling.lost(given_up)

    # Upkeep

    def start_scan(self) -> None:
        """Read pages whose checksum is not known, in the background."""
        if self._scan is None and not self.needs_snapshot and not self._receiving.verified:
            self._scan = asyncio.create_task(self._scan_all(), name="scan")

    async def sync(self) -> None:
        """Make what is applied survive a loss of power by itself."""
        if self._has_data:
            await self._upkeep.sync()

    async def trim(self, floor_txid: int | None, bounds: Retention = DEFAULT) -> None:
        """Shorten the log to what recovery and the followers need; they have `floor_txid`. One
        whose files were deleted begins anew."""
        async with self._turn:
            if not self.needs_snapshot and await offload(self._helper, self._log_is_deleted):
                await self._begin_log_anew()
        needed = self._datadir.read_state().synced_txid
        if needed is not None and not self.needs_snapshot:
            with disk_refusals():
                now_ms = self._clock.unix_ms()
                await offload(self._helper, trim, self.log, needed, floor_txid, now_ms, bounds)

    async def log_damaged(self, txid: int) -> None:
        """The record that holds `txid` was read and does not hold: set it aside. This node's
        database has it; followers that need it take a snapshot."""
        async with self._turn:
            if not self.needs_snapshot:
                await self._applying.stop()
                await self._mending.set_aside(txid, self._applying.applied)
                self._applying.resume()

    async def close(self) -> None:
        """A clean stop: the next start has nothing to do."""
        if self._scan is not None:
            self._scan.cancel()
            await asyncio.wait([self._scan])
        if self._mend_task is not None:
            await asyncio.wait([self._mend_task])
        async with self._turn:
            await self._applying.stop()
            await self._upkeep.stop()
            try:
                with disk_refusals():
                    await self._intake.stop()
                    await offload(self._helper, self._leave)
            finally:
                self._reader.close()
                self._applier.close()

    # Parts of these

    def _log_is_deleted(self) -> bool:
        return self.log.is_deleted(every_file=True)

    async def _begin_log_anew(self) -> None:
        """Files of the log were deleted. What is durable no more was applied, or is sent again."""
        log.error("log_deleted", message="files in ltx/ were deleted; the log begins anew")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._applying.settled(), _SETTLE_S)
        await self._applying.stop()
        with disk_refusals():
            await self._mending.begin_anew(self._applying.applied)
        self._applying.resume()

    def _applying_from(self, at: Position) -> Applying:
        return Applying(
            self._applier,
            self.log,
            self._helper,
            at,
            done=self._was_applied,
            failed=self._not_applied,
            full=self._space.exhausted,
        )

    def _was_applied(self, position: Position, pages: int) -> None:
        self._upkeep.wrote(pages)
        self._telling.applied(position)

    def _not_applied(self, what: str, error: Exception) -> None:
        if isinstance(error, DamagedRecord):
            # Not here: this is the applying that mending stops.
            self._mend_task = asyncio.create_task(self.log_damaged(error.txid), name="mend-log")
            return
        self._fail(what)

    def _fail(self, what: str) -> None:
        if self.problem is None:
            self.problem = what
            log.error("replica_needs_snapshot", message=what)
            self._telling.trouble(what)

    def _take_over(self, at: Position, table: PageChecksums) -> None:
        self.problem, self._has_data = None, True
        self._receiving.move(table)
        self._applying = self._applying_from(at)
        self._telling.jumped(at)

    async def _scan_all(self) -> None:
        receiving = self._receiving
        try:
            whole = await scan_all(
                lambda: receiving.table, lambda: receiving.end, self._reader, self._turn
            )
        except PetsemError as e:
            log.error("scan_failed", message=e.message)
            return
        receiving.verified = whole
        if not whole:
            with contextlib.suppress(PetsemError):
                await offload(self._helper, remember_whole, self._datadir, None)
            self._fail("pages of its database are damaged")

    def _leave(self) -> None:
        try:
            at = self._applying.applied
            if not self.needs_snapshot:
                self._applier.sync()
                remember_synced(self._datadir, at.txid)
                remember_whole(self._datadir, CLOSED)
                table = self.table
                if at == self._receiving.end and table.complete and table.verify():
                    page_checksums.save(self._datadir.path, table, at, self._datadir.database)
        finally:
            self.log.close()
