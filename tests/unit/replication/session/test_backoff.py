"""Pauses between attempts."""

from __future__ import annotations

from petsem.replication.session.backoff import Backoff


def test_pauses() -> None:
    """They double up to a bound, are shortened by chance, and begin anew."""
    backoff = Backoff(0.2, 1.0)
    assert [backoff.next_s(1) for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert backoff.next_s(0) == 0.5
    backoff.reset()
    assert backoff.next_s(0) == 0.1
