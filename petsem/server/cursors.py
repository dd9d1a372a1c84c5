"""Where a long piece of work stands, as text that a client hands back.

Guarantees: what `parse` returns has the fields and types of the cursor's class. It is not signed:
whoever may do the work may also skip parts of it, so nothing is dropped because a cursor says so.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, TypeVar

import msgspec

from petsem.errors import invalid

C = TypeVar("C", bound=msgspec.Struct)

_MAX_CHARS: Final = 1024


def encode(cursor: msgspec.Struct) -> str:
    """The cursor as text without meaning to anybody else."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode("ascii").rstrip("=")


def parse(text: str, kind: type[C]) -> C:
    """The cursor that `text` spells, or `invalid`."""
    try:
        if len(text) > _MAX_CHARS:
            raise ValueError
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=kind)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise invalid("that is not where this work stopped; start it again without it") from None
