"""Variables as text: dotenv, shell, JSON.

Guarantees: what is written reads back as the same bytes: dotenv with python-dotenv (and so with
`secrets import`), shell with any POSIX shell, JSON with any parser. What a format cannot hold is
refused by name. Names are checked by the caller.

dotenv prefers single quotes, in which no common reader expands `$`; only a value with a quote, a
backslash or a line break gets double quotes and escapes, and readers that expand `$` there are
not ours to fix.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping

from petsem.errors import PetsemError, invalid

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]+", re.ASCII)
_TO_ESCAPE = re.compile(r'[\\"\n\r]')
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}


def to_dotenv(variables: Mapping[str, bytes]) -> bytes:
    """One `NAME=VALUE` a line. Values must be UTF-8."""
    texts = _texts(variables)
    return "".join(f"{name}={_dotenv(text)}\n" for name, text in texts.items()).encode("utf-8")


def to_shell(variables: Mapping[str, bytes]) -> bytes:
    """`export NAME='VALUE'` lines, for `eval`. Any bytes but NUL, which no variable holds."""
    lines = [
        b"export %s='%s'\n" % (name.encode("ascii"), value.replace(b"'", b"'\\''"))
        for name, value in variables.items()
    ]
    return b"".join(lines)


def to_json(secrets: Mapping[str, bytes], *, as_base64: bool) -> bytes:
    """One flat object. Values must be UTF-8, or all are base64."""
    if as_base64:
        texts = {name: base64.b64encode(value).decode("ascii") for name, value in secrets.items()}
    else:
        texts = _texts(secrets)
    return json.dumps(texts, ensure_ascii=False, indent=2).encode("utf-8") + b"\n"


def _texts(secrets: Mapping[str, bytes]) -> dict[str, str]:
    texts: dict[str, str] = {}
    binary: list[str] = []
    for name, value in secrets.items():
        try:
            texts[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            binary.append(name)
    if binary:
        raise _not_text(binary)
    return texts


def _not_text(names: Collection[str]) -> PetsemError:
    return invalid(
        f"not UTF-8 text: {', '.join(names)}; use --format json --base64 (all values are then "
        "encoded), or boot files"
    )


def _dotenv(text: str) -> str:
    if not text or _PLAIN.fullmatch(text):
        return text
    if not re.search(r"['\\\n\r]", text):
        return f"'{text}'"
    return '"' + _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], text) + '"'
