"""Protobuf's canonical JSON, in both directions, for the Connect door.

Guarantees: what is accepted has one meaning: UTF-8, no key and no field twice, no field that is not
known. A refusal quotes nothing of the input. Names go out in lower camel case and fields at their
default are left out, as the mapping has it; 64-bit numbers are strings, bytes are base64.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from petsem.errors import invalid

M = TypeVar("M", bound=Message)


def parse_json(kind: type[M], raw: bytes) -> M:
    """The message that `raw` spells in JSON."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        _check(value, kind.DESCRIPTOR)  # type: ignore[arg-type]  # the same thing in C
        return json_format.ParseDict(value, kind())
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError):
        # The libraries' sentences quote the input, and their errors hold it.
        pass
    raise invalid(
        f"the body is not the JSON of a {kind.DESCRIPTOR.full_name}: check the names and types of "
        "its fields, and that no name is there twice"
    )


def encode_json(kind: type[Message], serialised: bytes) -> bytes:
    """The JSON of a serialised message."""
    return msgspec.json.encode(json_format.MessageToDict(kind.FromString(serialised)))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _check(value: Any, descriptor: Descriptor) -> None:
    """What the library lets pass: a list where an object belongs, and a field that is there under
    both of its names."""
    if not isinstance(value, dict):
        raise TypeError
    fields = {**descriptor.fields_by_camelcase_name, **descriptor.fields_by_name}
    found = [fields[name] for name in value if name in fields]
    if len({field.number for field in found}) != len(found):
        raise ValueError
    # Strict: a name without a field leaves the two of different lengths.
    for field, part in zip(found, value.values(), strict=True):
        if field.message_type is None or part is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if not isinstance(part, dict):
                raise TypeError
        else:
            for each in part if field.is_repeated else [part]:
                _check(each, field.message_type)
