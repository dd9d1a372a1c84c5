"""The part of `petsem check` that is about replication: the log, and the database against it.

Guarantees: looks at a copy of the database and at the log where it lies, and changes neither. If it
finds nothing wrong, every page of the database is what the log's checksum promises. Whether the
leader has the same there, `petsem.server.check_leader` asks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import apsw

from petsem.counted import counted
from petsem.model import Position
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_types import LogError
from petsem.replication.drivers.log_verify import Verification, verify
from petsem.replication.image import normalise
from petsem.replication.ltx import page_checksum
from petsem.replication.ltx.checksum import CHECKSUM_FLAG
from petsem.server.database import read_position
from petsem.server.datadir import DataDir, NodeState
from petsem.server.findings import Findings, Result


def check_log(datadir: DataDir, findings: Findings) -> Verification | None:
    """Every record of the log; None if it is not there, or could not be read to its end."""
    try:
        found = verify(datadir.log)
    except FileNotFoundError:
        findings.add(
            "log",
            Result.PROBLEM,
            "the transaction log ltx/ is not there: the node begins it anew, within a minute if it "
            "runs and else at its next start",
        )
        return None
    except (LogError, OSError) as e:
        findings.add(
            "log",
            Result.SKIPPED,
            f"the log changes faster than it can be read, or cannot be read ({type(e).__name__})",
        )
        return None
    findings.judge(
        "log", found.problems, f"{counted(found.records, 'file')}, up to {found.end or 'nothing'}"
    )
    return found


def read_image(copy: Path) -> Position | None:
    """Where `copy` stands, which nobody uses any more, with the checksum of all its pages; None if
    it cannot be read, and then what is wrong with it has been said."""
    db = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        at = read_position(db)
    except apsw.Error:
        return None
    finally:
        db.close()
    return dataclasses.replace(at, checksum=_checksum(copy, at))


def check_image(
    datadir: DataDir,
    at: Position,
    state: NodeState | None,
    log: Verification,
    findings: Findings,
    *,
    running: bool,
) -> None:
    """The pages of the database, which is `at`, against the log."""
    name = "database and log"
    leads = state is not None and state.role == "leader"
    place = dataclasses.replace(at, checksum=None)
    end = log.end
    if end is None or end.txid < at.txid:
        where = "nothing" if end is None else str(end)
        message = f"the database is at {place} and the log ends at {where}"
        if end is None and running:
            message = f"{message}: its files were deleted; the node begins it anew within a minute"
            findings.add(name, Result.PROBLEM, message)
        elif leads or running:
            findings.add(name, Result.OK, f"{message}; the WAL has the rest, and it is logged next")
        else:
            findings.add(name, Result.PROBLEM, f"{message}: a replica's log is never behind")
        return
    try:
        logged = LogReader.open_read_only(datadir.log).position_of(at.txid)
    except (LogError, OSError):
        logged = None
    if logged is None:
        findings.add(
            name,
            Result.OK,
            f"the database is at {place}, within one file of the log; not compared",
        )
        return
    problems = []
    if logged.epoch != at.epoch:
        problems.append(f"the database is at {place}, and the log has {logged} there")
    elif logged.checksum != at.checksum:
        problems.append(
            f"the pages of the database at {place} do not have the checksum that the log promises: "
            "a replica takes a snapshot from another node, a leader is restored or replaced"
        )
    findings.judge(name, problems, f"every page is what the log promises at {logged}")


def _checksum(copy: Path, at: Position) -> int:
    """The checksum of all pages, page 1 as the stream defines it."""
    file = PageReader(copy)
    rolling = 0
    try:
        for pgno, page in file.pages(1, file.size_pages()):
            canonical = normalise(page, at.epoch, at.txid) if pgno == 1 else page
            rolling ^= page_checksum(pgno, canonical)
    finally:
        file.close()
    return rolling | CHECKSUM_FLAG
