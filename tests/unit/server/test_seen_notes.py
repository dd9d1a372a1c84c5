"""Notes of tokens in use: bounded, and the newest counts."""

from __future__ import annotations

import pytest

from petsem.server import seen_notes
from petsem.server.seen_notes import SeenNotes


def test_the_newest_counts() -> None:
    """Whatever order they come in."""
    notes = SeenNotes()
    for at_ms in (2, 3, 1):
        notes.note(b"a", at_ms)
    assert notes.some(9) == {b"a": 3}


def test_only_what_was_written_is_forgotten() -> None:
    """A later note of the same token stays, and so does what was not among them."""
    notes = SeenNotes()
    for nonce in (b"a", b"b", b"c"):
        notes.note(nonce, 1)
    some = notes.some(2)
    assert some == {b"a": 1, b"b": 1}
    notes.note(b"b", 2)
    notes.forget(some)
    assert notes.some(9) == {b"b": 2, b"c": 1}


def test_the_oldest_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever shows many tokens fills no memory."""
    monkeypatch.setattr(seen_notes, "_MAX", 3)
    notes = SeenNotes()
    for number in range(5):
        notes.note(bytes([number]), number)
    assert notes.some(9) == {bytes([number]): number for number in (2, 3, 4)}
