"""A SQLite VFS that fails on command: the n-th write or sync of files with a given suffix."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

import apsw

_SERIAL = itertools.count()
FULL: Final = apsw.FullError
IO: Final = apsw.IOError


class FailingVfs(apsw.VFS):
    """Register it by making it; `name` is for `vfs=`. Nothing fails until `fail` is called."""

    def __init__(self) -> None:
        self.name = f"petsem-failing-{next(_SERIAL)}"
        super().__init__(self.name, "")
        self._plan: tuple[str, str, int, type[apsw.Error]] | None = None
        self.failed = 0

    def fail(self, operation: str, suffix: str, after: int, error: type[apsw.Error]) -> None:
        """From the `after`-th call of `write`, `sync` or `truncate` on, until `heal`."""
        self._plan = (operation, suffix, after, error)

    def heal(self) -> None:
        """Let everything succeed again."""
        self._plan = None

    def meet(self, operation: str, name: str) -> None:
        """Raise if the plan says so."""
        if self._plan is None:
            return
        planned, suffix, after, error = self._plan
        if planned != operation or not name.endswith(suffix):
            return
        if after > 0:
            self._plan = (planned, suffix, after - 1, error)
            return
        self.failed += 1
        raise error(f"{operation} of {suffix or 'the database'} fails on command")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _File(self.meet, path, name, flags)


class _File(apsw.VFSFile):
    def __init__(
        self,
        meet: Callable[[str, str], None],
        path: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        super().__init__("", name, flags)
        self._meet = meet
        self._path = path

    def xWrite(self, data: bytes, offset: int) -> None:
        self._meet("write", self._path)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._meet("sync", self._path)
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        self._meet("truncate", self._path)
        super().xTruncate(size)
