"""Text from elsewhere, made safe for a terminal.

Guarantees: what `printable` returns is one line without control characters, direction overrides
or lone surrogates, so that a label, a node's message or a file name can neither move the cursor
nor pass for another line of output. It does not shorten or translate.
"""

from __future__ import annotations

import unicodedata

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    """`text` with each unsafe character written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
