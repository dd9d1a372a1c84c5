"""Logs of small segments, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_files import LogOps
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_recovery import Damage
from petsem.replication.drivers.log_types import DamagedRecord
from petsem.replication.segment import SegmentName
from tests.support.ltx_files import Chain

SMALL: Final = 4096
"""Bytes of a segment in these tests: about a dozen of the shortest records."""


def opened(directory: Path, **options: Any) -> TransactionLog:
    """A log of small segments."""
    return TransactionLog.open(directory, **{"segment_bytes": SMALL, **options})


def filled(log: TransactionLog, chain: Chain, count: int, epoch: int = 1) -> list[bytes]:
    """`count` more files at the end of the log, not synced."""
    files = []
    for _ in range(count):
        files.append(chain.next(epoch))
        log.append(epoch, files[-1])
    return files


def contents(log: LogReader, after_txid: int | None = None) -> list[bytes]:
    """All files that follow `after_txid` (default: the base), as far as there is no gap."""
    found: list[bytes] = []
    base = log.base
    if base is None:
        return found
    at = base.txid if after_txid is None else after_txid
    ends = {gap.after.txid for gap in log.gaps}
    while at not in ends:
        records = log.read(at, 1 << 16)
        if not records:
            break
        found += [record.data for record in records]
        at = records[-1].max_txid
    return found


def segment_files(directory: Path) -> list[Path]:
    """The segments in the order of their transactions."""
    return sorted(path for path in directory.iterdir() if SegmentName.parse(path.name))


def alter(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip a bit of a file."""
    alter(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))


def all_files(directory: Path) -> dict[str, bytes]:
    """Every file of the directory with its bytes."""
    paths: Iterable[Path] = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


class Quick(LogOps):
    """Nothing is synced, where a test is not about syncing."""

    def fdatasync(self, fd: int) -> None:
        pass

    def fsync(self, fd: int) -> None:
        pass

    def fsync_directory(self, path: Path) -> None:
        pass


def everything(log: TransactionLog) -> tuple[dict[int, bytes], list[Damage]]:
    """Every file that can be read, by its first TXID, and all damage, reported or met.

    What is met is quarantined, as the log's owner does it.
    """
    damage = list(log.report.damage)
    while True:
        try:
            found = {}
            for info in list(log.infos()):
                record = log.record_at(info.min_txid)
                assert record is not None
                found[info.min_txid] = record.data
        except DamagedRecord as error:
            met = log.quarantine(error.txid)
            if not met:
                raise
            damage += met
        else:
            return found, damage
