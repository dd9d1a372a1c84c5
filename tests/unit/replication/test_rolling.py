"""The rolling checksum against one that is computed anew from all pages."""

from __future__ import annotations

import random
import tracemalloc
from array import array
from collections.abc import Iterator
from functools import reduce
from operator import xor

import pytest

from petsem.limits import LTX_COMMIT_MAX_PAGES
from petsem.replication.image import LOCK_PAGE
from petsem.replication.ltx.checksum import CHECKSUM_FLAG, page_checksum
from petsem.replication.rolling import ChecksumTableError, PageChecksums

Pages = dict[int, bytes]


def page(fill: int) -> bytes:
    return fill.to_bytes(4, "big") * 1024


def whole(pages: Pages) -> int:
    """The rolling checksum of a database, from nothing but its pages."""
    return reduce(xor, (page_checksum(n, p) for n, p in pages.items())) | CHECKSUM_FLAG


def state(table: PageChecksums) -> tuple[list[int], int, bool]:
    return list(table.entries(1, table.commit)), table.rolling, table.complete


@pytest.fixture
def five() -> PageChecksums:
    """A database of five pages, all known."""
    table = PageChecksums()
    table.apply(((n, page(n)) for n in range(1, 6)), 5)
    return table


FIVE = {n: page(n) for n in range(1, 6)}


def unknown_five() -> PageChecksums:
    return PageChecksums.all_unknown(5, whole(FIVE))


def test_an_empty_database() -> None:
    """Its checksum is 0, and it is complete."""
    table = PageChecksums()
    assert state(table) == ([], 0, True)
    assert table.verify()


def test_the_first_pages(five: PageChecksums) -> None:
    """Every page's own checksum, and that of all."""
    assert state(five) == ([page_checksum(n, page(n)) for n in range(1, 6)], whole(FIVE), True)
    assert five.verify()
    assert five.checksum(3) == page_checksum(3, page(3))


def test_growing_changing_and_cutting_off() -> None:
    """After each of many transactions it is the checksum of the pages that are there."""
    rng = random.Random(4)
    table, pages = PageChecksums(), Pages()
    for turn in range(1, 300):
        commit = max(1, len(pages) + rng.randint(-4, 5))
        changed = {n for n in pages if n <= commit and rng.random() < 0.2}
        changed.update(range(len(pages) + 1, commit + 1))
        new = {n: page(1000 * turn + n) for n in sorted(changed)}
        pages = {n: p for n, p in pages.items() if n <= commit} | new
        assert table.apply(new.items(), commit) == whole(pages)
        assert table.rolling == whole(pages)
        assert table.commit == commit
        assert table.verify()


def test_a_page_that_did_not_change(five: PageChecksums) -> None:
    """Written again as it was, it changes nothing."""
    before = state(five)
    five.apply([(2, page(2))], 5)
    assert state(five) == before


def test_what_is_planned_is_not_done(five: PageChecksums) -> None:
    """The table stays as it is until the change is accepted."""
    before = state(five)
    change = five.plan([(1, page(9)), (6, page(6))], 6)
    after = FIVE | {1: page(9), 6: page(6)}
    assert change.rolling == whole(after)
    assert state(five) == before
    five.accept(change)
    assert state(five) == ([page_checksum(n, p) for n, p in after.items()], whole(after), True)


@pytest.mark.parametrize(
    ("numbers", "commit", "rule"),
    [
        ([1], 0, "SIZE"),
        ([1], LTX_COMMIT_MAX_PAGES + 1, "SIZE"),
        ([2, 1], 5, "ORDER"),
        ([2, 2], 5, "ORDER"),
        ([0], 5, "ORDER"),
        ([1, 6], 5, "ORDER"),
        ([1, 4], 3, "ORDER"),
        ([1], 6, "GAP"),
        ([1, 7], 7, "GAP"),
        ([6], 7, "GAP"),
    ],
)
def test_a_transaction_that_does_not_fit(
    five: PageChecksums, numbers: list[int], commit: int, rule: str
) -> None:
    """It is refused by name, and the table is as it was."""
    before = state(five)
    with pytest.raises(ChecksumTableError) as e:
        five.apply(((n, page(50)) for n in numbers), commit)
    assert e.value.rule == rule
    assert state(five) == before


