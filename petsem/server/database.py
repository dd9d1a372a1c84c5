"""Opening the database: the one place that decides how a connection behaves.

Guarantees: every connection that this module opens has the safety settings of
`docs/architecture.md`, and only the writer's can write. It holds no SQL of any feature.

A live database file is opened by SQLite alone: closing any other descriptor of it in this process
would drop SQLite's POSIX locks on the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server import sql

PAGE_SIZE: Final = 4096
OLDEST_SQLITE: Final = 3_051_003
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
    db = _open(path, flags, vfs)
    if create:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    mode = sql.rows(db, "PRAGMA journal_mode = wal")[0][0]
    if mode != "wal":
        raise PetsemError(Code.UNAVAILABLE, "the database cannot enter WAL mode; see its disk")
    db.execute("PRAGMA synchronous = full")
    db.execute("PRAGMA secure_delete = on")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    return db


def open_reader(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that reads. It is opened read-write, because a read-only one cannot recover
    after a crash of the writer, and then told to refuse writes."""
    db = _open(path, apsw.SQLITE_OPEN_READWRITE, vfs)
    db.execute("PRAGMA query_only = on")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    return db


def _open(path: Path, flags: int, vfs: str | None) -> apsw.Connection:
    refuse_old_sqlite()
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
    except apsw.CantOpenError as e:
        raise PetsemError(
            Code.UNAVAILABLE, f"the database {path.name} cannot be opened; is its directory there?"
        ) from e
    except apsw.NotADBError as e:
        raise PetsemError(Code.CORRUPT, f"{path.name} is not a SQLite database") from e
    return db


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

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """A connection for the length of one call; no transaction outlives it."""
        db = self._idle.pop() if self._idle else open_reader(self._path, vfs=self._vfs)
        try:
            yield db
        except PetsemError:
            self._return(db)
            raise
        except apsw.CorruptError as e:
            db.close(True)
            raise PetsemError(
                Code.CORRUPT, "the database is damaged on disk; run 'petsem check' on this node"
            ) from e
        except BaseException:
            # A connection that raised may hold a cursor; a new one costs little.
            db.close(True)
            raise
        self._return(db)

    def _return(self, db: apsw.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        self._idle.append(db)

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """As `reading`, with everything in one read transaction."""
        with self.reading() as db:
            db.execute("BEGIN")
            yield db
            db.execute("COMMIT")

    def close(self) -> None:
        """Close what is idle; what is in use is closed by its user's own end."""
        while self._idle:
            self._idle.pop().close()
