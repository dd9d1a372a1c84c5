r'''Reading dotenv files with python-dotenv's parser, strictly.

Guarantees: every line is an assignment, a comment or blank, or the import fails with its number;
a name stands once; no `${…}` is expanded, so what is written is what is stored. No error holds
anything of the file.

The grammar is python-dotenv's, which is what applications will have read the file with: unquoted
values end at ` #` and lose outer spaces; `'…'` and `"…"` may span lines; in `"…"` the escapes
`\n \r \t \" \\` and a few more are decoded, in `'…'` only `\'` and `\\`.

One form is added in front of it, `"""…"""`. python-dotenv refuses that wherever it is accepted
here (it reads an empty string and then finds the line not ended), so no file that it reads means
something else to us. Inside, the escapes of `"…"` hold, quotes need none, and a line break right
after the opening is dropped, as in TOML.

This uses `dotenv.parser.Reader` and `parse_binding` and not `parse_stream` or `dotenv_values`: the
added form has to be looked for exactly where a binding starts, never inside a quoted value; and
`dotenv_values` logs a bad line and goes on, keeps the last of two equal names, and expands.
'''

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from dotenv.parser import Binding, Reader, parse_binding

from petsem.cli.batch import Entry
from petsem.errors import PetsemError, invalid

_LONG = re.compile(
    r"""
    \s* (?:export[^\S\r\n]+)? ([^=\#\s'"]+) [^\S\r\n]* = [^\S\r\n]*   # NAME =
    \"\"\" (?:\r\n|\n|\r)?
    ( (?: \\. | [^"\\] | "(?!"") )* "{0,2}? ) \"\"\" (?!")            # up to two quotes may end it
    [^\S\r\n]* (?:\#[^\r\n]*)? (?:\r\n|\n|\r|$)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([\\'\"abfnrtv])")
_MEANING = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_LINE_END = re.compile(r"\r\n|\n|\r")
_BLANK = re.compile(r"\s*")


def parse_dotenv(text: str) -> Iterator[Entry]:
    """The assignments of a dotenv file, in order. Raises `invalid` naming the first bad line."""
    reader = Reader(io.StringIO(text, newline=""))
    while reader.has_next():
        long = _LONG.match(reader.string, reader.position.chars)
        line = reader.position.line + _lines_skipped(reader)
        if long is not None:
            reader.position.advance(long.group())
            name, value = long.groups()
            yield Entry(name, _unescape(value).encode("utf-8"), f"line {line}")
            continue
        binding = parse_binding(reader)
        if binding.error:
            raise _bad(line, binding)
        if binding.key is None:
            continue
        if binding.value is None:
            raise invalid(f"line {line} has no '='; each line is NAME=VALUE, a comment or blank")
        yield Entry(binding.key, binding.value.encode("utf-8"), f"line {line}")


def _lines_skipped(reader: Reader) -> int:
    """How many line ends stand before the next binding, which the parser counts as part of it."""
    blank = _BLANK.match(reader.string, reader.position.chars)
    return 0 if blank is None else len(_LINE_END.findall(blank.group()))


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda found: _MEANING.get(found[1], found[1]), value)


def _bad(line: int, binding: Binding) -> PetsemError:
    _, _, value = binding.original.string.partition("=")
    opens = value.strip()[:1] in ("'", '"')
    why = (
        "starts a quoted value that is not closed, or is followed by something else"
        if opens
        else "is not NAME=VALUE, a comment or blank"
    )
    return invalid(f"line {line} {why}")
