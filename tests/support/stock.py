"""Readers that know nothing of us: the `sqlite3` shell where there is one, and Python's module.

Both run in processes of their own, with libraries of their own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SHELL: Final = shutil.which("sqlite3")

_MODULE: Final = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
for statement in sys.stdin:
    for row in db.execute(statement):
        print("|".join(map(str, row)), flush=True)
"""


def commands(path: Path) -> list[list[str]]:
    """A command each; it takes a statement a line from stdin and prints rows with bars."""
    found = [[sys.executable, "-c", _MODULE, str(path)]]
    if SHELL is not None:
        found.append([SHELL, "-cmd", ".timeout 5000", str(path)])
    return found


def ask(command: list[str], *statements: str) -> list[str]:
    """The rows of these statements."""
    done = subprocess.run(
        command, input="".join(f"{each}\n" for each in statements), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()
