"""Records of the log as `.ltx` files, named as the public `ltx` tool names them.

Guarantees: a file appears under its name whole and on the disk, or not at all; nothing is ever
overwritten. The epoch is not in a file: whoever keeps a branch notes it elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from petsem.replication.drivers.log_files import SYSTEM, Descriptor, LogOps
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_types import RecordInfo
from petsem.replication.ltx import format_name


def export(
    log: LogReader,
    directory: Path,
    *,
    after_txid: int = 0,
    until_txid: int | None = None,
    ops: LogOps = SYSTEM,
) -> Iterator[tuple[RecordInfo, Path]]:
    """Write every record with transactions after `after_txid` and up to `until_txid`.

    `directory` is made if it is not there. FileExistsError if a file is; those written before it
    stay. `DamagedRecord` as in reading.
    """
    if not directory.exists():
        directory.mkdir(mode=0o700)
        ops.fsync_directory(directory.parent)
    for info in log.infos(after_txid):
        if until_txid is not None and info.min_txid > until_txid:
            break
        path = directory / format_name(info.min_txid, info.max_txid)
        _write(log, info, path, ops)
        yield info, path
    ops.fsync_directory(directory)


def _write(log: LogReader, info: RecordInfo, path: Path, ops: LogOps) -> None:
    temporary = path.with_suffix(".tmp")
    ops.unlink(temporary)
    file = Descriptor(ops.create(temporary))
    try:
        at = 0
        for chunk in log.chunks(info.min_txid):
            ops.write(file.fd, (chunk,), at)
            at += len(chunk)
        ops.fsync(file.fd)
        # A link, because it fails where a rename would replace.
        os.link(temporary, path)
    finally:
        ops.unlink(temporary)
