"""Bad files from other nodes, kept for whoever wants to know what was wrong with them.

Guarantees: a few of them, each no larger than one may be in the stream; the first ones stay. That
one cannot be kept changes nothing. Nothing reads them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from petsem import limits
from petsem.errors import PetsemError
from petsem.server import files

_PATTERN = "frame-*.ltx"


def keep(log_directory: Path, after_txid: int, data: bytes) -> None:
    """Put `data`, which came after `after_txid`, into `quarantine/`."""
    directory = log_directory / "quarantine"
    with contextlib.suppress(OSError, PetsemError):
        files.make_directory(directory)
        if len(list(directory.glob(_PATTERN))) < limits.FRAMES_KEPT_MAX:
            path = directory / f"frame-{after_txid:016x}.ltx"
            files.write_atomic(path, data[: limits.STREAM_FILE_MAX_BYTES])
