"""`petsem serve` that ends itself before a step: `python -m tests.support.failing_step DIR`.

The order is a file beside the directory, `DIR.step`: the name of a step and at which of its times,
counted from when the file is first seen. The file is removed before the process ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from petsem.server import main as server
from tests.support.applying import Fatal, die
from tests.support.daemon import Daemon

COMMAND: Final = (sys.executable, "-m", "tests.support.failing_step")


class FatalNode(Daemon):
    """Such a process."""

    def __init__(self, directory: Path, **more: Any) -> None:
        super().__init__(directory, command=COMMAND, **more)
        self._order = _order_of(directory)

    def die_before(self, step: str, times: int = 1) -> None:
        """End the process before it takes that step for the `times`-th time from now on."""
        new = self._order.with_suffix(".new")
        new.write_text(f"{step} {times}")
        new.replace(self._order)

    @property
    def died(self) -> bool:
        """Whether an order was carried out."""
        return not self._order.exists()


def _order_of(directory: Path) -> Path:
    return directory.with_name(directory.name + ".step")


class _Listener:
    def __init__(self, order: Path) -> None:
        self._order = order
        self._step = ""
        self._fatal = Fatal(0)

    def __call__(self, step: str) -> None:
        """Look at the order, and follow it."""
        if not self._step and self._order.exists():
            self._step, times = self._order.read_text().split()
            self._fatal = Fatal(int(times))
        if step == self._step and self._fatal.met():
            self._order.unlink()
            die()


def main() -> None:
    """Serve."""
    directory = Path(sys.argv[1])
    listener = _Listener(_order_of(directory))
    sys.exit(server.serve(directory, insecure=False, environ=os.environ, reached=listener))


if __name__ == "__main__":
    main()
