"""Where a long piece of work stands, as text that a client hands back.

Guarantees: what `parse` returns has the fields and types of the cursor's class. It is not signed:
whoever may do the work may also skip parts of it, so nothing is dropped because a cursor says so.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from petsem import base64url
from petsem.errors import invalid

C = TypeVar("C", bound=msgspec.Struct)

_MAX_CHARS: Final = 1024


def encode(cursor: msgspec.Struct) -> str:
    """The cursor as text without meaning to anybody else."""
    return base64url.encode(msgspec.json.encode(cursor))


def parse(text: str, kind: type[C]) -> C:
    """The cursor that `text` spells, or `invalid`."""
    data = base64url.decode(text) if len(text) <= _MAX_CHARS else None
    try:
        # Of no bytes at all it is no JSON either.
        return msgspec.json.decode(data or b"", type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise invalid("that is not where this work stopped; start it again without it") from None
