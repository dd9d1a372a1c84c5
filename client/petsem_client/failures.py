"""What went wrong with one attempt, as an error of the one family and what to do about it.

Guarantees: every gRPC status maps to a `PetsemError`; the node's own `ErrorDetail` counts before
the status; text from the network is bounded, printable and rid of anything like a token before it
is part of a message. It decides nothing about endpoints; `sessions` does.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from petsem.errors import Code, PetsemError, unavailable
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import CAVEAT_MAX_CHARS, STATUS_KEY, decode_status, detail_of

SENTENCE_MAX_CHARS: Final = 300

REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\uffff]+")
# Ours, and other libraries' macaroons: with a location the binary starts `AgE`, without `AgI`.
_TOKEN = re.compile(r"petsem_[A-Za-z0-9_.,-]*|Ag[EI][A-Za-z0-9_-]{32,}", re.ASCII)

_CODE_OF_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID,
    grpc.StatusCode.UNAUTHENTICATED: Code.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Code.DENIED,
    grpc.StatusCode.NOT_FOUND: Code.NOT_FOUND,
    grpc.StatusCode.ABORTED: Code.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: Code.STALE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.LIMIT,
    grpc.StatusCode.UNAVAILABLE: Code.UNAVAILABLE,
    # Without a word from the node itself these are the connection's end, not the node's answer;
    # and a read that timed out has left nothing indeterminate.
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Code.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: Code.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS: Code.CORRUPT,
}


_KNOWN_CODES: Final = frozenset(code.value for code in Code)


class Retry(enum.Enum):
    """What may help after a failure."""

    NO = enum.auto()
    """Every node would say the same."""
    ELSEWHERE = enum.auto()
    """Another node may do better; this one will not."""
    LATER = enum.auto()
    """Another node, or this one in a moment."""


_RETRY: Final = {
    Code.INVALID: Retry.NO,
    Code.UNAUTHENTICATED: Retry.NO,
    Code.DENIED: Retry.NO,
    Code.NOT_FOUND: Retry.NO,
    Code.CONFLICT: Retry.NO,
    Code.STALE: Retry.LATER,
    Code.LIMIT: Retry.LATER,
    Code.UNAVAILABLE: Retry.LATER,
    Code.INDETERMINATE: Retry.LATER,
    # One node's damaged disk or bug is no reason to leave a machine without its secrets.
    Code.CORRUPT: Retry.ELSEWHERE,
    Code.INTERNAL: Retry.ELSEWHERE,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that brought no answer. `server_time_ms` is None if the node did not say."""

    error: PetsemError
    retry: Retry
    server_time_ms: int | None = None
    timed_out: bool = False
    """Our own deadline for the attempt passed."""

    @property
    def tires(self) -> bool:
        """Whether the node, rather than this one request, is in trouble."""
        return self.error.code in (Code.UNAVAILABLE, Code.INDETERMINATE)


def failure_of(
    status: grpc.StatusCode,
    message: str | None,
    trailing: Iterable[Any] | None,
) -> Failure:
    """The failure that a gRPC status, its message and its trailing (key, value) pairs describe."""
    detail = _detail(trailing)
    code = _CODE_OF_STATUS.get(status, Code.INTERNAL)
    sentence = safe_text(message or "")
    if detail is None:
        retry = _RETRY[code]
        if status is grpc.StatusCode.UNIMPLEMENTED:
            retry, sentence = Retry.ELSEWHERE, "this is not Petsem's gRPC port"
        elif status is grpc.StatusCode.DEADLINE_EXCEEDED:
            sentence = "no answer in time"
        timed_out = status is grpc.StatusCode.DEADLINE_EXCEEDED
        return Failure(PetsemError(code, sentence or _silent(code)), retry, timed_out=timed_out)
    if detail.code in _KNOWN_CODES:
        code = Code(detail.code)
    said = dataclasses.replace(
        detail_of(detail),
        reason=detail.reason if REASON.fullmatch(detail.reason) else None,
        caveat=safe_text(detail.caveat, CAVEAT_MAX_CHARS) or None,
    )
    error = PetsemError(code, sentence or _silent(code), said)
    return Failure(error, _RETRY[code], detail.server_time_ms or None)


def client_closed(what: str) -> Failure:
    """The failure of whatever was under way when its reader or verifier was closed."""
    return Failure(unavailable(f"the {what} was closed"), Retry.NO)


def _detail(trailing: Iterable[Any] | None) -> pb.ErrorDetail | None:
    found = [value for key, value in trailing or () if key == STATUS_KEY]
    if len(found) != 1 or not isinstance(found[0], bytes):
        return None
    return decode_status(found[0])


def safe_text(text: str, most: int = SENTENCE_MAX_CHARS) -> str:
    """Text from the network as it may be shown: bounded, printable, and rid of tokens."""
    text = _UNPRINTABLE.sub(" ", text[: 4 * most])
    return _TOKEN.sub("(token)", text)[:most].strip()


def _silent(code: Code) -> str:
    return f"the node answered {code.value} without a reason"
