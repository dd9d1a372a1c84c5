"""The checksum over a page at once against the loop that the format describes."""

from __future__ import annotations

import random

import pytest

from petsem.replication.wal_checksum import ByteOrder, add, add_page
from tests.support.wal_files import words_sum

ORDERS: tuple[ByteOrder, ...] = ("little", "big")
PAGES = {
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "counting": bytes(range(256)) * 16,
    "first": b"\x01" + bytes(4095),
    "last": bytes(4095) + b"\x01",
    "random": random.Random(1).randbytes(4096),
}
STATES = ((0, 0), (1, 0), (0, 1), (2**32 - 1, 2**32 - 1), (0x12345678, 0x9ABCDEF0))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_a_page(page: bytes, order: ByteOrder) -> None:
    """From every state, every kind of page, both byte orders."""
    for state in STATES:
        assert add_page(state, page, order) == words_sum(page, order, *state)


@pytest.mark.parametrize("order", ORDERS)
def test_every_word_of_a_page_counts(order: ByteOrder) -> None:
    """One word alone, at each place."""
    for at in range(0, 4096, 4):
        page = bytes(at) + b"\x80\x02\x03\xff" + bytes(4092 - at)
        assert add_page((5, 6), page, order) == words_sum(page, order, 5, 6)


@pytest.mark.parametrize("order", ORDERS)
def test_a_header(order: ByteOrder) -> None:
    """Short data, from any state."""
    for state in STATES:
        for size in (0, 8, 24):
            data = PAGES["random"][:size]
            assert add(state, data, order) == words_sum(data, order, *state)
