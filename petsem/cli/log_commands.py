"""`petsem log`: what is in a node's transaction log, out of it, and whether it holds.

Guarantees: the log is only read, whether the node runs or not; no file is overwritten. TXIDs are
shown as positions and file names show them, 16 hexadecimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from petsem.cli import exits
from petsem.cli.extra import server_extra
from petsem.cli.options import common, pass_run
from petsem.cli.output import Table, note, show, warn
from petsem.cli.run import Run
from petsem.cli.usage import Group
from petsem.clock import rfc3339
from petsem.counted import counted
from petsem.errors import Code, PetsemError, conflict, not_found, unavailable

if TYPE_CHECKING:
    from petsem.replication.drivers.log_reader import LogReader
    from petsem.replication.drivers.log_types import Gap, RecordInfo

_DIRECTORY = click.Path(path_type=Path)
_ROWS: Final = 1_000
_TXID = re.compile(r"[0-9a-f]{16}", re.ASCII)


class _Txid(click.ParamType[int]):
    name = "txid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if _TXID.fullmatch(value):
            return int(value, 16)
        if value.isascii() and value.isdecimal() and len(value) < 16:
            return int(value)
        return self.fail("", param, ctx)


_from = click.option(
    "--from",
    "from_txid",
    type=_Txid(),
    default=1,
    metavar="TXID",
    help="The first transaction: 16 hexadecimal digits, or fewer than 16 decimal ones.",
)
_to = click.option("--to", "to_txid", type=_Txid(), metavar="TXID", help="The last transaction.")


@click.group("log", cls=Group)
def log_group() -> None:
    """The transaction log in a node's directory, as LTX files."""


@log_group.command("list")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@_from
@_to
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=_ROWS,
    show_default=True,
    metavar="ROWS",
    help="The most rows to print.",
)
@common
@pass_run
def list_command(
    run: Run, directory: Path, from_txid: int, to_txid: int | None, limit: int
) -> None:
    """The log's files: their transactions, epoch, size, and time of the commit."""
    with _reading(directory) as log:
        records = list(islice(_wanted(log, from_txid, to_txid), limit + 1))
        gaps, base, end = log.gaps, log.base, log.end
    following = records[limit:]
    del records[limit:]
    told = {
        "base": None if base is None else str(base),
        "end": None if end is None else str(end),
        "gaps": [_gap(each) for each in gaps],
        "records": [_record(each) for each in records],
    }
    columns = ("FIRST", "LAST", "EPOCH", "BYTES", "TIME", "CHECKSUM AFTER")
    show(run, told, Table(columns, [tuple(_record(each).values()) for each in records]))
    _warn_of(gaps)
    for each in following:
        note(
            f"stopped after {counted(limit, 'row')}; to go on, run the same command with "
            f"--from {each.min_txid:016x}"
        )


@log_group.command("export")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("out", metavar="OUT", type=_DIRECTORY)
@_from
@_to
@common
@pass_run
def export_command(
    run: Run, directory: Path, out: Path, from_txid: int, to_txid: int | None
) -> None:
    """Write the log to the directory OUT as .ltx files, which the public ltx tool reads."""
    with _reading(directory) as log:
        from petsem.replication.drivers.log_export import export

        if next(_wanted(log, from_txid, to_txid), None) is None:
            raise not_found(f"no such transaction is in the log, which {_extent(log)}")
        count = size = 0
        first = last = None
        copied = export(log, out, after_txid=from_txid - 1, until_txid=to_txid)
        for info, _ in copied:
            count += 1
            size += info.length
            first = info.min_txid if first is None else first
            last = info.max_txid
        gaps = log.gaps
    told = {
        "directory": str(out),
        "files": count,
        "bytes": size,
        "first": f"{first:016x}",
        "last": f"{last:016x}",
    }
    show(run, told, line=f"in {out}: {counted(count, 'file')}, {counted(size, 'byte')}")
    _warn_of(gaps)


@log_group.command("verify")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@common
@pass_run
def verify_command(run: Run, directory: Path) -> None:
    """Read the whole log, decode every file, and check that each follows the one before.

    Exit code 0 only if everything holds, else 8.
    """
    path = _log_directory(directory)
    with server_extra():
        from petsem.replication.drivers.log_verify import verify
    with _translated(path):
        found = verify(path)
    told = {
        "ok": not found.problems,
        "base": None if found.base is None else str(found.base),
        "end": None if found.end is None else str(found.end),
        "records": found.records,
        "unfinished_bytes": found.unfinished_bytes,
        "problems": found.problems,
    }
    problems = Table(("PROBLEM",), [(each,) for each in found.problems])
    held = counted(found.records, "file holds", "files hold")
    line = None if found.problems else f"{held}, up to {found.end}"
    show(run, told, problems, line=line)
    if found.unfinished_bytes:
        unfinished = counted(found.unfinished_bytes, "byte at the end is", "bytes at the end are")
        note(
            f"{unfinished} of a record that was never synced; "
            "the node is writing it, or cuts it when it starts"
        )
    if found.problems:
        raise click.exceptions.Exit(exits.CORRUPT)


def _log_directory(directory: Path) -> Path:
    with server_extra():
        from petsem.server.datadir import DataDir
    datadir = DataDir(directory)
    datadir.require()
    return datadir.log


@contextmanager
def _reading(directory: Path) -> Iterator[LogReader]:
    path = _log_directory(directory)
    with server_extra():
        from petsem.replication.drivers.log_reader import LogReader
    with _translated(path):
        yield LogReader.open_read_only(path)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """What the log raises, as errors for people."""
    from petsem.replication.drivers.log_types import DamagedRecord, LogError
    from petsem.server.files import cannot

    try:
        yield
    except DamagedRecord as error:
        raise PetsemError(
            Code.CORRUPT, f"{error}; petsem log verify shows everything that does not hold"
        ) from error
    except LogError as error:
        raise unavailable("the node changed its log meanwhile; run it again") from error
    except FileExistsError as error:
        raise conflict(
            f"{error.filename2 or error.filename} exists already; name a new directory"
        ) from error
    except OSError as error:
        raise cannot("read or write", Path(error.filename or path), error) from error


def _wanted(log: LogReader, from_txid: int, to_txid: int | None) -> Iterator[RecordInfo]:
    for info in log.infos(from_txid - 1):
        if to_txid is not None and info.min_txid > to_txid:
            return
        yield info


def _record(info: RecordInfo) -> dict[str, Any]:
    return {
        "first": f"{info.min_txid:016x}",
        "last": f"{info.max_txid:016x}",
        "epoch": info.after.epoch,
        "bytes": info.length,
        "time": rfc3339(info.timestamp_ms),
        "checksum": f"{info.after.checksum:016x}",
    }


def _gap(gap: Gap) -> dict[str, str]:
    return {"after": str(gap.after), "until": str(gap.until)}


def _warn_of(gaps: tuple[Gap, ...]) -> None:
    for gap in gaps:
        warn(f"transactions after {gap.after} and up to {gap.until} are missing")


def _extent(log: LogReader) -> str:
    if log.base is None or log.end is None or log.base == log.end:
        return "is empty"
    return f"goes from {log.base.txid + 1:016x} to {log.end.txid:016x}"
