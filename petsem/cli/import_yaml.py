"""Reading a YAML mapping of names and values, strictly.

Guarantees: one flat mapping of strings, each name once, or an error that gives a line and nothing
of the content. What YAML would read as a number, boolean, date or null is refused and not
converted: `NO`, `010` and `1e3` as secrets must not change. Only the node tree is built (`compose`
of the safe loader), never an object, and anchors cannot multiply in a flat mapping.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from petsem.cli.batch import Entry
from petsem.errors import PetsemError, invalid

_TEXT = "tag:yaml.org,2002:str"


def parse_yaml(text: str) -> Iterator[Entry]:
    """The members of the mapping that `text` spells, in order."""
    top = _compose(text)
    if not isinstance(top, yaml.MappingNode):
        raise invalid('the file must be one YAML mapping, such as NAME: "value"')
    for key, value in top.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT:
            raise invalid(f"line {line}: the name is not plain text; put it in quotes")
        if not isinstance(value, yaml.ScalarNode):
            raise invalid(f"line {line}: the value is a list or mapping; each must be one string")
        if value.tag != _TEXT:
            raise invalid(
                f"line {line}: YAML reads the value as a number, boolean, date or nothing; "
                "put it in quotes"
            )
        try:
            yield Entry(key.value, value.value.encode("utf-8"), f"line {line}")
        except UnicodeEncodeError:
            raise invalid(f"line {line} has half a surrogate pair, which is no text") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = invalid(f"line {line} has a character that YAML allows only as an escape")
    except yaml.MarkedYAMLError as error:
        problem = _bad(error)
    except RecursionError:
        problem = invalid("the YAML is nested too deeply; it must be one flat mapping")
    # Outside the handlers: these exceptions carry a piece of the document.
    raise problem


def _bad(error: yaml.MarkedYAMLError) -> PetsemError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return invalid("this is not valid YAML")
    return invalid(f"line {mark.line + 1}, column {mark.column + 1}: this is not valid YAML")
