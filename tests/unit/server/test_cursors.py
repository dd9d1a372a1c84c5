"""Cursors as text: there and back, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from petsem.errors import Code, PetsemError
from petsem.server import cursors


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    row: int
    name: str = ""


class Other(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    row: int
    place: str


@pytest.mark.parametrize("place", [Place(0), Place(7, "A"), Place(-1, "näme ✓"), Place(2**62)])
def test_comes_back_as_it_went(place: Place) -> None:
    """Without a character that a URL or a shell would mind."""
    text = cursors.encode(place)
    assert all(char.isascii() and (char.isalnum() or char in "-_") for char in text)
    assert cursors.parse(text, Place) == place


PLACE = cursors.encode(Place(7))


@pytest.mark.parametrize(
    "text",
    [
        *("", "A", "!", "é", "AAAA", "bnVsbA", "e30", "A" * 5000, cursors.encode(Other(1, "x"))),
        # The same place, padded and with spare bits set.
        *(f"{PLACE}==", f"{PLACE[:-1]}R"),
    ],
)
def test_refuses_everything_else(text: str) -> None:
    """With one sentence that says what to do, whatever it was."""
    with pytest.raises(PetsemError, match="start it again without it") as refused:
        cursors.parse(text, Place)
    assert refused.value.code is Code.INVALID
    assert refused.value.__cause__ is None
