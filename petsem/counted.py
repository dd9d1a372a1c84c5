"""Numbers of things in sentences: `1 file`, `2,000 files`.

Guarantees: one thing is never spoken of as several. It knows no grammar: what is not made by an "s"
is given whole.
"""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """`number` with the noun, or the words that go with it, in the form for so many."""
    if number == 1:
        return f"1 {one}"
    return f"{number:,} {f'{one}s' if many is None else many}"
