"""Protobuf's canonical JSON, in both directions, for the Connect door.

Guarantees: what is accepted has one meaning: UTF-8, no key twice, no field that is not known. A
refusal quotes nothing of the input. Names go out in lower camel case and fields at their default
are left out, as the mapping has it; 64-bit numbers are strings, bytes are base64.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message

from petsem.errors import invalid

M = TypeVar("M", bound=Message)


def parse_json(kind: type[M], raw: bytes) -> M:
    """The message that `raw` spells in JSON."""
    try:
        # It refuses a second equal key and a field under both of its names by itself.
        return json_format.Parse(raw.decode("utf-8"), kind())
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError):
        # The library's sentences quote the input, and for what is no object it trips over itself.
        pass
    raise invalid(
        f"the body is not the JSON of a {kind.DESCRIPTOR.full_name}: check the names and types of "
        "its fields, and that no name is there twice"
    )


def encode_json(kind: type[Message], serialised: bytes) -> bytes:
    """The JSON of a serialised message."""
    return msgspec.json.encode(json_format.MessageToDict(kind.FromString(serialised)))
