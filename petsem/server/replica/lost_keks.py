"""Which KEKs the branches under `lost/` need, so that none is thrown away while a branch is kept.

Guarantees: beside a branch stand the ids of the KEKs that wrapped data keys where it was given up;
never a key. A branch of which that is not known needs every key. A branch that was deleted needs
none. It is read anew only when something in `lost/` came or went: others ask each second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import apsw
import msgspec

from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError
from petsem.server import files
from petsem.server.database import ReadPool
from petsem.server.datadir import DataDir
from petsem.server.store import keyring
from petsem.wire import petsem_pb2 as pb

FILE: Final = "keks.json"
EVERY: Final = b""
"""In place of an id: any key may be needed."""
IDS_MAX: Final = 64
"""Of one purpose; more are told as `EVERY`. A report has to stay small."""
_FILE_MAX_BYTES: Final = 1024 * 1024
_BRANCHES_MAX: Final = 1_000
_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

Needed = Mapping[Purpose, frozenset[bytes]]

_EVERYTHING: Final[Needed] = {purpose: frozenset({EVERY}) for purpose in Purpose}


def write(pool: ReadPool, directory: Path) -> None:
    """Note beside a branch, in its `directory`, which KEKs its last position needs. Where the
    database cannot be read nothing is noted. Raises `PetsemError` if the disk refuses."""
    try:
        with pool.snapshot() as db:
            ids = {
                purpose.value: [each.hex() for each in keyring.keks_in_use(db, purpose)]
                for purpose in Purpose
            }
    except (PetsemError, apsw.Error):
        return
    files.write_atomic(directory / FILE, msgspec.json.format(msgspec.json.encode(ids)) + b"\n")


class LostKeks:
    """What the branches of one node need."""

    def __init__(self, datadir: DataDir) -> None:
        self._directory = datadir.lost
        self._seen: object = None
        self._ids: list[pb.KekIds] = []

    def ids(self) -> list[pb.KekIds]:
        """The ids by purpose, as a node reports them; empty without branches."""
        try:
            branches = sorted(path for path in self._directory.iterdir() if path.is_dir())
            seen = [(path.name, path.stat().st_mtime_ns) for path in branches]
        except FileNotFoundError:
            return []
        except OSError:
            return _as_ids(_EVERYTHING)
        if seen != self._seen:
            self._ids = _as_ids(_needed(branches))
            self._seen = seen
        return self._ids


def _needed(branches: list[Path]) -> Needed:
    if len(branches) > _BRANCHES_MAX:
        return _EVERYTHING
    each = [_read(path) for path in branches]
    return {p: frozenset().union(*(needed[p] for needed in each)) for p in Purpose}


def _read(branch: Path) -> Needed:
    try:
        data = files.read_bounded(branch / FILE, _FILE_MAX_BYTES)
        noted = msgspec.json.decode(data, type=dict[str, list[str]])
        if all(_ID.fullmatch(each) for ids in noted.values() for each in ids):
            return {p: frozenset(bytes.fromhex(each) for each in noted[p.value]) for p in Purpose}
    except (PetsemError, OSError, ValueError, KeyError):
        pass
    return _EVERYTHING


def _as_ids(needed: Needed) -> list[pb.KekIds]:
    return [
        pb.KekIds(purpose=purpose.value, ids=sorted(ids) if len(ids) <= IDS_MAX else [EVERY])
        for purpose, ids in needed.items()
        if ids
    ]
