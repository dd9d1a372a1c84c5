"""Taking transactions back out of the table of page checksums when the log refused them.

Guarantees: after `undone` the table is as it was before the first of the changes, except that
entries which became known meanwhile stay known. It is made anew, at 8 bytes a page: a disk that
refuses is rare, and each transaction pays only for its own pages.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from petsem.replication.rolling import UNKNOWN, Change, PageChecksums


@dataclass(frozen=True, slots=True)
class Before:
    """The table as one change found it, where the change touches it."""

    commit: int
    rolling: int
    entries: list[tuple[int, int]]
    cut_off: array[int]


def before(table: PageChecksums, change: Change) -> Before:
    """Remember what `change` is about to replace."""
    commit = table.commit
    kept = min(commit, change.commit)
    entries = [(pgno, table.checksum(pgno)) for pgno in change.numbers if pgno <= kept]
    cut_off = table.entries(kept + 1, commit - kept)
    return Before(commit, table.rolling, entries, cut_off)


def undone(table: PageChecksums, changes: Iterable[Before]) -> PageChecksums:
    """The table before `changes`, which are the last ones it took in, oldest first."""
    entries, rolling = table.entries(1, table.commit), table.rolling
    for each in reversed(list(changes)):
        if each.commit < len(entries):
            entries = entries[: each.commit]
        elif each.cut_off:
            entries = entries + each.cut_off
        if len(entries) < each.commit:
            entries = entries + array("Q", (UNKNOWN,)) * (each.commit - len(entries))
        for pgno, checksum in each.entries:
            entries[pgno - 1] = checksum
        rolling = each.rolling
    return PageChecksums.restored(entries, rolling)
