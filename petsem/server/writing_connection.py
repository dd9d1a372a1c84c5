"""The connection that the writer writes on, and what another process does to the same database.

Guarantees: what another process committed is seen inside the next transaction, and the log is told
of it before it is told of that one, or else when the connection is closed; a connection that failed
is closed before another is opened, and the log learns what the WAL holds then. BEGIN and everything
between runs on the loop; COMMIT, opening and closing run on the helper thread. It does not know
what is written, and answers nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import apsw
import structlog

from petsem.clock import Clock
from petsem.errors import PetsemError, unavailable
from petsem.model import Position
from petsem.replication.steps import COMMIT
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.database import read_position
from petsem.server.logging_commits import Logging
from petsem.server.wal_copies import WalCopies

log = structlog.get_logger(__name__)

T = TypeVar("T")

_BEGIN_TRIES: Final = 200
_BEGIN_PAUSE_S: Final = 0.01
_REOPEN_PAUSE_S: Final = 0.05
_REOPEN_PAUSE_MAX_S: Final = 5.0


class WritingConnection:
    """One at a time, made by `open_one`; `disturbed` says that another process has committed and
    that the log was not told yet."""

    def __init__(
        self,
        open_one: Callable[[], apsw.Connection],
        *,
        helper: ThreadPoolExecutor,
        clock: Clock,
        changes: Changes,
        logging: Logging,
        copies: WalCopies,
    ) -> None:
        self.disturbed = False
        self._open_one = open_one
        self._helper = helper
        self._clock = clock
        self._changes = changes
        self._logging = logging
        self._copies = copies
        self._db: apsw.Connection | None = None
        self._others = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a connection; none while it could not be opened again."""
        return self._db is not None

    def adopt(self, db: apsw.Connection) -> Position:
        """Write on `db` from now on; where its database is."""
        self._db = db
        position = read_position(db)
        self._others = _changes_of_others(db)
        self._copies.adopt(db)
        return position

    async def begin(self) -> apsw.Connection:
        """BEGIN IMMEDIATE; a foreign process may hold the write lock for a moment.

        What it raises may leave a transaction open: `abandon` it.
        """
        for _ in range(_BEGIN_TRIES):
            if self._db is None:
                raise unavailable("the node could not reopen its database; see its log")
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                await asyncio.sleep(_BEGIN_PAUSE_S)
            else:
                self._look_for_others(self._db)
                return self._db
        raise unavailable(
            "another process holds the database's write lock; end it", retry_after_s=5
        )

    def abandon(self) -> None:
        """Roll back whatever is open."""
        if self._db is not None and self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def commit(self, db: apsw.Connection, position: Position, now_ms: int) -> None:
        """On the helper thread."""
        self._logging.reached(COMMIT)
        db.execute("COMMIT")
        self._tell_of_others()
        self._logging.committed(self._copies.frames, position, now_ms)

    async def tell_of_others(self) -> None:
        """After a transaction that committed nothing: `commit` tells the log by itself."""
        await self._on_helper(self._tell_of_others)

    async def reopen(self, stopping: Callable[[], bool]) -> Position | None:
        """Try until the database is open again, and where it is then; None if the node is
        `stopping` before that."""
        pause_s = _REOPEN_PAUSE_S
        while True:
            try:
                return self.adopt(await self._on_helper(self._open_again))
            except (apsw.Error, PetsemError, OSError) as e:
                log.error("reopen_failed", error=type(e).__name__)
                if stopping():
                    return None
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _REOPEN_PAUSE_MAX_S)

    async def close(self) -> None:
        """Copy the WAL, close, and end the log; nothing if it is not open."""
        if self._db is not None:
            await self._on_helper(self._close, self._db)

    def _open_again(self) -> apsw.Connection:
        if self._db is not None:
            self._db.close(True)
            self._db = None
        db = self._open_one()
        frames, _ = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)
        self._tell_of_others()
        self._logging.reopened(frames, read_position(db), self._clock.unix_ms())
        return db

    def _look_for_others(self, db: apsw.Connection) -> None:
        """Inside a transaction: whether another process has committed one since the last. Its
        frames may be gone from the WAL by now, so that nothing else tells of it."""
        others = _changes_of_others(db)
        if others != self._others:
            self._others = others
            self.disturbed = True
            # Whatever it did: what was verified before is asked of the database again.
            self._changes.authority += 1
            log.warning(
                "database_changed",
                message="another process wrote to the database; the log begins anew with all of it",
            )

    def _tell_of_others(self) -> None:
        """On the helper thread, before what was committed is told."""
        if self.disturbed:
            self._logging.disturbed()
            self.disturbed = False

    def _close(self, db: apsw.Connection) -> None:
        if _changes_of_others(db) != self._others:
            self._logging.disturbed()
        self._copies.close()
        db.close()
        self._db = None
        self._logging.end()

    async def _on_helper(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._helper, call, *args)


def _changes_of_others(db: apsw.Connection) -> int:
    """A number that moves when another connection than `db` commits."""
    version: int = sql.rows(db, "PRAGMA data_version")[0][0]
    return version