def test_pages_that_cannot_be_read(five: PageChecksums) -> None:
    """An error in the middle of a transaction leaves the table as it was."""

    def failing() -> Iterator[tuple[int, bytes]]:
        yield 1, page(50)
        raise OSError

    before = state(five)
    with pytest.raises(OSError):
        five.apply(failing(), 4)
    assert state(five) == before


def test_a_table_that_knows_nothing() -> None:
    """It carries the rolling checksum on, says what it has to be told, and ends up complete."""
    table = unknown_five()
    assert state(table) == ([0] * 5, whole(FIVE), False)
    assert table.unknown([1, 3, 6], 6) == [1, 3]
    assert table.unknown([1], 3) == [1, 4, 5]

    new = {1: page(11), 3: page(13), 6: page(16)}
    for n in table.unknown(new, 6):
        table.fill(n, page_checksum(n, page(n)))
    assert table.unknown(new, 6) == []
    assert table.apply(new.items(), 6) == whole(FIVE | new)
    assert table.unknown([1, 3, 6], 6) == []

    assert [table.next_unknown(n) for n in range(1, 8)] == [2, 2, 4, 4, 5, None, None]
    for n in (2, 4, 5):
        assert not table.complete
        table.fill(n, page_checksum(n, page(n)))
    assert table.complete
    assert table.next_unknown(1) is None
    assert table.verify()


@pytest.mark.parametrize(("numbers", "commit"), [([1, 3], 5), ([1], 3)])
def test_an_unknown_page_cannot_be_changed(numbers: list[int], commit: int) -> None:
    """Nor be cut off: its old checksum has to be taken out."""
    table = unknown_five()
    table.fill(1, page_checksum(1, page(1)))
    before = state(table)
    with pytest.raises(ChecksumTableError) as e:
        table.apply(((n, page(50)) for n in numbers), commit)
    assert e.value.rule == "UNKNOWN"
    assert state(table) == before


def test_cutting_off_what_was_unknown() -> None:
    """It is filled in first, and counts no more afterwards."""
    table = unknown_five()
    for n in table.unknown([1], 2):
        table.fill(n, page_checksum(n, page(n)))
    assert table.apply([(1, page(50))], 2) == whole({1: page(50), 2: page(2)})
    assert not table.complete
    table.fill(2, page_checksum(2, page(2)))
    assert table.complete
    assert table.verify()


def test_a_known_entry_stays() -> None:
    """The scan comes late for a page that was changed meanwhile."""
    table = unknown_five()
    table.fill(2, page_checksum(2, page(2)))
    table.fill(2, page_checksum(2, page(99)))
    assert table.checksum(2) == page_checksum(2, page(2))
    assert table.next_unknown(1) == 1
    for n in (1, 3, 4, 5):
        table.fill(n, page_checksum(n, page(n)))
    assert table.complete


def test_damage_shows_when_all_is_known() -> None:
    """One page that is not what the chain of transactions left."""
    table = unknown_five()
    for n in range(1, 6):
        table.fill(n, page_checksum(n, page(99 if n == 4 else n)))
    assert table.complete
    assert not table.verify()


def test_restored(five: PageChecksums) -> None:
    """A table made of another's entries is the same, and says what it does not know."""
    copy = PageChecksums.restored(five.entries(1, 5), five.rolling)
    assert state(copy) == state(five)
    holes = array("Q", [5 | CHECKSUM_FLAG, 0, 0])
    table = PageChecksums.restored(holes, 5 | CHECKSUM_FLAG)
    assert [table.next_unknown(n) for n in (1, 3)] == [2, 3]
    assert not table.complete


def test_entries(five: PageChecksums) -> None:
    """Pieces of the table, up to its end."""
    sums = [page_checksum(n, page(n)) for n in range(1, 6)]
    assert list(five.entries(1, 2)) == sums[:2]
    assert list(five.entries(4, 10)) == sums[3:]
    assert list(five.entries(6, 10)) == []


@pytest.mark.parametrize("commit", [0, LTX_COMMIT_MAX_PAGES + 1])
def test_the_size_is_checked_before_the_memory_is_taken(commit: int) -> None:
    """A size that a trailer lies about is refused."""
    with pytest.raises(ChecksumTableError) as e:
        PageChecksums.all_unknown(commit, CHECKSUM_FLAG)
    assert e.value.rule == "SIZE"


def lock_table(commit: int) -> PageChecksums:
    """A database of so many pages, every entry known and equal."""
    entries = array("Q", [CHECKSUM_FLAG | 1]) * commit
    if commit >= LOCK_PAGE:
        entries[LOCK_PAGE - 1] = 0
    return PageChecksums.restored(entries, reduce(xor, entries) | CHECKSUM_FLAG)


