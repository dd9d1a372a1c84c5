"""`petsem serve` whose disk fails at the n-th call, whatever is being done then:
`python -m tests.support.failing_calls OPERATION N once|on DIR`.

OPERATION is `write`, `sync` or `truncate`; counted are the calls of that kind from the start of the
process, SQLite's and the node's own, of all files. `once`: that call fails and no other; `on`: all
of the kind from there on. `DIR.met` is there once it has happened. After a clean stop `DIR.calls`
has how many calls there were of each kind; N = 0 fails none.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import apsw

from petsem.replication.drivers import database_file
from tests.support.failing_vfs import FULL, IO, FailingVfs

OPERATIONS: Final = ("write", "sync", "truncate")
_OWN: Final = {
    "pwrite": "write",
    "pwritev": "write",
    "write": "write",
    "fsync": "sync",
    "fdatasync": "sync",
    "ftruncate": "truncate",
}
"""What the node asks of the operating system by itself, for its log and its small files."""
_NUMBERS: Final = {IO: errno.EIO, FULL: errno.ENOSPC}


def command(operation: str, call: int, *, on: bool) -> tuple[str, ...]:
    """The program, for a `Daemon`."""
    how = "on" if on else "once"
    return sys.executable, "-m", "tests.support.failing_calls", operation, str(call), how


def met(directory: Path) -> Path:
    """The file that says that the call has failed."""
    return directory.with_name(directory.name + ".met")


def counted(directory: Path) -> dict[str, int]:
    """How many calls there were until the clean stop."""
    found: dict[str, int] = json.loads(_calls(directory).read_text())
    return found


def _calls(directory: Path) -> Path:
    return directory.with_name(directory.name + ".calls")


class _CallsVfs(FailingVfs):
    """Counts, and fails at one call of all."""

    def __init__(self, operation: str, call: int, *, on: bool, told: Path) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._on = on
        self._told = told
        if call:
            # Both kinds of error, each for every other call.
            self.fail(operation, "", call - 1, FULL if call % 2 else IO)

    def meet(self, operation: str, name: str) -> None:
        """Raise if this is the call."""
        self.calls[operation] += 1
        try:
            super().meet(operation, name)
        except apsw.Error:
            self._told.touch()
            if not self._on:
                self.heal()
            raise

    def own(self, operation: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A system call that counts as well."""

        @wraps(call)
        def meeting(*arguments: Any) -> Any:
            try:
                self.meet(operation, "")
            except apsw.Error as e:
                number = _NUMBERS[type(e)]
                raise OSError(number, os.strerror(number)) from None
            return call(*arguments)

        return meeting


def main(operation: str, call: str, how: str, directory: str) -> int:
    """Serve."""
    path = Path(directory)
    vfs = _CallsVfs(operation, int(call), on=how == "on", told=met(path))
    for name, kind in _OWN.items():
        setattr(os, name, vfs.own(kind, getattr(os, name)))
    # Whoever applies takes it as a default when its module is imported.
    assert "petsem.replication.drivers.apply" not in sys.modules
    database_file.VFS = vfs.name  # type: ignore[misc]
    from petsem.server import main as server

    try:
        return server.serve(path, insecure=False, environ=os.environ, vfs=vfs.name)
    finally:
        vfs.heal()
        _calls(path).write_text(json.dumps(vfs.calls))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
