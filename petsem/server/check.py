"""`petsem check`, and the cheap part of it that every start runs.

Guarantees: a check works on a copy, so a running node goes on and evidence stays as it is; it never
says what anything holds. Without a KEK it checks everything that needs none, and counts the rest.
It repairs nothing. Other nodes are asked only if the caller says how.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import apsw

from petsem.clock import Clock, SystemClock
from petsem.errors import Code, PetsemError
from petsem.server import check_rows, files
from petsem.server.check_envelopes import EnvelopeCheck
from petsem.server.check_files import NodeFiles, copy_database, open_copy, read_files
from petsem.server.check_leader import Ask, check_leader
from petsem.server.check_replication import check_image, check_log, read_image
from petsem.server.datadir import DataDir, NodeIdentity, NodeState
from petsem.server.findings import Findings, Report, Result
from petsem.server.keys import Keys
from petsem.server.schema import refuse_newer

SAMPLE: Final = 1_000


def check(
    data_dir: Path,
    environ: Mapping[str, str],
    *,
    everything: bool = False,
    sample: int = SAMPLE,
    ask: Ask | None = None,
    clock: Clock | None = None,
) -> Report:
    """Look at a data directory, its database, and of each type of sealed record a sample, or
    everything. A replica is compared with its leader, with `ask`.

    Raises `invalid` if it is no data directory, and `unavailable` if the database cannot even be
    copied, for want of room or because the disk fails.
    """
    clock = clock or SystemClock()
    datadir = DataDir(data_dir)
    if not datadir.node_file.exists():
        datadir.require()
    findings = Findings()
    with ExitStack() as stack:
        running = _is_running(datadir, stack)
        node = read_files(datadir, environ, findings)
        into = _scratch(environ.get("TMPDIR"))
        stack.callback(shutil.rmtree, into, ignore_errors=True)
        try:
            copy = copy_database(datadir, into, running=running)
        except PetsemError as e:
            if e.code is not Code.CORRUPT:
                raise
            findings.add("database", Result.PROBLEM, e.message)
            check_log(datadir, findings)
            return findings.report()
        how = "a copy, because the node is running" if running else "a copy"
        findings.add("database", Result.OK, f"looked at {how}")
        # After the copy: so it has what that has.
        log = check_log(datadir, findings)
        replica = node.state is not None and node.state.role == "replica"
        if replica and copy.stat().st_size == 0:
            findings.add("database", Result.OK, "empty: the node has not received its data yet")
            return findings.report()
        with findings.part("database"):
            with closing(open_copy(copy)) as db:
                _database(db, node, findings, None if everything else sample, clock.unix_ms())
            image = read_image(copy)
            if image is not None and log is not None:
                check_image(datadir, image, node.state, log, findings, running=running)
            if image is not None and replica and ask is not None:
                check_leader(datadir, copy, node, image, ask, findings)
    return findings.report()


def quick_check(
    db: apsw.Connection, identity: NodeIdentity | None = None, state: NodeState | None = None
) -> Report:
    """What a start can afford, however large the database: that it is of a version that this
    program knows, of this node, at a position that makes sense, and readable where it must be."""
    findings = Findings()
    parts: tuple[tuple[str, Callable[[], list[str]]], ...] = (
        ("schema", lambda: check_rows.schema(db)),
        ("header tables", lambda: check_rows.headers(db)),
        ("position", lambda: check_rows.position(db, identity, state)),
    )
    for name, part in parts:
        with findings.part(name):
            findings.judge(name, part(), "holds")
        if not findings.report().ok:
            break
    return findings.report()


def check_start(db: apsw.Connection, datadir: DataDir, identity: NodeIdentity) -> None:
    """Run the quick check before a start: `conflict` if the database is newer than this program,
    `corrupt` with the first thing that does not hold."""
    refuse_newer(db)
    problems = quick_check(db, identity, datadir.read_state()).problems
    if problems:
        raise PetsemError(Code.CORRUPT, f"{problems[0]}; run: petsem check {datadir.path}")


def _database(
    db: apsw.Connection, node: NodeFiles, findings: Findings, sample: int | None, now_ms: int
) -> None:
    with findings.part("schema"):
        problems = check_rows.schema(db)
        findings.judge("schema", problems, "of a version that this program knows")
        if problems:
            return
    parts: tuple[tuple[str, Callable[[], list[str]], str], ...] = (
        ("integrity", lambda: check_rows.integrity(db), "SQLite finds nothing wrong"),
        (
            "position",
            lambda: check_rows.position(db, node.identity, node.state),
            "position, epochs and node agree",
        ),
        ("claims", lambda: check_rows.claims(db), "nothing is of a position not yet reached"),
        ("counts", lambda: check_rows.counts(db), "what is stored twice agrees"),
    )
    for name, part, otherwise in parts:
        with findings.part(name):
            findings.judge(name, part(), otherwise)
    EnvelopeCheck(db, Keys(node.keyring), findings, sample).run(now_ms)


def _scratch(where: str | None) -> Path:
    """A new directory for the copy, for this user alone."""
    try:
        return Path(tempfile.mkdtemp(prefix="petsem-check-", dir=where))
    except OSError as e:
        raise files.cannot("make a directory in", Path(where or tempfile.gettempdir()), e) from e


def _is_running(datadir: DataDir, stack: ExitStack) -> bool:
    """Hold the directory's lock while it is checked, or learn that a node does."""
    try:
        stack.enter_context(datadir.lock())
    except PetsemError as e:
        if e.code is not Code.CONFLICT:
            raise
        return True
    return False
