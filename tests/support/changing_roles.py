"""A process that is leader and replica by turns on one file, and ends itself within a step.

`python -m tests.support.changing_roles DATABASE TURNS [write N | STEP N]`. Each turn adds a number
to the table, says on stdout that it is committed, and ends as a replica at that position. A run
starts wherever the last one was cut off.
"""

from __future__ import annotations

import sys
from pathlib import Path

import apsw

from petsem.replication import steps
from petsem.replication.drivers import role_change
from petsem.replication.drivers.apply import Applier
from petsem.server.database import open_writer
from tests.support.applying import KillingVfs, killing_step


def turn(path: Path, vfs: str, reached: steps.Reached) -> None:
    """Lead, write, and follow."""
    role_change.enter_wal(path, vfs=vfs, reached=reached)
    db = open_writer(path, vfs=vfs)
    db.execute("INSERT INTO numbers SELECT count(*) + 1 FROM numbers")
    (number,) = db.execute("SELECT max(n) FROM numbers").fetchall()[0]
    print(number, flush=True)
    db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()
    role_change.leave_wal(path, vfs=vfs, reached=reached)
    applier = Applier(path, vfs=vfs, reached=reached)
    role_change.normalise(applier, 1, number, reached=reached)
    applier.close()


def main(path: str, turns: str, what: str = "", calls: str = "0") -> None:
    """As many turns as were asked for, or until the fatal call."""
    killing = KillingVfs(int(calls) if what == "write" else 0)
    reached = killing_step(what, int(calls))
    for _ in range(int(turns)):
        turn(Path(path), killing.name, reached)


if __name__ == "__main__":
    main(*sys.argv[1:])
