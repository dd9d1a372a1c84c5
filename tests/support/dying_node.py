"""`petsem serve` that ends itself at a named step, as `kill -9` does:
`python -m tests.support.dying_node STEP N DIR`, the N-th time that it comes to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from petsem.server import main as server
from tests.support.applying import killing_step


def command(step: str, times: int = 1) -> tuple[str, ...]:
    """The program, for a `Daemon`."""
    return sys.executable, "-m", "tests.support.dying_node", step, str(times)


def main(step: str, times: str, directory: str) -> int:
    """As the command line does, but for the end."""
    reached = killing_step(step, int(times))
    return server.serve(Path(directory), insecure=False, environ=os.environ, reached=reached)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
