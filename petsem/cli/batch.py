"""A batch of secrets, checked before anything is sent.

Guarantees: names, sizes and totals that the node would refuse are refused here, in a sentence that
names where the entry stands and never what it holds. It does not know formats; the parsers do.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from petsem import limits
from petsem.cli.names import check_typed_name
from petsem.errors import Code, PetsemError, invalid
from petsem.wire.http import Base64Value, Value

IMPORT_MAX_BYTES = 4 * limits.APP_MAX_BYTES
"""A file's size: an app's worth of secrets, with every character escaped and some comments."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name and its value. `where` is its place for people, such as `line 12`."""

    name: str
    value: bytes = field(repr=False)
    where: str


def check_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries, if a node could take them as one batch."""
    checked = tuple(entries)
    places: dict[str, str] = {}
    for entry in checked:
        try:
            check_typed_name(entry.name)
        except PetsemError as error:
            raise invalid(f"{entry.where}: {error.message}") from None
        if entry.name in places:
            raise invalid(f"{entry.where} has a name that {places[entry.name]} has already")
        places[entry.name] = entry.where
        if len(entry.value) > limits.VALUE_MAX_BYTES:
            raise invalid(
                f"{entry.where}: the value has {len(entry.value):,} bytes; "
                f"the most is {limits.VALUE_MAX_BYTES:,}"
            )
    _check_total(checked)
    return checked


def _check_total(entries: tuple[Entry, ...]) -> None:
    if len(entries) > limits.APP_MAX_SECRETS:
        raise invalid(
            f"there are {len(entries):,} secrets; an app has at most {limits.APP_MAX_SECRETS:,}"
        )
    total = sum(len(entry.name) + len(entry.value) for entry in entries)
    if total > limits.APP_MAX_BYTES:
        raise invalid(
            f"names and values have {total:,} bytes together; "
            f"an app has at most {limits.APP_MAX_BYTES:,}"
        )


def wire_value(value: bytes) -> Value:
    """`value` as JSON carries it: text where it is text, unless escapes would swell it.

    A control character becomes six bytes of JSON; base64 never adds much more than a third, so
    with the shorter of the two a whole app always fits into one request.
    """
    coded = Base64Value(base64.b64encode(value).decode("ascii"))
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return coded
    encode = msgspec.json.encode
    return text if len(encode(text)) <= len(encode(coded)) else coded


def value_bytes(value: Value) -> bytes:
    """The bytes that a node's JSON carried."""
    if isinstance(value, str):
        return value.encode("utf-8")
    try:
        return base64.b64decode(value.base64, validate=True)
    except ValueError:
        raise PetsemError(Code.INTERNAL, "the node sent a value that is not base64") from None
