"""From a file, or a pipe, to a checked batch.

Guarantees: the file is read to a limit, must be UTF-8 (a byte order mark apart), and has at least
one entry; no error quotes the file or its path. It does not send anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from petsem.cli.batch import IMPORT_MAX_BYTES, Entry, check_entries
from petsem.cli.streams import read_stdin
from petsem.errors import invalid

FORMATS: Final = ("dotenv", "json", "yaml")
_BY_SUFFIX = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def read_entries(file: str, format_name: str | None) -> tuple[Entry, ...]:
    """The entries in `file` (`-`: stdin), in the format named or that its suffix says."""
    text = decode_text(_read(file))
    chosen = format_name or _BY_SUFFIX.get(Path(file).suffix.lower(), "dotenv")
    entries = check_entries(_parser(chosen)(text))
    if not entries:
        # With --prune an empty file would remove every secret of the app.
        raise invalid("there is nothing to import; the file has no entries")
    return entries


def decode_text(data: bytes) -> str:
    """`data` as UTF-8; the number of the first line that is not, otherwise."""
    if len(data) > IMPORT_MAX_BYTES:
        raise invalid(f"the file is larger than {IMPORT_MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    raise invalid(f"line {line} is not UTF-8 text; import it alone with: secrets set NAME=@FILE")


def read_file(path: str, max_bytes: int, what: str) -> bytes:
    """Up to `max_bytes` and one more; `what` stands for the path, which may be a secret itself."""
    try:
        with Path(path).open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else "it is not usable"
    except ValueError:
        why = "it is not a path"
    raise invalid(f"{what} cannot be read: {why}")


def _read(file: str) -> bytes:
    if file == "-":
        return read_stdin(IMPORT_MAX_BYTES + 1)
    return read_file(file, IMPORT_MAX_BYTES, "the file to import")


def _parser(format_name: str) -> Callable[[str], Iterator[Entry]]:
    # Each parser's library is imported only when its format is used.
    match format_name:
        case "json":
            from petsem.cli.import_json import parse_json

            return parse_json
        case "yaml":
            from petsem.cli.import_yaml import parse_yaml

            return parse_yaml
        case _:
            from petsem.cli.import_dotenv import parse_dotenv

            return parse_dotenv
