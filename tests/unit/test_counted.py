"""Numbers of things, as sentences have them."""

from __future__ import annotations

import pytest

from petsem.counted import counted


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (2_000, ("file",), "2,000 files"),
        (1, ("check was", "checks were"), "1 check was"),
        (2, ("check was", "checks were"), "2 checks were"),
    ],
)
def test_counted(number: int, words: tuple[str, ...], text: str) -> None:
    """One is one; the rest are many, none included."""
    assert counted(number, *words) == text
