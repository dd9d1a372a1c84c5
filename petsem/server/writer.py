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
import traceback
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
from petsem.errors import Code, PetsemError, limited, unavailable
from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.replication.steps import CHECKPOINT, COMMIT
from petsem.server import sql
from petsem.server.changes import REVOCATIONS, Changes
from petsem.server.checkpoint import Checkpointer
from petsem.server.database import open_writer, read_position
from petsem.server.logging_commits import Logging
from petsem.server.space import Space

log = structlog.get_logger(__name__)

T = TypeVar("T")
Connect = Callable[[], apsw.Connection]

_DISK_OR_MEMORY = (
    apsw.FullError, apsw.IOError, apsw.NoMemError, apsw.InterruptError,
    apsw.ReadOnlyError, apsw.CantOpenError,
)  # fmt: skip
_NOTHING: Mapping[Hashable, object] = MappingProxyType({})
_ENOUGH_TO_BEGIN = 8
_BEGIN_TRIES = 200
_BEGIN_PAUSE_S = 0.01
_COPY_TRIES = 100
_COPY_PAUSE_S = 0.05


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
        self._helper = helper
        self._clock = clock
        self._space = space
        self._changes = changes
        self._finish = finish
        self._queue: deque[_Request[Any]] = deque()
        self._queue_max = queue_max
        self._scrubs: list[asyncio.Future[bool]] = []
        self._scrub_due = False
        self._wake = asyncio.Event()
        self._closing = False
        self._db: apsw.Connection | None = None
        self._checkpointer = Checkpointer(path, vfs=vfs)
        self._logging = Logging(helper)
        self._task: asyncio.Task[None] | None = None
        self._copying: asyncio.Task[bool] | None = None
        self.position = Position(0, 0)
        self.commits = 0
        self.requests = 0
        self.last_error: str | None = None

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
        self._adopt(db)
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
        if self._copying is not None:
            await self._copying
        if self._db is not None:
            await self._on_helper(self._close)

    async def scrub(self) -> bool:
        """Between two groups, copy the WAL into the database and empty it, so that pages from
        before a destroy do not live on in it. Whether that is done: a reader can only delay it,
        and then it is tried again after each of the next groups."""
        if self._task is None or self._task.done():
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._scrubs.append(done)
        self._wake.set()
        return await asyncio.shield(done)

    async def checkpointed(self) -> Position:
        """Have everything that was committed so far copied into the database file, and the position
        that it has then. `unavailable` if a reader keeps the WAL from being copied."""
        for _ in range(_COPY_TRIES):
            try:
                position = await self._on_helper(self._copy_all)
            except (apsw.Error, OSError) as e:
                raise unavailable("the WAL could not be copied; see the node's log") from e
            if position is not None:
                return position
            await asyncio.sleep(_COPY_PAUSE_S)
        raise unavailable("somebody reads the database for long, so the WAL cannot be copied")

    @property
    def running(self) -> bool:
        """Whether it has the database open and takes requests."""
        running = self._task is not None and not self._task.done()
        return running and self._db is not None and not self._closing

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._scrubs:
                if self._queue:
                    await self._gather()
                    await self._group()
                await self._checkpoint()
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
            db = await self._begin()
        except Exception as e:
            refusal = self._refusal(e)
            while self._queue:
                _fail(self._queue.popleft(), refusal)
            return
        group: list[_Request[Any]] = []
        try:
            await self._fill_and_commit(db, group)
        except Exception as e:
            # Not a request's error: those are caught one by one. Whatever it is, the connection is
            # not to be trusted any further, and whether the group was stored is not known.
            log.error("group_failed", error=type(e).__name__, where=_where(e))
            self.last_error = type(e).__name__
            await self._reopen()
            for request in group:
                _fail(request, _unknown_outcome())

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
        _fail(offender, self._refusal(cause))
        self._queue.extendleft(reversed(group))
        group.clear()

    def _refusal(self, cause: Exception) -> PetsemError:
        """What to tell whoever asked for a write that is known not to have happened."""
        if isinstance(cause, PetsemError):
            return cause
        self.last_error = type(cause).__name__
        if isinstance(cause, apsw.FullError):
            self._space.exhausted()
            return _full()
        if isinstance(cause, _DISK_OR_MEMORY):
            return unavailable("the node could not write to its disk; see its log", retry_after_s=5)
        if isinstance(cause, apsw.CorruptError):
            return PetsemError(
                Code.CORRUPT, "the database is damaged on disk; run 'petsem check' on this node"
            )
        log.error("write_failed", error=type(cause).__name__, where=_where(cause))
        return PetsemError(Code.INTERNAL, "internal error; see the node's log")

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
            refusal = self._refusal(e)
            for request in group:
                _fail(request, refusal)
            return
        try:
            await self._logging.require()
        except OSError as e:
            db.execute("ROLLBACK")
            self.last_error = f"log: {type(e).__name__}"
            for request in group:
                _fail(request, _log_unwritable())
            return
        try:
            await self._logging.committing(self._commit, db, position, now_ms)
        except Exception as e:
            await self._commit_failed(good, position, e)
            for request in bad:
                _fail(request, _not_judged())
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
            _fail(request, self._refusal(request.error))

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
        full = isinstance(cause, apsw.FullError)
        if full:
            self._space.exhausted()
        self.last_error = f"COMMIT: {type(cause).__name__}"
        reopened = await self._reopen()
        absent = reopened and self.position.txid < position.txid
        answer = _full() if full and absent else _unknown_outcome()
        for request in good:
            _fail(request, answer)
        self._changes.publish_all()

    async def _reopen(self) -> bool:
        """Try until the database is open again; False if the node is to stop before that."""
        pause_s = 0.05
        while True:
            try:
                self._adopt(await self._on_helper(self._open_again))
                return True
            except (apsw.Error, PetsemError, OSError) as e:
                log.error("reopen_failed", error=type(e).__name__)
                if self._closing:
                    return False
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)

    def _open_again(self) -> apsw.Connection:
        if self._db is not None:
            self._db.close(True)
            self._db = None
        db = self.open()
        frames, _ = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)
        self._logging.reopened(frames, read_position(db), self._clock.unix_ms())
        return db

    def _adopt(self, db: apsw.Connection) -> None:
        self._db = db
        self.position = read_position(db)
        # The hook tells of what is committed from now on; the WAL may hold more.
        frames, _ = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)
        self._checkpointer.committed(db, "main", frames)
        db.set_wal_hook(self._checkpointer.committed)

    async def _begin(self) -> apsw.Connection:
        """BEGIN IMMEDIATE; a foreign process may hold the write lock for a moment."""
        for _ in range(_BEGIN_TRIES):
            if self._db is None:
                raise unavailable("the node could not reopen its database; see its log")
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                await asyncio.sleep(_BEGIN_PAUSE_S)
            except apsw.Error as e:
                raise self._refusal(e) from e
            else:
                return self._db
        raise unavailable(
            "another process holds the database's write lock; end it", retry_after_s=5
        )

    async def _checkpoint(self) -> None:
        scrubs, self._scrubs = self._scrubs, []
        if scrubs or (self._scrub_due and not self._queue):
            self._scrub_due = not await self._run_checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            for done in scrubs:
                done.set_result(not self._scrub_due)
            return
        mode = self._checkpointer.due(idle=not self._queue)
        if mode == apsw.SQLITE_CHECKPOINT_PASSIVE:
            # It holds nothing that a transaction needs, so the next group gathers meanwhile, and
            # finds the helper free again by the time it commits.
            if self._copying is None or self._copying.done():
                self._copying = asyncio.create_task(self._run_checkpoint(mode))
        elif mode is not None:
            await self._run_checkpoint(mode)

    async def _run_checkpoint(self, mode: int) -> bool:
        try:
            return await self._on_helper(self._copy_wal, mode)
        except Exception as e:
            if isinstance(e, apsw.FullError):
                self._space.exhausted()
            self.last_error = f"checkpoint: {type(e).__name__}"
            log.warning("checkpoint_failed", error=type(e).__name__)
            return False

    def _commit(self, db: apsw.Connection, position: Position, now_ms: int) -> None:
        """On the helper thread."""
        self._logging.reached(COMMIT)
        db.execute("COMMIT")
        self._logging.committed(self._checkpointer.frames, position, now_ms)

    def _copy_all(self) -> Position | None:
        """On the helper thread, where no COMMIT can come between: the log's end, if the whole WAL
        is in the database file now."""
        capture = self._logging.capture
        if capture is None:
            raise unavailable("the node is changing its role; ask again in a moment")
        return capture.log.end if self._copy_wal(apsw.SQLITE_CHECKPOINT_PASSIVE) else None

    def _copy_wal(self, mode: int) -> bool:
        """On the helper thread: a checkpoint, and never of what is not in the log."""
        if not self._logging.before_checkpoint(self._checkpointer.frames):
            return False
        self._logging.reached(CHECKPOINT)
        return self._checkpointer.run(mode)

    async def _on_helper(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._helper, call, *args)

    def _close(self) -> None:
        assert self._db is not None
        try:
            self._copy_wal(apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.Error, PetsemError, OSError) as e:
            log.warning("checkpoint_failed", error=type(e).__name__)
        self._checkpointer.close()
        self._db.close()
        self._db = None
        self._logging.end()


def _where(error: Exception) -> str:
    """Where an error happened. Not its message, which might quote what the job was given."""
    return "".join(traceback.format_tb(error.__traceback__))


def _full() -> PetsemError:
    return unavailable(
        "the node's disk is full, so it takes no writes; free space on it", retry_after_s=5
    )


def _log_unwritable() -> PetsemError:
    return unavailable(
        "the node cannot write its transaction log, so it takes no writes; see its disk",
        retry_after_s=5,
    )


def _unknown_outcome() -> PetsemError:
    return PetsemError(
        Code.INDETERMINATE,
        "it is not known whether the write was stored; send it again with the same Idempotency-Key",
    )


def _not_judged() -> PetsemError:
    return unavailable(
        "nothing was stored, because other writes at the same time failed; send it again",
        retry_after_s=1,
    )


def _fail(request: _Request[Any], error: PetsemError) -> None:
    if not request.done.done():
        request.done.set_exception(error)
        # The client may be gone, and then nobody else looks at it.
        request.done.exception()
