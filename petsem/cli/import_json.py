"""Reading a JSON object of names and values, strictly.

Guarantees: one flat object of strings, each name once, or an error that gives a line or the number
of the entry and nothing of the content. Numbers, booleans and null are refused, not converted: a
secret such as `1e5` or `007` would come back as something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from petsem.cli.batch import Entry
from petsem.errors import invalid


class _Object(list[tuple[str, Any]]):
    """The members of an object in order, duplicates included."""


def parse_json(text: str) -> Iterator[Entry]:
    """The members of the object that `text` spells, in order."""
    top = _load(text)
    if not isinstance(top, _Object):
        raise invalid('the file must be one JSON object, such as {"NAME": "value"}')
    for number, (name, value) in enumerate(top, start=1):
        if not isinstance(value, str):
            raise invalid(f"entry {number} is not a string; put every value in quotes")
        try:
            yield Entry(name, value.encode("utf-8"), f"entry {number}")
        except UnicodeEncodeError:
            raise invalid(f"entry {number} has half a surrogate pair, which is no text") from None


def _load(text: str) -> Any:
    try:
        # Numbers are refused anyway, so they are not converted; a huge one would raise.
        return json.loads(text, object_pairs_hook=_Object, parse_int=float, parse_float=float)
    except json.JSONDecodeError as error:
        line, column = error.lineno, error.colno
    except RecursionError:
        raise invalid("the JSON is nested too deeply; it must be one flat object") from None
    # Outside the handler: the exception carries the whole document.
    raise invalid(f"line {line}, column {column}: this is not valid JSON")
