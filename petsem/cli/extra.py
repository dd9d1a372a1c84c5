"""Reaching the server's code, which the base install does not bring along.

Guarantees: where a library of the `server` extra is missing, one sentence says what to install, and
the exit code is that of what can never work; a missing module of our own is a fault and is reported
as one. Nothing is imported before its command runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from petsem.errors import invalid


@contextmanager
def server_extra() -> Iterator[None]:
    """Wrap the import of code that needs the `server` extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "petsem":
            raise
        raise invalid(
            "this command runs a node's own code, which is not installed; "
            "run: pip install 'petsem[server]'",
        ) from error
