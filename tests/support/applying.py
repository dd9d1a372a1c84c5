"""A process that applies transactions and ends itself in the middle of one, as `kill -9` does.

`python -m tests.support.applying DATABASE TRANSACTIONS [write N | STEP N]`: the `page_source`
workload from wherever the database stands, killed in the N-th write or cut, of which a part still
happens, or at the N-th time that STEP is reached.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Never

import apsw

from petsem.replication.drivers import locks
from petsem.replication.drivers.apply import Applied, Applier, PositionMismatch
from tests.support.page_source import PageSource


def die() -> Never:
    """End at once, with nothing flushed, closed or rolled back."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Fatal:
    """Counts down to the fatal call."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def met(self) -> bool:
        """Whether this call is the one."""
        self._left -= 1
        return self._left == 0


class KillingVfs(apsw.VFS):
    """Kills the process within the n-th write, cut or deletion of any file."""

    def __init__(self, calls: int) -> None:
        self.name = "killing"
        super().__init__(self.name, "")
        self._fatal = Fatal(calls)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self._fatal, name, flags)

    def xDelete(self, name: str, sync_directory: bool) -> None:
        if self._fatal.met():
            die()
        super().xDelete(name, sync_directory)


class _File(apsw.VFSFile):
    def __init__(self, fatal: Fatal, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._fatal = fatal

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._fatal.met():
            part = random.randrange(len(data))
            if part:
                super().xWrite(bytes(data[:part]), offset)
            die()
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        if self._fatal.met():
            if random.random() < 0.5:
                super().xTruncate(size)
            die()
        super().xTruncate(size)


def killing_step(step: str, calls: int) -> Callable[[str], None]:
    """What a driver may call before its steps."""
    fatal = Fatal(calls)

    def reached(now: str) -> None:
        if now == step and fatal.met():
            die()

    return reached


def apply_all(applier: Applier, transactions: int) -> None:
    """From wherever the database stands to the end."""
    every = list(PageSource().workload(transactions))
    at = 0
    while at < len(every):
        made = every[at]
        try:
            outcome = applier.try_apply(
                made.pages,
                made.commit,
                before=made.before,
                after=made.after,
                patience_s=locks.PENDING_MAX_S,
            )
        except PositionMismatch as e:
            assert at == 0
            at = [each.after for each in every].index(e.found) + 1
            continue
        at += isinstance(outcome, Applied)


def main(path: str, transactions: str, what: str = "", calls: str = "0") -> None:
    """Run the workload, or a part of it."""
    # Held, because SQLite forgets a VFS that Python lets go.
    killing = KillingVfs(int(calls))
    if what == "write":
        applier = Applier(Path(path), vfs=killing.name)
    else:
        applier = Applier(Path(path), reached=killing_step(what, int(calls)))
    apply_all(applier, int(transactions))
    applier.sync()
    applier.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
