"""What a replica's disk may answer to what it is given."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from petsem.errors import Code, PetsemError

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What an OSError says when there is no room."""
FULL: Final = "its disk is full; free space on it"


class BadFrame(Exception):  # noqa: N818 (what came is bad)
    """What was received does not hold, and nothing of it was written. `reason` is safe to log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotContiguous(Exception):  # noqa: N818
    """What was received does not follow what is there; say anew where that ends."""


class NeedsOperator(Exception):  # noqa: N818
    """The node keeps its branch until a person accepts its loss. `message` says by which
    command."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class OwnDisk(PetsemError):  # noqa: N818
    """This node cannot store what comes: to follow somebody else would not help."""

    def __init__(self, why: str) -> None:
        super().__init__(Code.UNAVAILABLE, f"this node cannot store what it has replicated: {why}")


def disk_refused(error: OSError) -> OwnDisk:
    """An error of the disk in these words."""
    if error.errno in DISK_FULL:
        return OwnDisk(FULL)
    return OwnDisk("its disk fails; see its log, and the system's")


@contextlib.contextmanager
def disk_refusals() -> Iterator[None]:
    """Any OSError as `disk_refused`."""
    try:
        yield
    except OSError as e:
        raise disk_refused(e) from e
