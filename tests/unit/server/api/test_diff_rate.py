"""The bucket that limits diffs."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.api.diff_rate import BURST, TOKENS_MAX, DiffRate


def _refused(rate: DiffRate, nonce: bytes, now_s: float) -> int | None:
    """The seconds to wait, or None if it was counted."""
    try:
        rate.take(nonce, now_s)
    except PetsemError as e:
        return e.detail.retry_after_s if e.code is Code.LIMIT else -1
    return None


def test_burst_then_one_a_second() -> None:
    """A full bucket takes BURST at once; then it refills by one each second."""
    rate = DiffRate()
    assert [_refused(rate, b"a", 5.0) for _ in range(BURST + 1)] == [None] * BURST + [1]
    assert _refused(rate, b"a", 5.9) == 1
    assert _refused(rate, b"a", 6.0) is None
    assert _refused(rate, b"a", 6.0) == 1
    assert [_refused(rate, b"a", 999.0) for _ in range(BURST + 1)] == [None] * BURST + [1]


def test_each_token_has_its_own() -> None:
    """One token's diffs are not counted against another's."""
    rate = DiffRate()
    for _ in range(BURST):
        rate.take(b"a", 0.0)
    assert _refused(rate, b"a", 0.0) == 1
    assert _refused(rate, b"b", 0.0) is None


def test_bounded() -> None:
    """The bucket that was unused for longest is forgotten, and no more are kept than the bound."""
    rate = DiffRate()
    for _ in range(BURST):
        rate.take(b"busy", 0.0)
    for number in range(TOKENS_MAX - 1):
        rate.take(number.to_bytes(4), 0.0)
    assert _refused(rate, b"busy", 0.0) == 1
    rate.take(b"one more", 0.0)
    assert _refused(rate, b"busy", 0.0) is None
    assert len(rate._buckets) == TOKENS_MAX


def test_refusals_are_free() -> None:
    """Asking too often does not put off the time at which asking works again."""
    rate = DiffRate()
    for _ in range(BURST):
        rate.take(b"a", 0.0)
    for _ in range(100):
        with pytest.raises(PetsemError):
            rate.take(b"a", 0.5)
    rate.take(b"a", 1.0)
