"""What whoever asked for a write is told when it fails.

Guarantees: each sentence says whether anything was stored, or that it is not known; none holds what
the job was given. A full disk gives its ballast back as soon as SQLite has met it.
"""

from __future__ import annotations

import traceback

import apsw
import structlog

from petsem.errors import Code, PetsemError, unavailable
from petsem.server.space import Space

log = structlog.get_logger(__name__)

_DISK_OR_MEMORY = (
    apsw.FullError, apsw.IOError, apsw.NoMemError, apsw.InterruptError,
    apsw.ReadOnlyError, apsw.CantOpenError,
)  # fmt: skip


class WriteFailures:
    """Tells failures apart; `last` is the last one that was the node's and not a request's."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self.last: str | None = None

    def note(self, cause: Exception, doing: str = "") -> None:
        """Keep what happened, and make room if the disk is full."""
        name = type(cause).__name__
        self.last = f"{doing}: {name}" if doing else name
        if isinstance(cause, apsw.FullError):
            self._space.exhausted()

    def refusal(self, cause: Exception) -> PetsemError:
        """What to tell whoever asked for a write that is known not to have happened."""
        if isinstance(cause, PetsemError):
            return cause
        self.note(cause)
        if isinstance(cause, apsw.FullError):
            return full()
        if isinstance(cause, _DISK_OR_MEMORY):
            return unavailable("the node could not write to its disk; see its log", retry_after_s=5)
        if isinstance(cause, apsw.CorruptError):
            return PetsemError(
                Code.CORRUPT, "the database is damaged on disk; run 'petsem check' on this node"
            )
        log.error("write_failed", error=type(cause).__name__, where=where(cause))
        return PetsemError(Code.INTERNAL, "internal error; see the node's log")


def where(error: Exception) -> str:
    """Where an error happened. Not its message, which might quote what the job was given."""
    return "".join(traceback.format_tb(error.__traceback__))


def full() -> PetsemError:
    """Nothing was stored: there is no room."""
    return unavailable(
        "the node's disk is full, so it takes no writes; free space on it", retry_after_s=5
    )


def log_unwritable() -> PetsemError:
    """Nothing was stored: what came before is not in the log yet, and cannot be."""
    return unavailable(
        "the node cannot write its transaction log, so it takes no writes; see its disk",
        retry_after_s=5,
    )


def unknown_outcome() -> PetsemError:
    """It may have been stored."""
    return PetsemError(
        Code.INDETERMINATE,
        "it is not known whether the write was stored; send it again with the same Idempotency-Key",
    )


def not_judged() -> PetsemError:
    """Nothing was stored of a request that failed beside others whose outcome is unknown."""
    return unavailable(
        "nothing was stored, because other writes at the same time failed; send it again",
        retry_after_s=1,
    )
