"""The single writer: group commit on one connection.

Whatever waits goes into one SQLite transaction, a savepoint per request, one COMMIT, one TXID.
Statements run on the event loop and only COMMIT, checkpoints and the like on the helper thread:
under a busy loop a statement on another thread waits for the GIL at every call.

Guarantees: nobody is answered before the COMMIT that holds his savepoint; a request that fails
takes no other with it; an unknown outcome is called `indeterminate`, never success or failure.
Jobs may run more than once (the group may have to start again), so they change nothing but the
database. It does not decide who may write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import apsw
import structlog

from petsem import limits
from petsem.clock import Clock
from petsem.errors import PetsemError, limited, unavailable
from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.server import sql
from petsem.server.changes import REVOCATIONS, Changes
from petsem.server.database import open_writer
from petsem.server.logging_commits import Logging
from petsem.server.space import Space
from petsem.server.wal_copies import WalCopies
from petsem.server.write_failures import (
    WriteFailures,
    full,
    log_unwritable,
    not_judged,
    unknown_outcome,
    where,
)
from petsem.server.writing_connection import WritingConnection

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NOTHING: Mapping[Hashable, object] = MappingProxyType({})
_ENOUGH_TO_BEGIN = 8


class Txn:
    """What a job may use: the connection inside its savepoint, and where the transaction will be.

    `changed` collects the row numbers of apps whose current version moved (their bundles are made
    again once per group) and other topics that waiters are told of after the COMMIT; with each,
    what may help whoever finishes it, or None.
    """

    __slots__ = ("changed", "db", "now_ms", "position")

    def __init__(self, db: apsw.Connection, position: Position, now_ms: int) -> None:
        self.db = db
        self.position = position
        self.now_ms = now_ms
        self.changed: dict[Hashable, object] = {}


class _Request(Generic[T]):
    __slots__ = ("changed", "done", "error", "job", "outcome")

    def __init__(self, job: Callable[[Txn], T], done: asyncio.Future[T]) -> None:
        self.job = job
        self.done = done
        self.outcome: T | None = None
        self.error: Exception | None = None
        self.changed: Mapping[Hashable, object] = _NOTHING


class Writer:
    """Owns the writing connection; `submit` is the only way to change the database.

    `finish` runs before COMMIT, once for each topic that the group changed, with what each job said
    of it, in order (it makes bundles).
    """

    def __init__(
        self,
        path: Path,
        *,
        helper: ThreadPoolExecutor,
        clock: Clock,
        space: Space,
        changes: Changes,
        finish: Callable[[Txn, Hashable, list[object]], None],
        vfs: str | None = None,
        queue_max: int = limits.WRITE_QUEUE_MAX,
    ) -> None:
        self._path = path
        self._vfs = vfs
        self._clock = clock
        self._space = space
        self._failures = WriteFailures(space)
        self._changes = changes
        self._finish = finish
        self._queue: deque[_Request[Any]] = deque()
        self._queue_max = queue_max
        self._wake = asyncio.Event()
        self._closing = False
        self._logging = Logging(helper)
        self._copies = WalCopies(path, helper, self._logging, self._failures, vfs=vfs)
        self._connection = WritingConnection(
            self.open,
            helper=helper,
            clock=clock,
            changes=changes,
            logging=self._logging,
            copies=self._copies,
        )
        self._task: asyncio.Task[None] | None = None
        self.position = Position(0, 0)
        self.commits = 0
        self.requests = 0

    def open(self) -> apsw.Connection:
        """A writing connection of this writer's kind, for the work before `start`."""
        db = open_writer(self._path, vfs=self._vfs)
        # A lock that somebody else holds is waited for between tries, not on the loop.
        db.set_busy_timeout(0)
        return db

    @property
    def logging(self) -> Logging:
        """How its transactions come into the log."""
        return self._logging

    async def start(self, db: apsw.Connection, capture: Capture) -> None:
        """Take over `db`, already migrated, in its epoch and captured, and begin to serve."""
        self._closing = False
        self._logging.begin(capture)
        self.position = self._connection.adopt(db)
        self._task = asyncio.create_task(self._run(), name="writer")

    async def submit(self, job: Callable[[Txn], T]) -> T:
        """Run `job` in the next group; its result once the group is committed and synced."""
        if self._closing:
            raise unavailable("the node is stopping; send the request to another node")
        if len(self._queue) >= self._queue_max:
            raise limited("too many writes are waiting on this node; try again shortly")
        request: _Request[T] = _Request(job, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._wake.set()
        # A client that goes away cancels this future and nothing else: the job runs, its savepoint
        # stays in its group, and nobody is left to be told.
        return await request.done

    async def stop(self) -> None:
        """Finish what waits, refuse the rest, checkpoint and close."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._copies.settled()
        await self._connection.close()

    async def scrub(self) -> bool:
        """Between two groups, copy the WAL into the database and empty it, so that pages from
        before a destroy do not live on in it. Whether that is done: a reader can only delay it,
        and then it is tried again after each of the next groups."""
        if self._task is None or self._task.done():
            return False
        done = self._copies.scrub()
        self._wake.set()
        return await asyncio.shield(done)

    async def checkpointed(self) -> Position:
        """Have everything that was committed so far copied into the database file, and the position
        that it has then. `unavailable` if a reader keeps the WAL from being copied."""
        return await self._copies.whole()

    @property
    def last_error(self) -> str | None:
        """What failed last that was no request's fault."""
        return self._failures.last

    @property
    def running(self) -> bool:
        """Whether it has the database open and takes requests."""
        running = self._task is not None and not self._task.done()
        return running and self._connection.is_open and not self._closing

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._copies.asked:
                if self._queue:
                    await self._gather()
                    await self._group()
                    if self._connection.disturbed:
                        # Seen by a group that committed nothing, and by no later one.
                        await self._connection.tell_of_others()
                await self._copies.between_groups(idle=not self._queue)
            if self._closing:
                return

    async def _gather(self) -> None:
        """Let the loop turn for as long as each turn brings more requests: they come in bursts,
        after the answers of the last group. Some are enough to begin with; the others are read
        while those are committed, when there would be nothing else to do."""
        seen = 0
        while seen < len(self._queue) < _ENOUGH_TO_BEGIN:
            seen = len(self._queue)
            await asyncio.sleep(0)

    async def _group(self) -> None:
        try:
            self._space.check()
            db = await self._connection.begin()
        except Exception as e:
            self._connection.abandon()
            refusal = self._failures.refusal(e)
            while self._queue:
                _fail(self._queue.popleft(), refusal)
            return
        group: list[_Request[Any]] = []
        try:
            await self._fill_and_commit(db, group)
        except Exception as e:
            # Not a request's error: those are caught one by one. Whatever it is, the connection is
            # not to be trusted any further, and whether the group was stored is not known.
            log.error("group_failed", error=type(e).__name__, where=where(e))
            self._failures.note(e)
            await self._reopen()
            for request in group:
                _fail(request, unknown_outcome())

    async def _fill_and_commit(self, db: apsw.Connection, group: list[_Request[Any]]) -> None:
        position = Position(self.position.epoch, self.position.txid + 1)
        now_ms = self._clock.unix_ms()
        deadline_s = self._clock.boot_s() + limits.GROUP_MAX_S
        while self._queue and len(group) < limits.GROUP_MAX_REQUESTS:
            request = self._queue.popleft()
            group.append(request)
            self._attempt(db, request, position, now_ms)
            if not db.in_transaction:
                self._void(group)
                return
            if self._clock.boot_s() > deadline_s:
                break
        await self._end(db, group, position, now_ms)

    def _attempt(
        self, db: apsw.Connection, request: _Request[Any], position: Position, now_ms: int
    ) -> None:
        """Run one job in its savepoint and note its outcome; whoever called looks at the
        transaction afterwards, because SQLite may have ended it."""
        txn = Txn(db, position, now_ms)
        request.error = None
        try:
            db.execute("SAVEPOINT request")
            request.outcome = request.job(txn)
            db.execute("RELEASE request")
            request.changed = txn.changed
            if REVOCATIONS in txn.changed:
                # Also for those behind it in this group.
                self._changes.authority += 1
        except Exception as e:
            request.error = e
            if db.in_transaction:
                db.execute("ROLLBACK TO request")
                db.execute("RELEASE request")

    def _void(self, group: list[_Request[Any]]) -> None:
        """The last request of `group` made SQLite roll everything back: answer it alone, and put
        the others back to the front of the queue, to run again without it."""
        offender = group.pop()
        cause = offender.error
        assert cause is not None
        log.error("transaction_ended_by_sqlite", error=type(cause).__name__)
        _fail(offender, self._failures.refusal(cause))
        self._queue.extendleft(reversed(group))
        group.clear()

    async def _end(
        self, db: apsw.Connection, group: list[_Request[Any]], position: Position, now_ms: int
    ) -> None:
        good = [r for r in group if r.error is None]
        bad = [r for r in group if r.error is not None]
        if not good:
            db.execute("ROLLBACK")
            self._refuse(bad)
            return
        changed: dict[Hashable, list[object]] = {}
        for request in good:
            for topic, note in request.changed.items():
                changed.setdefault(topic, []).append(note)
        try:
            await self._finish_all(Txn(db, position, now_ms), changed)
            sql.run(db, "UPDATE position SET txid = ?", (position.txid,))
        except Exception as e:
            log.error("group_not_finished", error=type(e).__name__)
            if db.in_transaction:
                db.execute("ROLLBACK")
            refusal = self._failures.refusal(e)
            for request in group:
                _fail(request, refusal)
            return
        try:
            await self._logging.require()
        except OSError as e:
            db.execute("ROLLBACK")
            self._failures.note(e, "log")
            for request in group:
                _fail(request, log_unwritable())
            return
        try:
            await self._logging.committing(self._connection.commit, db, position, now_ms)
        except Exception as e:
            await self._commit_failed(good, position, e)
            for request in bad:
                _fail(request, not_judged())
            return
        self.position = position
        self.commits += 1
        self.requests += len(good)
        self._changes.publish(changed)
        for request in good:
            if not request.done.done():
                request.done.set_result(request.outcome)
        self._refuse(bad)

    def _refuse(self, bad: list[_Request[Any]]) -> None:
        """Answer those whose jobs failed: after the COMMIT too, because what they were refused for
        may be what others of their group did."""
        for request in bad:
            assert request.error is not None
            _fail(request, self._failures.refusal(request.error))

    async def _finish_all(self, txn: Txn, changed: dict[Hashable, list[object]]) -> None:
        deadline_s = self._clock.boot_s() + limits.GROUP_MAX_S
        for topic, notes in changed.items():
            self._finish(txn, topic, notes)
            if self._clock.boot_s() > deadline_s:
                await asyncio.sleep(0)
                deadline_s = self._clock.boot_s() + limits.GROUP_MAX_S

    async def _commit_failed(
        self, good: list[_Request[Any]], position: Position, cause: Exception
    ) -> None:
        """A COMMIT that raised may still have happened. Reopen, see where the database is, and call
        the outcome unknown; but a disk that was full before the commit frame got its place is a
        plain refusal, because a WAL without that frame can never show the transaction."""
        log.error("commit_failed", error=type(cause).__name__, position=str(position))
        self._failures.note(cause, "COMMIT")
        reopened = await self._reopen()
        absent = reopened and self.position.txid < position.txid
        answer = full() if isinstance(cause, apsw.FullError) and absent else unknown_outcome()
        for request in good:
            _fail(request, answer)
        self._changes.publish_all()

    async def _reopen(self) -> bool:
        """Whether the database is open again; False if the node is to stop before that."""
        at = await self._connection.reopen(lambda: self._closing)
        if at is None:
            return False
        self.position = at
        return True


def _fail(request: _Request[Any], error: PetsemError) -> None:
    if not request.done.done():
        request.done.set_exception(error)
        # The client may be gone, and then nobody else looks at it.
        request.done.exception()
