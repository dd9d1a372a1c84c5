"""`petsem serve` over a SQLite VFS that counts syncs: `python -m tests.bench.counted DIR`.

At the end, the number is written to the file `syncs` in the directory. Only `xSync` is counted in
Python; everything else goes to the operating system as always.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import apsw

from petsem.server import main as server

_COUNTING = "petsem-counting"
_syncs = 0


class _File(apsw.VFSFile):
    def xSync(self, flags: int) -> None:
        global _syncs
        _syncs += 1
        super().xSync(flags)


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(_COUNTING, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:
        return _File("", name, flags)


def main() -> None:
    """Serve, then write the count."""
    directory = Path(sys.argv[1])
    vfs = _Vfs()
    code = server.serve(directory, insecure=False, environ=os.environ, vfs=_COUNTING)
    (directory / "syncs").write_text(str(_syncs))
    del vfs
    sys.exit(code)


if __name__ == "__main__":
    main()
