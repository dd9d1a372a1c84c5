"""The steps that turn a leader's database into a replica's, and back, in the same file.

Leader to replica: `leave_wal`, `normalise`. Replica to leader: `enter_wal`.

Guarantees: each step may be repeated from any point at which it was cut off, and does nothing
where it is done already; a step that is refused leaves the database in the mode it was in and names
the processes in the way. One call is one attempt, and never sleeps.
It does not stop writers, drain the WAL into the log, close this process's connections or record the
role: whoever calls has done so, or will.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import apsw

from petsem.errors import Code, PetsemError, unavailable
from petsem.replication import steps
from petsem.replication.drivers import locks
from petsem.replication.drivers.apply import Applier, Busy
from petsem.replication.drivers.database_file import VFS, PageReader
from petsem.replication.drivers.holders import lock_holders
from petsem.replication.image import normalise as normalise_page
from petsem.replication.image import stamp
from petsem.replication.page_set import commit_of, stamp_of

_WAL: Final = "wal"
_ROLLBACK: Final = "delete"


class DatabaseInUse(PetsemError):  # noqa: N818 - it says what is in the way
    """Somebody has the database open, so that it cannot change its mode yet."""

    def __init__(self, pids: list[int]) -> None:
        named = ", ".join(str(pid) for pid in pids if pid != os.getpid())
        who = f"process {named}" if named else "this process" if pids else "somebody"
        super().__init__(
            Code.UNAVAILABLE, f"the role cannot change while {who} has the database open"
        )
        self.pids = pids


class WalNotEmpty(PetsemError):  # noqa: N818 - it says what is in the way
    """Transactions are still in the WAL; leaving it now might lose them to the log."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE, "the role cannot change before the WAL is logged and emptied"
        )


def leave_wal(path: Path, *, vfs: str = VFS, reached: steps.Reached = steps.nothing) -> None:
    """Put the database into rollback-journal mode, after a complete TRUNCATE checkpoint and with
    every connection of this process closed.

    Raises `WalNotEmpty`, `DatabaseInUse`, or `PetsemError` if it cannot be opened or written.
    """
    wal = Path(os.path.realpath(path) + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise WalNotEmpty
    reached(steps.ROLE_LEAVE_WAL)
    _enter(path, _ROLLBACK, vfs)


def enter_wal(path: Path, *, vfs: str = VFS, reached: steps.Reached = steps.nothing) -> None:
    """Put the database into WAL mode, with the applier closed.

    Raises `DatabaseInUse`, or `PetsemError` if it cannot be opened or written.
    """
    reached(steps.ROLE_ENTER_WAL)
    _enter(path, _WAL, vfs)


def normalise(
    applier: Applier, epoch: int, txid: int, *, reached: steps.Reached = steps.nothing
) -> None:
    """Make page 1 what the stream defines for this position, and the change durable. From then on
    the file is byte for byte what every replica has.

    Raises `DatabaseInUse` if a reader is in the way, and what the applier raises.
    """
    reached(steps.ROLE_NORMALISE)
    found, held_pages = _first_page(applier)
    wanted = normalise_page(found, epoch, txid)
    commit = commit_of(found)
    if wanted != found or held_pages != commit:
        outcome = applier.try_apply(
            [(1, wanted)],
            commit,
            before=stamp_of(found),
            after=stamp(epoch, txid),
            patience_s=locks.PENDING_MAX_S,
        )
        if isinstance(outcome, Busy):
            raise DatabaseInUse(lock_holders(applier.path))
    applier.sync()


def _first_page(applier: Applier) -> tuple[bytes, int]:
    """Page 1, and how many pages the file holds. Nobody else writes; the applier looks again."""
    pages = PageReader(applier.path, vfs=applier.vfs)
    try:
        found = pages.read(1)
        if found is None:
            raise PetsemError(Code.CORRUPT, "the database has no first page; run 'petsem check'")
        return found, pages.size_pages()
    finally:
        pages.close()


def _enter(path: Path, mode: str, vfs: str) -> None:
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    except apsw.Error as e:
        raise unavailable(f"the database {path.name} cannot be opened") from e
    in_use = entered = False
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # A leader that is started again may have frames in its WAL that are not logged yet: the
        # setting above keeps them there when this closes.
        entered = db.pragma("journal_mode", mode) == mode
    except apsw.BusyError:
        in_use = True
    except (apsw.CorruptError, apsw.NotADBError) as e:
        raise PetsemError(
            Code.CORRUPT, f"{path.name} is damaged on disk; run 'petsem check'"
        ) from e
    except apsw.Error as e:
        raise _refused(path) from e
    finally:
        db.close(True)
    if in_use:
        # Only now, when the lock of our own connection is gone.
        raise DatabaseInUse(lock_holders(path))
    if not entered:
        raise _refused(path)


def _refused(path: Path) -> PetsemError:
    return unavailable(f"the database {path.name} cannot change its mode on this disk")
