"""The journal beside the database: kept while pages change, and rolled back after a crash.

Guarantees: a page is in the journal before its new content is in the database, and the rollback
itself is SQLite's own: whoever opens the database next does it, the stock shell as well as
`roll_back`. That is why there is no second implementation here: the one that every reader trusts
is also the one that the tests kill us against.
It does not guarantee that the journal survives a loss of power: the transaction log does, and the
node replays it from its last sync.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import apsw

from petsem.replication import journal
from petsem.replication.drivers.database_file import RUN_PAGES, read_run, runs

_FLAGS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


def journal_path(database: Path) -> Path:
    """Where SQLite looks for the journal: beside the file itself, not beside a link to it."""
    return Path(os.path.realpath(database) + "-journal")


class Journal:
    """The journal of one transaction; made under EXCLUSIVE, where no hot one is left."""

    def __init__(self, path: Path, vfs: str, size_pages: int) -> None:
        self._path = path
        self._nonce = int.from_bytes(os.urandom(4))
        # With the mode of the database, which SQLite looks up by the name.
        self._file = apsw.VFSFile(vfs, str(path), [_FLAGS, 0])
        self._end = 0
        if self._file.xFileSize():
            # A leftover that is not hot. Its records would count as ours.
            self._file.xTruncate(0)
        self._unwritten = journal.header(self._nonce, size_pages)

    def keep(self, database: apsw.VFSFile, pgnos: Iterable[int]) -> None:
        """Write down these pages as they are now. They are ascending and inside the file."""
        records = [self._unwritten]
        self._unwritten = b""
        held = 0
        for first, count in runs(pgnos):
            if held + count > RUN_PAGES:
                self._write(records)
                records = []
                held = 0
            records += [
                journal.record(self._nonce, pgno, page)
                for pgno, page in read_run(database, first, count)
            ]
            held += count
        self._write(records)

    def _write(self, records: list[bytes]) -> None:
        data = b"".join(records)
        if data:
            self._file.xWrite(data, self._end)
            self._end += len(data)

    def remove(self) -> None:
        """Make the transaction final.

        Removed rather than cut or cleared for the next one, which saves at most 30 of the 80 µs
        of an apply: a journal that stays is looked into by every read transaction, can be deleted
        under our descriptor by a program that writes, and mixes old records with new ones if the
        power goes.
        """
        self._file.xClose()
        self._path.unlink()

    def close(self) -> None:
        """Leave it behind, to be rolled back."""
        self._file.xClose()


def is_hot(path: Path) -> bool:
    """Whether somebody left a journal that is to be rolled back. Ask under a lock."""
    # Asked at each apply, and nearly always there is none: five times as fast as an error.
    if not os.access(path, os.F_OK):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return journal.looks_hot(os.read(descriptor, 1))
    finally:
        os.close(descriptor)


def roll_back(database: Path, vfs: str) -> None:
    """Have SQLite roll a hot journal back, unless somebody else is at it or in the way.

    Raises `apsw.Error` if the disk does not let it. What the database holds is not judged here: a
    replica whose machine lost power may have no readable page 1 until the log is replayed.
    """
    db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # The rollback comes before the first page is looked at.
        db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except (apsw.BusyError, apsw.CorruptError, apsw.NotADBError):
        pass
    finally:
        db.close(True)
