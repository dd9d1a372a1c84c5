"""What msgspec found wrong, said again without the input.

Guarantees: a sentence is made only of our own words, of the field names of our own types, and of
bounds that our types state. msgspec itself quotes unknown field names and values that are not in
an enumeration; and who mistypes a body may have put a secret anywhere in it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import msgspec

_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}

_EXPECTED = re.compile(r"Expected `([a-z]+(?: \| [a-z]+)*)`")
_BOUND = re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) (-?[0-9]+)(?: - at |\Z)")
_LENGTH = re.compile(r"Expected `(array|str|object)` of length (>=|<=) ([0-9]+)(?: - at |\Z)")
_MISSING = re.compile(r"Object missing required field `([a-z0-9_]+)`")
_PATH = re.compile(r" - at `(?:key` in `)?\$((?:\.[a-z0-9_]+|\[[0-9]+\]|\[\.\.\.\])*)`\Z")
_STEP = re.compile(r"\.([a-z0-9_]+)|(\[[0-9]+\]|\[\.\.\.\])")


def explain(error: msgspec.ValidationError, kind: Any, whole: str) -> str:
    """One sentence on why something is not a `kind`; `whole` names it, such as "the body"."""
    text = str(error)
    ours = _field_names(kind)
    where = _where(text, ours, whole)
    missing = _MISSING.match(text)
    if missing is not None and missing[1] in ours:
        return f"{where} lacks the field {missing[1]}"
    if text.startswith("Object contains unknown field"):
        return f"{where} has a field that is not known; see /schema"
    bound = _BOUND.match(text)
    if bound is not None:
        return f"{where} must be {_BOUNDS[bound[1]]} {bound[2]}"
    length = _LENGTH.match(text)
    if length is not None:
        unit = "characters" if length[1] == "str" else "entries"
        return f"{where} must have {_BOUNDS[length[2]]} {length[3]} {unit}"
    expected = _EXPECTED.match(text)
    if expected is not None and all(word in _WORDS for word in expected[1].split(" | ")):
        return f"{where} must be " + " or ".join(_WORDS[w] for w in expected[1].split(" | "))
    return f"{where} is not one of the values that it can have; see /schema"


def _where(text: str, ours: frozenset[str], whole: str) -> str:
    """The path that msgspec ends with, if every name in it is one of ours."""
    found = _PATH.search(text)
    if found is None or not found[1]:
        return whole
    steps = ""
    for name, index in _STEP.findall(found[1]):
        if name and name not in ours:
            return whole
        steps += f".{name}" if name else index
    return steps.removeprefix(".")


@lru_cache(maxsize=64)
def _field_names(kind: Any) -> frozenset[str]:
    """The names of every field in a type and in the types of its fields."""
    parts = msgspec.json.schema(kind).get("$defs", {}).values()
    return frozenset(name for part in parts for name in part.get("properties", ()))
