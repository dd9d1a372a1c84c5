"""The checksum of every page of the canonical image, and of all of them together.

Guarantees: the rolling checksum is that of LTX (the XOR of the checksums of all pages, top bit
set), kept with each transaction at the cost of its own pages; a transaction that cannot be taken in
changes nothing. Eight bytes a page.

An entry may be unknown (0, which no page has, since the top bit of a checksum is always set): after
a start without the saved table the rolling checksum is carried on from the last transaction in the
log while the pages are still being read. A page whose entry is unknown must be filled in, from its
bytes before the change, before a change of it is taken in. Until `complete` and `verify` have
spoken, a wrong page goes unseen. One thread at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Final

from petsem.limits import LTX_COMMIT_MAX_PAGES
from petsem.replication.image import LOCK_PAGE
from petsem.replication.ltx.checksum import CHECKSUM_FLAG, page_checksum

UNKNOWN: Final = 0


class ChecksumTableError(ValueError):
    """A transaction that does not fit the table; `rule` names how."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction does to the table: `commit` is the database's size after it, `rolling`
    the rolling checksum."""

    numbers: array[int]
    checksums: array[int]
    commit: int
    rolling: int


class PageChecksums:
    """The table at one position of the database. A new one is that of an empty database."""

    def __init__(self) -> None:
        self._table = array("Q")
        self._rolling = 0
        self._unknown = 0

    @classmethod
    def all_unknown(cls, commit: int, rolling: int) -> PageChecksums:
        """For a database of `commit` pages at a position whose rolling checksum is known."""
        _check_size(commit)
        return cls.restored(array("Q", (UNKNOWN,)) * commit, rolling)

    @classmethod
    def restored(cls, table: array[int], rolling: int) -> PageChecksums:
        """From entries that were saved; the table becomes this object's own."""
        new = cls()
        new._table = table
        new._rolling = rolling
        new._unknown = table.count(UNKNOWN)
        if len(table) >= LOCK_PAGE:
            # Never known and never asked for.
            new._unknown -= table[LOCK_PAGE - 1] == UNKNOWN
            table[LOCK_PAGE - 1] = UNKNOWN
        return new

    @property
    def commit(self) -> int:
        """The size of the database in pages."""
        return len(self._table)

    @property
    def rolling(self) -> int:
        """The rolling checksum; 0 for an empty database."""
        return self._rolling

    @property
    def complete(self) -> bool:
        """Whether every entry is known."""
        return self._unknown == 0

    def checksum(self, pgno: int) -> int:
        """The checksum of one page of the database, or 0 if it is unknown."""
        return self._table[pgno - 1]

    def entries(self, start: int, count: int) -> array[int]:
        """Up to `count` entries from page `start` on, the lock page's being 0."""
        return self._table[start - 1 : start - 1 + count]

    def next_unknown(self, pgno: int) -> int | None:
        """The first page from `pgno` on whose entry is unknown."""
        if self.complete:
            return None
        try:
            found = self._table.index(UNKNOWN, pgno - 1) + 1
            return self._table.index(UNKNOWN, found) + 1 if found == LOCK_PAGE else found
        except ValueError:
            return None

    def unknown(self, numbers: Iterable[int], commit: int) -> list[int]:
        """Which entries must be filled in before a transaction that changes `numbers` and leaves
        the database with `commit` pages: those of its pages and of the pages that it cuts off."""
        if self.complete:
            return []
        table, size = self._table, len(self._table)
        changed = {n for n in numbers if n <= size and table[n - 1] == UNKNOWN}
        changed.update(n for n in range(commit + 1, size + 1) if table[n - 1] == UNKNOWN)
        return sorted(changed - {LOCK_PAGE})

    def fill(self, pgno: int, checksum: int) -> None:
        """Enter the checksum of a page of the database as it is now. A known entry stays."""
        assert checksum & CHECKSUM_FLAG
        assert pgno != LOCK_PAGE
        if self._table[pgno - 1] == UNKNOWN:
            self._table[pgno - 1] = checksum
            self._unknown -= 1

    def plan(self, pages: Iterable[tuple[int, bytes]], commit: int) -> Change:
        """What a transaction makes of the table, which stays as it is.

        `pages` come in ascending order, page 1 normalised, and hold every page by which the
        database grows. Raises ChecksumTableError, its `rule` SIZE, ORDER, LOCK_PAGE, GAP or
        UNKNOWN, and whatever `pages` raises.
        """
        _check_size(commit)
        table, size = self._table, len(self._table)
        numbers, checksums = array("I"), array("Q")
        rolling = reduce(xor, table[commit:], self._rolling)
        last, new = 0, 0
        for pgno, page in pages:
            if not last < pgno <= commit:
                raise ChecksumTableError("ORDER", f"page {pgno} after {last}, of {commit} pages")
            if pgno == LOCK_PAGE:
                raise ChecksumTableError("LOCK_PAGE", "the lock page has no content")
            last = pgno
            after = page_checksum(pgno, page)
            rolling ^= after
            if pgno <= size:
                rolling ^= table[pgno - 1]
            else:
                new += 1
            numbers.append(pgno)
            checksums.append(after)
        if new != max(0, commit - size) - (size < LOCK_PAGE <= commit):
            raise ChecksumTableError("GAP", "the database grows by pages that are not there")
        if missing := self.unknown(numbers, commit):
            raise ChecksumTableError("UNKNOWN", f"page {missing[0]} is changed, but was not known")
        return Change(numbers, checksums, commit, rolling | CHECKSUM_FLAG)

    def accept(self, change: Change) -> None:
        """Take in what `plan` made of this same state of the table."""
        table, size = self._table, len(self._table)
        if change.commit < size:
            del table[change.commit :]
        elif change.commit > size:
            table.extend(array("Q", (UNKNOWN,)) * (change.commit - size))
        for pgno, checksum in zip(change.numbers, change.checksums, strict=True):
            table[pgno - 1] = checksum
        self._rolling = change.rolling

    def apply(self, pages: Iterable[tuple[int, bytes]], commit: int) -> int:
        """Take in a transaction, as `plan` describes; the new rolling checksum."""
        change = self.plan(pages, commit)
        self.accept(change)
        return change.rolling

    def verify(self) -> bool:
        """Whether all entries together are the rolling checksum that was carried on; if not, a
        page was damaged. Only for a complete table."""
        assert self.complete
        if not self._table:
            return self._rolling == 0
        return reduce(xor, self._table, 0) | CHECKSUM_FLAG == self._rolling


def _check_size(commit: int) -> None:
    if not 1 <= commit <= LTX_COMMIT_MAX_PAGES:
        raise ChecksumTableError("SIZE", f"a database has 1 to {LTX_COMMIT_MAX_PAGES} pages")
