"""`petsem serve` over a disk that fails when told to: `python -m tests.support.failing_node DIR`.

Orders are files beside the directory, so that whoever started the process can give them:

    DIR.fault  {"operation": "write" | "sync", "suffix", "error": "full" | "io", "after", "times"}
    DIR.free   how many bytes are free on the disk, as the node is told

A fault holds as long as its file is there; with `times` the file is removed once it was met so
often. What is not ordered goes to the operating system as always.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import apsw

from petsem.server import main as server
from tests.support.daemon import Daemon
from tests.support.failing_vfs import FULL, IO, FailingVfs

COMMAND: Final = (sys.executable, "-m", "tests.support.failing_node")
_ERRORS: Final[dict[str, type[apsw.Error]]] = {"full": FULL, "io": IO}


class FailingNode(Daemon):
    """Such a process, and the orders for it."""

    def __init__(self, directory: Path, **more: Any) -> None:
        super().__init__(directory, command=COMMAND, **more)
        self._fault = _beside(directory, "fault")
        self._free = _beside(directory, "free")

    def fail(
        self, operation: str, suffix: str, error: str, *, after: int = 0, times: int | None = None
    ) -> None:
        """From the `after`-th such operation on, `times` times or until `heal`."""
        order = {"operation": operation, "suffix": suffix, "error": error}
        _put(self._fault, json.dumps({**order, "after": after, "times": times}))

    def free(self, size: int) -> None:
        """Have the node believe that so many bytes are left on its disk, until `heal`."""
        _put(self._free, str(size))

    def heal(self) -> None:
        """Take all orders back."""
        self._fault.unlink(missing_ok=True)
        self._free.unlink(missing_ok=True)

    @property
    def met(self) -> bool:
        """Whether a fault that was to happen so many times has."""
        return not self._fault.exists()


def _beside(directory: Path, what: str) -> Path:
    return directory.with_name(f"{directory.name}.{what}")


def _put(path: Path, text: str) -> None:
    whole = path.with_name(path.name + ".new")
    whole.write_text(text)
    whole.replace(path)


@dataclass
class _Order:
    operation: str
    suffix: str
    error: type[apsw.Error]
    after: int
    times: int | None


class _OrderedVfs(FailingVfs):
    def __init__(self, fault: Path) -> None:
        super().__init__()
        self._file = fault
        self._read_as_of = 0
        self._order: _Order | None = None

    def meet(self, operation: str, name: str) -> None:
        """Raise if the order in force says so."""
        order = self._in_force()
        if order is None or order.operation != operation or not name.endswith(order.suffix):
            return
        if order.after > 0:
            order.after -= 1
            return
        if order.times is not None:
            order.times -= 1
            if order.times == 0:
                self._file.unlink()
        raise order.error(f"{operation} of {order.suffix} fails as ordered")

    def _in_force(self) -> _Order | None:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            self._order, self._read_as_of = None, 0
            return None
        if found.st_ino != self._read_as_of:
            said = json.loads(self._file.read_text())
            self._order = _Order(**{**said, "error": _ERRORS[said["error"]]})
            self._read_as_of = found.st_ino
        return self._order


def _tell_free_space_from(said: Path) -> None:
    """Have the system's answer about free space say what the file says, if it is there."""
    ask = os.statvfs

    def statvfs(path: int | str | bytes | os.PathLike[Any]) -> os.statvfs_result:
        true = ask(path)
        with suppress(FileNotFoundError):
            blocks = int(said.read_text()) // true.f_frsize
            return os.statvfs_result((*true[:4], blocks, *true[5:]))
        return true

    os.statvfs = statvfs


def main() -> None:
    """Serve."""
    directory = Path(sys.argv[1])
    vfs = _OrderedVfs(_beside(directory, "fault"))
    _tell_free_space_from(_beside(directory, "free"))
    sys.exit(server.serve(directory, insecure=False, environ=os.environ, vfs=vfs.name))


if __name__ == "__main__":
    main()
