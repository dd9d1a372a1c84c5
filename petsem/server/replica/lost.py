"""Keeping a branch that this node is about to give up.

Guarantees: before a transaction of it is overwritten, `lost/FORK-to-END/` holds all of them as LTX
files, durably, with `names.json` beside them: what they were about, never a value, and `keks.json`:
which KEKs they need. Where the log no longer reaches back to the fork, one LTX file holds the whole
database instead. A branch that was
saved is not saved twice. Without room on the disk nothing is given up.

Nobody is asked if the other branch is the newer one and this one is short: at most
`limits.LOST_MAX_TRANSACTIONS` transactions and `limits.LOST_MAX_S` seconds, whichever is reached
first. If they did nothing but begin epochs they need no keeping.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw
import msgspec
import structlog

from petsem import limits
from petsem.counted import counted
from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError
from petsem.replication.image import PAGE_SIZE
from petsem.replication.ltx import Encoder, Header, format_name
from petsem.server import files
from petsem.server.database import ReadPool
from petsem.server.datadir import DataDir
from petsem.server.replica import lost_keks
from petsem.server.replica.errors import NeedsOperator
from petsem.server.replica.lost_names import LostNames, only_epochs, read_names
from petsem.server.space import free_bytes

NAMES: Final = "names.json"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Branch:
    """What this node has after `fork`. `start` is where its log can be read from: the fork, or
    None if the log begins later. `since_ms` is a time before the first transaction after it,
    if the log has one; `seconds` lie between the first and the last that it has."""

    fork: Position
    end: Position
    start: Position | None
    since_ms: int | None
    seconds: float

    @property
    def transactions(self) -> int:
        return self.end.txid - self.fork.txid


@dataclass(frozen=True, slots=True)
class Lost:
    """What was given up. `directory` is None if there was nothing to keep; `revoked` are the
    nonces of tokens that only this branch had revoked."""

    branch: Branch
    directory: Path | None
    revoked: list[bytes]


def give_up(
    datadir: DataDir,
    log: TransactionLog,
    pool: ReadPool,
    fork: Position,
    end: Position,
    *,
    higher: bool,
    forced: bool,
    command: str,
) -> Lost:
    """Keep what is between `fork` and `end`, if it needs keeping, and say what it is. On the helper
    thread, with everything applied.

    `higher`: the other branch has the higher epoch. `forced`: an operator has run `command`. Raises
    `NeedsOperator` if he has to be asked or there is no room, OSError or `PetsemError` if the disk
    refuses; then nothing of it is left.
    """
    branch = _branch_after(log, fork, end)
    if _is_noise(pool, branch):
        return Lost(branch, None, [])
    if not forced:
        _check_unasked(branch, higher=higher, command=command)
    saved = _save(datadir, log, pool, branch)
    assert saved.directory is not None
    logger.error(
        "branch_lost",
        fork=str(fork),
        end=str(end),
        transactions=branch.transactions,
        kept_in=str(saved.directory.relative_to(datadir.path)),
    )
    return saved


def _branch_after(log: TransactionLog, fork: Position, end: Position) -> Branch:
    """What the log says about everything after `fork`; a damaged one is as if it began later."""
    try:
        start = log.position_of(fork.txid)
        every = [(info.max_txid, info.timestamp_ms) for info in log.infos()]
    except LogError:
        start, every = None, []
    times = [at_ms for txid, at_ms in every if txid > fork.txid]
    if start is not None and fork.checksum is not None and start != fork:
        start = None
    seconds = (max(times) - min(times)) / 1000 if times else 0.0
    # What a crash left in the WAL was logged with the time of the next start, which is later than
    # the rows are: only a record that is older than these is known to be from before.
    before = [at_ms for txid, at_ms in every if txid <= fork.txid and at_ms < min(times, default=0)]
    since_ms = max(before) if before and start is not None else None
    return Branch(fork, end, start, since_ms, seconds)


def _check_unasked(branch: Branch, *, higher: bool, command: str) -> None:
    """`NeedsOperator` unless the branch may be given up without asking."""
    only_here = counted(branch.transactions, "transaction")
    what = f"this node has {only_here} that the cluster's leader has not"
    if not higher:
        raise NeedsOperator(f"{what}, on a branch that is not older; to give them up: {command}")
    short = (
        branch.transactions <= limits.LOST_MAX_TRANSACTIONS and branch.seconds <= limits.LOST_MAX_S
    )
    if not short:
        raise NeedsOperator(
            f"{what}, written over {branch.seconds:.0f} s; to keep a copy in lost/ and follow: "
            f"{command}"
        )


def _is_noise(pool: ReadPool, branch: Branch) -> bool:
    """Whether the branch did nothing but begin epochs; also nothing at all."""
    try:
        with pool.snapshot() as db:
            return only_epochs(db, branch.fork.txid, branch.end.txid)
    except (PetsemError, apsw.Error):
        return False


def _save(datadir: DataDir, log: TransactionLog, pool: ReadPool, branch: Branch) -> Lost:
    """Keep the branch under `lost/`."""
    directory = datadir.lost / f"{branch.fork}-to-{branch.end}"
    names = _names(pool, branch)
    if files.present(directory / NAMES):
        return Lost(branch, directory, names.revoked)
    _check_room(datadir, log, branch)
    # An attempt that was cut short; the names come last.
    shutil.rmtree(directory, ignore_errors=True)
    try:
        files.make_directory(datadir.lost)
        files.make_directory(directory)
        if branch.start is None:
            _save_whole(datadir, branch, directory)
        else:
            log.copy_range(branch.fork.txid, directory)
        body = {
            "fork": str(branch.fork),
            "end": str(branch.end),
            "transactions": branch.transactions,
            **names.body,
        }
        lost_keks.write(pool, directory)
        encoded = msgspec.json.format(msgspec.json.encode(body), indent=2)
        files.write_atomic(directory / NAMES, encoded + b"\n")
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Lost(branch, directory, names.revoked)


def _names(pool: ReadPool, branch: Branch) -> LostNames:
    try:
        with pool.snapshot() as db:
            return read_names(db, branch.fork.txid, branch.since_ms)
    except (PetsemError, apsw.Error):
        # A database that cannot be read is no reason to throw its log away.
        return LostNames({"unreadable": True}, [])


def _check_room(datadir: DataDir, log: TransactionLog, branch: Branch) -> None:
    need = limits.FREE_SPACE_RESERVE_BYTES
    if branch.start is None:
        need += datadir.database.stat().st_size
    else:
        need += sum(info.length for info in log.infos(branch.fork.txid))
    free = free_bytes(datadir.path)
    if free < need:
        raise NeedsOperator(
            "this node's branch has to be saved before it is given up, and the disk has no room "
            f"for it: free another {counted(need - free, 'byte')}"
        )


def _save_whole(datadir: DataDir, branch: Branch, directory: Path) -> None:
    """The database as one LTX file, from page 1 on."""
    assert branch.end.checksum is not None
    reader = PageReader(datadir.database)
    path = directory / format_name(1, branch.end.txid)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a name
            for piece in _whole(reader, branch.end, branch.end.checksum):
                file.write(piece)
            file.flush()
            os.fsync(fd)
        files.SYSTEM.fsync_directory(directory)
    finally:
        reader.close()


def _whole(reader: PageReader, at: Position, checksum: int) -> Iterable[bytes]:
    size = reader.size_pages()
    encoder = Encoder(
        Header(
            flags=0,
            page_size=PAGE_SIZE,
            commit=size,
            min_txid=1,
            max_txid=at.txid,
            timestamp_ms=0,
            pre_apply_checksum=0,
        )
    )
    yield encoder.start()
    for pgno, page in reader.pages(1, size):
        yield encoder.page(pgno, page)
    yield encoder.finish(checksum)
