"""Opening the database: the one place that decides how a connection behaves.

Guarantees: every connection that this module opens has the safety settings of
`docs/architecture.md`, and only the writer's can write. It holds no SQL of any feature.

A live database file is opened by SQLite alone: closing any other descriptor of it in this process
would drop SQLite's POSIX locks on the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Position
from petsem.server import sql

PAGE_SIZE: Final = 4096
OLDEST_SQLITE: Final = 3_051_003
READ_CACHE_KIB: Final = 32 * 1024
_LOOP_BUSY_MS: Final = 20
"""Statements on the loop may not wait for a lock; this only rides over recovery by a neighbour."""


def refuse_old_sqlite() -> None:
    """SQLite before 3.51.3 can corrupt a WAL database that two processes checkpoint."""
    if apsw.SQLITE_VERSION_NUMBER < OLDEST_SQLITE:
        raise PetsemError(
            Code.INVALID,
            f"the SQLite library is {apsw.sqlite_lib_version()}; "
            "petsem needs 3.51.3 or newer: update apsw",
        )


def open_writer(path: Path, *, vfs: str | None = None, create: bool = False) -> apsw.Connection:
    """The one connection that writes, in WAL mode with a sync at each commit."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)

    def prepare(db: apsw.Connection) -> None:
        if create:
            db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        mode = sql.rows(db, "PRAGMA journal_mode = wal")[0][0]
        if mode != "wal":
            raise unavailable("the database cannot enter WAL mode; see its disk")
        db.execute("PRAGMA synchronous = full")
        db.execute("PRAGMA secure_delete = on")
        db.execute("PRAGMA wal_autocheckpoint = 0")

    return _open(path, flags, vfs, prepare)


def open_reader(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that reads. It is opened read-write, because a read-only one cannot recover
    after a crash of the writer, and then told to refuse writes."""

    def prepare(db: apsw.Connection) -> None:
        db.execute("PRAGMA query_only = on")
        # Enough for the inner pages of a million secrets; it is taken only as it is used.
        db.execute(f"PRAGMA cache_size = -{READ_CACHE_KIB}")
        db.execute("PRAGMA wal_autocheckpoint = 0")

    return _open(path, apsw.SQLITE_OPEN_READWRITE, vfs, prepare)


def _open(
    path: Path, flags: int, vfs: str | None, prepare: Callable[[apsw.Connection], None]
) -> apsw.Connection:
    refuse_old_sqlite()
    db: apsw.Connection | None = None
    try:
        db = apsw.Connection(str(path), flags=flags, vfs=vfs)
        db.set_busy_timeout(_LOOP_BUSY_MS)
        # Without this the last connection to close checkpoints and deletes the WAL, behind the
        # back of whoever still has to read its frames.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        # Without this a join is planned again at each execution, because its parameters might
        # change the plan: two thirds of the time of the statements that a boot read needs.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        db.execute("PRAGMA cell_size_check = on")
        db.execute("PRAGMA foreign_keys = on")
        db.execute("PRAGMA temp_store = memory")
        prepare(db)
    except (apsw.Error, PetsemError) as e:
        if db is not None:
            db.close(True)
        if isinstance(e, apsw.Error):
            raise _not_opened(path, e) from e
        raise
    return db


def _not_opened(path: Path, error: apsw.Error) -> PetsemError:
    if isinstance(error, apsw.CantOpenError):
        return unavailable(f"the database {path.name} is not there or cannot be opened")
    if isinstance(error, apsw.NotADBError):
        return PetsemError(Code.CORRUPT, f"{path.name} is not a SQLite database")
    if isinstance(error, apsw.CorruptError):
        return PetsemError(Code.CORRUPT, f"{path.name} is damaged on disk; run 'petsem check'")
    # Locked by another process, or the disk fails.
    return unavailable(f"the database {path.name} cannot be opened ({type(error).__name__})")


def read_position(db: apsw.Connection) -> Position:
    """Where the database stands, as the transaction in which it is asked sees it."""
    epoch, txid = sql.rows(db, "SELECT epoch, txid FROM position")[0]
    return Position(epoch, txid)


class ReadPool:
    """Idle reading connections. Each is used by one caller at a time, on the loop or the helper.

    Reads on the loop never overlap, so it stays at one connection unless long listings run on the
    helper thread beside it.
    """

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self._path = path
        self._vfs = vfs
        self._idle: list[apsw.Connection] = []
        self._lent: set[apsw.Connection] = set()
        self._paused: str | None = None

    def reading(self) -> _Reading:
        """A connection for the length of one call; no transaction outlives it."""
        return _Reading(self, whole=False)

    def snapshot(self) -> _Reading:
        """As `reading`, with everything in one read transaction."""
        return _Reading(self, whole=True)

    def take(self) -> apsw.Connection:
        """A connection that nobody uses; `unavailable` while the pool is paused."""
        if self._paused is not None:
            raise unavailable(self._paused, retry_after_s=1)
        try:
            # Not asked for before: another thread may take the last one in between.
            db = self._idle.pop()
        except IndexError:
            db = open_reader(self._path, vfs=self._vfs)
        self._lent.add(db)
        return db

    def give_back(self, db: apsw.Connection) -> None:
        """End its use of the database, and keep it for the next."""
        if db.in_transaction:
            # For one that only read, this is how it lets its snapshot go.
            db.execute("COMMIT")
        if db in self._lent:
            self._lent.discard(db)
            self._idle.append(db)
        else:
            # Lent before the pool was paused.
            db.close()

    def lose(self, db: apsw.Connection) -> None:
        """Close one that raised: it may hold a cursor, and a new one costs little."""
        self._lent.discard(db)
        db.close(True)

    @property
    def in_use(self) -> int:
        """Connections that somebody has at the moment and that will be kept."""
        return len(self._lent)

    def pause(self, why: str) -> None:
        """Close what is idle and lend no more; what is in use is closed when it is given back."""
        self._paused = why
        self._lent.clear()
        while self._idle:
            self._idle.pop().close()

    def resume(self) -> None:
        """Lend connections again, all of them new ones."""
        self._paused = None

    def renew(self) -> None:
        """Begin with new connections, which have nothing of the database in their memory."""
        self.pause("the database was changed; ask again")
        self.resume()

    def close(self) -> None:
        """Lend no more, for good."""
        self.pause("the node is stopping; send the request to another node")


class _Reading:
    """One use of a connection. A class, because a generator's context manager takes several times
    as long, and every request enters one."""

    __slots__ = ("_db", "_pool", "_whole")

    def __init__(self, pool: ReadPool, *, whole: bool) -> None:
        self._pool = pool
        self._whole = whole

    def __enter__(self) -> apsw.Connection:
        self._db = db = self._pool.take()
        if self._whole:
            db.execute("BEGIN")
        return db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, PetsemError):
            self._pool.give_back(self._db)
            return
        self._pool.lose(self._db)
        if isinstance(error, apsw.Error):
            refusal = read_refusal(error)
            if refusal is not None:
                raise refusal from error


def read_refusal(error: apsw.Error) -> PetsemError | None:
    """What an error of SQLite means to whoever reads; None if it is a fault of the program."""
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return PetsemError(
            Code.CORRUPT, "the database is damaged on disk; run 'petsem check' on this node"
        )
    if isinstance(error, (apsw.BusyError, apsw.IOError, apsw.CantOpenError, apsw.NoMemError)):
        return unavailable("the node could not read its database; see its log", retry_after_s=1)
    return None