def test_growing_over_the_lock_page() -> None:
    """It is left out, counts for nothing, and is never unknown."""
    assert lock_table(LOCK_PAGE).complete
    assert lock_table(LOCK_PAGE + 1).complete
    table = lock_table(LOCK_PAGE - 1)
    before = table.rolling
    new = {LOCK_PAGE + 1: page(7)}
    table.apply(new.items(), LOCK_PAGE + 1)
    assert table.rolling == before ^ page_checksum(LOCK_PAGE + 1, page(7)) | CHECKSUM_FLAG
    assert table.complete
    assert table.next_unknown(LOCK_PAGE) is None
    assert table.checksum(LOCK_PAGE) == 0
    assert table.verify()
    # And back, in two steps, the first of which leaves the lock page last.
    assert table.apply([(1, page(1))], LOCK_PAGE) == table.rolling
    assert table.complete
    assert table.apply([(1, page(2))], LOCK_PAGE - 1) == table.rolling
    assert table.complete
    assert table.verify()
    # And on to the lock page alone.
    table.apply([(1, page(3))], LOCK_PAGE)
    assert table.complete
    assert table.verify()


@pytest.mark.parametrize("commit", [LOCK_PAGE, LOCK_PAGE + 2])
def test_the_lock_page_has_no_content(commit: int) -> None:
    """A transaction that brings it is refused; one that leaves out its neighbour has a gap."""
    table = lock_table(LOCK_PAGE - 1)
    with pytest.raises(ChecksumTableError) as e:
        table.apply([(LOCK_PAGE, page(1))], commit)
    assert e.value.rule == "LOCK_PAGE"
    with pytest.raises(ChecksumTableError) as e:
        table.apply([(LOCK_PAGE + 1, page(1))], LOCK_PAGE + 2)
    assert e.value.rule == "GAP"


def test_the_lock_page_in_a_table_that_knows_little() -> None:
    """It is not asked for, neither when it is changed around nor when it is cut off."""
    table = PageChecksums.all_unknown(LOCK_PAGE + 1, CHECKSUM_FLAG)
    assert table.next_unknown(LOCK_PAGE) == LOCK_PAGE + 1
    assert table.unknown([], LOCK_PAGE - 2) == [LOCK_PAGE - 1, LOCK_PAGE + 1]
    table.fill(LOCK_PAGE + 1, CHECKSUM_FLAG | 1)
    assert table.next_unknown(LOCK_PAGE) is None
    entries = array("Q", [CHECKSUM_FLAG | 1]) * (LOCK_PAGE + 1)
    assert PageChecksums.restored(entries, 0).complete
    assert entries[LOCK_PAGE - 1] == 0


def test_eight_bytes_a_page() -> None:
    """What a table takes, also one that has grown a page at a time. For that it is copied rarely,
    and what was cut off it gives back."""
    grown = 640
    tracemalloc.start()
    try:
        table = PageChecksums.all_unknown(100_000, CHECKSUM_FLAG)
        assert tracemalloc.get_traced_memory()[1] < 8 * 100_000 + 5_000
        copied = 0
        for commit in range(100_001, 100_001 + grown):
            tracemalloc.reset_peak()
            table.apply([(commit, page(0))], commit)
            now, peak = tracemalloc.get_traced_memory()
            assert now < 8.02 * commit
            copied += peak > 12 * commit
        assert 0 < copied <= grown // 64
        for pgno in range(1, 100_001):
            table.fill(pgno, CHECKSUM_FLAG)
        table.apply([(1, page(0))], 50_000)
        assert tracemalloc.get_traced_memory()[0] < 8.02 * 50_000
    finally:
        tracemalloc.stop()


def test_what_was_cut_off_is_forgotten() -> None:
    """Its entries are unknown when the database grows again, cut by few pages or by many."""
    for commit in (2_990, 10):
        table = PageChecksums()
        table.apply(((n, page(n)) for n in range(1, 3_001)), 3_000)
        table.apply([(1, page(1))], commit)
        assert list(table.entries(commit, 9)) == [page_checksum(commit, page(commit))]
        assert table.next_unknown(commit) is None
        table.apply(((n, page(0)) for n in range(commit + 1, 3_002)), 3_001)
        assert table.verify()
