"""The checksum of every page of the canonical image, and of all of them together.

Guarantees: the rolling checksum is that of LTX (the XOR of the checksums of all pages, top bit
set), kept with each transaction at the cost of its own pages; a transaction that cannot be taken in
changes nothing. Eight bytes a page and little more (a thousandth, or 1 KiB), also in a table that
grew page by page: an `array` that is appended to keeps a sixteenth of itself free. For that the
table is copied whenever it has grown by a 2,048th part, and there are two of it meanwhile.

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
_ROOM_PART: Final = 2_048
_ROOM_MIN: Final = 64
"""A table that has to grow gets this part of itself as room for more, at least so many entries."""


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
        # Entries past the size are 0, which changes no XOR.
        self._table = array("Q")
        self._commit = 0
        self._rolling = 0
        self._unknown = 0

    @classmethod
    def all_unknown(cls, commit: int, rolling: int) -> PageChecksums:
        """For a database of `commit` pages at a position whose rolling checksum is known."""
        _check_size(commit)
        return cls.restored(_nothing(commit), rolling)

    @classmethod
    def restored(cls, table: array[int], rolling: int) -> PageChecksums:
        """From entries that were saved; the table becomes this object's own."""
        new = cls()
        new._table = table
        new._commit = len(table)
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
        return self._commit

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
        assert pgno <= self._commit
        return self._table[pgno - 1]

    def entries(self, start: int, count: int) -> array[int]:
        """Up to `count` entries from page `start` on, the lock page's being 0."""
        return self._table[start - 1 : min(start - 1 + count, self._commit)]

    def next_unknown(self, pgno: int) -> int | None:
        """The first page from `pgno` on whose entry is unknown."""
        if self.complete:
            return None
        try:
            found = self._table.index(UNKNOWN, pgno - 1, self._commit) + 1
            if found == LOCK_PAGE:
                found = self._table.index(UNKNOWN, found, self._commit) + 1
            return found
        except ValueError:
            return None

    def unknown(self, numbers: Iterable[int], commit: int) -> list[int]:
        """Which entries must be filled in before a transaction that changes `numbers` and leaves
        the database with `commit` pages: those of its pages and of the pages that it cuts off."""
        if self.complete:
            return []
        table, size = self._table, self._commit
        changed = {n for n in numbers if n <= size and table[n - 1] == UNKNOWN}
        changed.update(n for n in range(commit + 1, size + 1) if table[n - 1] == UNKNOWN)
        return sorted(changed - {LOCK_PAGE})

    def fill(self, pgno: int, checksum: int) -> None:
        """Enter the checksum of a page of the database as it is now. A known entry stays."""
        assert checksum & CHECKSUM_FLAG
        assert pgno != LOCK_PAGE
        assert pgno <= self._commit
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
        table, size = self._table, self._commit
        numbers, checksums = array("I"), array("Q")
        rolling = reduce(xor, table[commit:size], self._rolling)
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
        self._resize(change.commit)
        table = self._table
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
        if not self._commit:
            return self._rolling == 0
        return reduce(xor, self._table, 0) | CHECKSUM_FLAG == self._rolling

    def _resize(self, commit: int) -> None:
        """Let the table have `commit` entries, the new ones unknown."""
        table, room = self._table, max(_ROOM_MIN, commit // _ROOM_PART)
        # A sum and a slice are as long as they are; `extend` and `del` would leave more free.
        if len(table) < commit:
            table = table + _nothing(commit + room - len(table))
        elif len(table) > commit + 2 * room:
            table = table[:commit]
        elif commit < self._commit:
            table[commit : self._commit] = _nothing(self._commit - commit)
        self._table, self._commit = table, commit


def _nothing(count: int) -> array[int]:
    return array("Q", (UNKNOWN,)) * count


def _check_size(commit: int) -> None:
    if not 1 <= commit <= LTX_COMMIT_MAX_PAGES:
        raise ChecksumTableError("SIZE", f"a database has 1 to {LTX_COMMIT_MAX_PAGES} pages")
