"""One family of errors, for every door.

Guarantees: a `PetsemError` carries a stable code and a sentence that is safe to show to whoever
asked. It does not carry values, tokens or key material, and nothing that a caller typed is quoted
in it except names that passed validation.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from petsem.model import Position


class Code(enum.StrEnum):
    """The stable codes. HTTP status, gRPC status and exit code each have one table over these."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    STALE = "stale"
    LIMIT = "limit"
    UNAVAILABLE = "unavailable"
    INDETERMINATE = "indeterminate"
    CORRUPT = "corrupt"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Detail:
    """What a program may need to act on an error. Everything unknown is None, never 0.

    `reason` is a token's refusal (`EXPIRED`, `CAVEAT`, …), `LOST`, `TOO_LARGE`, or between nodes
    `LOOP`; `caveat` the predicate that failed. Positions and versions say what the node has and
    what was asked for.
    """

    reason: str | None = None
    caveat: str | None = None
    have: Position | None = None
    need: Position | None = None
    have_version: int | None = None
    need_version: int | None = None
    retry_after_s: int | None = None


_NO_DETAIL = Detail()


class PetsemError(Exception):
    """An error with a code and one sentence: what happened and what to do next."""

    def __init__(self, code: Code, message: str, detail: Detail = _NO_DETAIL) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail


def invalid(message: str, *, reason: str | None = None) -> PetsemError:
    """The request can never work as it stands."""
    return PetsemError(Code.INVALID, message, Detail(reason=reason))


def not_found(message: str) -> PetsemError:
    """What was named is not there."""
    return PetsemError(Code.NOT_FOUND, message)


def conflict(message: str, **detail: object) -> PetsemError:
    """The state is not what the request assumed; read again, then decide."""
    return PetsemError(Code.CONFLICT, message, Detail(**detail))  # type: ignore[arg-type]


def unavailable(message: str, *, retry_after_s: int | None = None) -> PetsemError:
    """The node cannot do it now; the same request may work later or elsewhere."""
    return PetsemError(Code.UNAVAILABLE, message, Detail(retry_after_s=retry_after_s))


def limited(message: str, *, retry_after_s: int = 1) -> PetsemError:
    """Too much at once; try again after `retry_after_s` seconds."""
    return PetsemError(Code.LIMIT, message, Detail(retry_after_s=retry_after_s))
