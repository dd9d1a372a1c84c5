"""The canonical page 1, byte by byte, and which pages a database has."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import apsw
import pytest

from petsem.replication.image import (
    LOCK_PAGE,
    PAGE_SIZE,
    canonical_pages,
    normalise,
    page_numbers,
    stamp,
)
from tests.support.wal_files import Rig


def test_exactly_these_bytes_are_replaced() -> None:
    """Journal mode, both counters and the library's version, and nothing else."""
    page = bytes(range(256)) * 16
    expected = bytearray(page)
    expected[18:20] = b"\x01\x01"
    expected[24:28] = (7 + 0x9E3779B1 * 3 & 0xFFFFFFFF).to_bytes(4, "big")
    expected[92:96] = expected[24:28]
    expected[96:100] = (3054001).to_bytes(4, "big")
    assert normalise(page, 3, 7) == bytes(expected)


def test_a_canonical_page_is_normalised_again_for_another_position() -> None:
    """What was normalised before gives the same as what SQLite wrote."""
    page = bytes(range(256)) * 16
    assert normalise(normalise(page, 1, 2), 3, 4) == normalise(page, 3, 4)
    assert normalise(normalise(page, 3, 4), 3, 4) == normalise(page, 3, 4)


@pytest.mark.parametrize(
    ("epoch", "txid", "counter"),
    [
        (0, 1, 1),
        (1, 1, 0x9E3779B2),
        (1, 2**32 + 5, 0x9E3779B6),
        (2, 0, 0x3C6EF362),
        (2**32 - 1, 2**64 - 1, 0x61C8864E),
    ],
)
def test_the_counter_is_of_32_bits(epoch: int, txid: int, counter: int) -> None:
    """It wraps, with large epochs and large TXIDs."""
    assert stamp(epoch, txid) == counter


def test_the_counter_differs_between_branches() -> None:
    """At one TXID every epoch nearby has another counter, and so has every TXID nearby."""
    assert len({stamp(epoch, 500) for epoch in range(1000)}) == 1000
    assert len({stamp(9, txid) for txid in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("numbers", "from_before"),
    [([], True), ([1], False), ([1, 2, 5], False), ([2, 5], True), ([5], True)],
)
def test_page_1_is_in_every_transaction(numbers: list[int], from_before: bool) -> None:
    """Taken from the transaction if it is there, from before if not, and normalised."""
    pages = [(n, bytes((n,)) * PAGE_SIZE) for n in numbers]
    before = bytes((77,)) * PAGE_SIZE
    page1 = normalise(before if from_before else pages[0][1], 3, 4)
    rest = [(n, p) for n, p in pages if n > 1]
    assert list(canonical_pages(pages, before, 3, 4)) == [(1, page1), *rest]
    assert list(canonical_pages(pages, normalise(before, 9, 9), 3, 4)) == [(1, page1), *rest]


def test_sqlite_reads_what_was_normalised(tmp_path: Path) -> None:
    """A WAL database's file becomes one that SQLite opens in rollback mode, and is whole."""
    rig = Rig(tmp_path)
    rig.table()
    rig.insert(10_000)
    data = rig.image()
    rig.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes(normalise(data[:PAGE_SIZE], 2, 9) + data[PAGE_SIZE:])
    db = apsw.Connection(str(copy))
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
    assert db.execute("SELECT length(x) FROM t").fetchall() == [(10_000,)]
    db.close()


def test_the_lock_page_is_no_page() -> None:
    """A database has the pages 1 to its size but the one that holds byte 2^30."""
    assert (LOCK_PAGE - 1) * PAGE_SIZE == 2**30
    assert list(page_numbers(0)) == []
    assert list(page_numbers(3)) == [1, 2, 3]
    for size in (LOCK_PAGE - 1, LOCK_PAGE):
        assert list(page_numbers(size)) == list(range(1, LOCK_PAGE))
    beyond = list(islice(page_numbers(LOCK_PAGE + 2), LOCK_PAGE - 2, None))
    assert beyond == [LOCK_PAGE - 1, LOCK_PAGE + 1, LOCK_PAGE + 2]
