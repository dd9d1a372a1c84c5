"""A node's answer, read strictly: the expected struct, or an error of the one family.

Guarantees: whatever a node sends, the result is a decoded reply or a `PetsemError`; its sentence
is bounded and an error code that is not known is treated as an internal one. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from petsem.errors import Code, Detail, PetsemError
from petsem.model import Position
from petsem.wire.http import ErrorBody

Reply = TypeVar("Reply")

SENTENCE_MAX_CHARS: Final = 500
_CODES = {code.value: code for code in Code}


class NodeError(PetsemError):
    """An error that a node answered with, and the node's clock if it told."""

    def __init__(
        self, code: Code, message: str, detail: Detail, server_time_ms: int | None = None
    ) -> None:
        super().__init__(code, message, detail)
        self.server_time_ms = server_time_ms


def decode(body: bytes, reply: type[Reply]) -> Reply:
    """The reply that a body of a 2xx answer spells."""
    try:
        return msgspec.json.decode(body, type=reply)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_understood() from error


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> PetsemError:
    """The error that any other answer means."""
    try:
        said = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return not_understood() if status < 500 else _unavailable(status)
    details = said.details
    return NodeError(
        _CODES.get(said.code, Code.INTERNAL),
        said.message[:SENTENCE_MAX_CHARS] or f"the node answered {said.code[:40]}",
        Detail(
            reason=_typed(details, "reason", str),
            caveat=_typed(details, "caveat", str),
            have=_position(details, "have"),
            need=_position(details, "need"),
            have_version=_typed(details, "have_version", int),
            need_version=_typed(details, "need_version", int),
            retry_after_s=seconds_of(headers.get("retry-after")),
        ),
        _typed(details, "server_time_ms", int),
    )


def not_understood() -> PetsemError:
    """The error for what no node of this version sends."""
    return PetsemError(
        Code.INTERNAL,
        "the answer was not understood; check that PETSEM_ADDR names a Petsem node's HTTP port "
        "and that node and command line are of the same version",
    )


def _unavailable(status: int) -> PetsemError:
    return PetsemError(
        Code.UNAVAILABLE, f"something before the node answered {status}; try again, or elsewhere"
    )


def _typed(details: Mapping[str, Any], key: str, kind: type[Reply]) -> Reply | None:
    value = details.get(key)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _position(details: Mapping[str, Any], key: str) -> Position | None:
    text = _typed(details, key, str)
    try:
        return None if text is None else Position.parse(text)
    except PetsemError:
        return None


def seconds_of(text: str | None) -> int | None:
    """The pause that a `Retry-After` header asks for; None for none, or for a date."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
