"""Transactions to apply, as whole pages, from a database in memory that stands for the leader's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apsw

from petsem.replication.image import PAGE_SIZE, normalise, stamp

ROWS = 42
PADDING = 600


@dataclass(frozen=True, slots=True)
class Transaction:
    """What changed, and the whole image afterwards."""

    txid: int
    pages: tuple[tuple[int, bytes], ...]
    commit: int
    before: int
    after: int
    image: bytes


class PageSource:
    """Each `run` is one transaction; TXIDs go on from 1."""

    def __init__(self, epoch: int = 1) -> None:
        self._db = apsw.Connection(":memory:")
        self._db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        self._epoch = epoch
        self._txid = 0
        self._before = 0
        self._image = b""

    def run(self, sql: str) -> Transaction:
        """Run one script in one transaction."""
        self._txid += 1
        if "VACUUM" in sql:
            self._db.execute(sql)
        else:
            with self._db:
                self._db.execute(sql)
        plain = self._db.serialize("main")
        image = normalise(plain[:PAGE_SIZE], self._epoch, self._txid) + plain[PAGE_SIZE:]
        commit = len(image) // PAGE_SIZE
        changed = tuple(
            (pgno, page)
            for pgno in range(1, commit + 1)
            if (page := page_of(image, pgno)) != page_of(self._image, pgno)
        )
        after = stamp(self._epoch, self._txid)
        made = Transaction(self._txid, changed, commit, self._before, after, image)
        self._image, self._before = image, after
        return made

    def workload(self, transactions: int) -> Iterator[Transaction]:
        """A table whose rows all say the same number: seven leaves change each time. Every tenth
        transaction grows the database, and the fifth after it shrinks it again."""
        yield self.run(
            "CREATE TABLE even(id INTEGER PRIMARY KEY, n INTEGER, padding TEXT);"
            "CREATE TABLE rows(n INTEGER); INSERT INTO rows VALUES (0);"
        )
        yield self.run(_more(ROWS))
        for count in range(2, transactions):
            if count % 10 == 4:
                yield self.run(_more(30))
            elif count % 10 == 8:
                yield self.run(f"DELETE FROM even WHERE id > {ROWS}; UPDATE rows SET n = {ROWS}")
            elif count % 10 == 9:
                yield self.run("VACUUM")
            else:
                yield self.run(f"UPDATE even SET n = {count}, padding = {_padding(str(count))}")


CHECK = (
    "SELECT count(*) - (SELECT n FROM rows), count(DISTINCT n) < 2, count(DISTINCT padding) < 2,"
    " coalesce(max(n), 0) FROM even"
)
"""What a reader asks: 0, 1, 1 and the number, if it sees whole transactions."""


def _padding(number: str) -> str:
    return f"substr(replace(hex(zeroblob({PADDING})), '00', {number} || ' '), 1, {PADDING})"


def _more(count: int) -> str:
    number = "(SELECT coalesce(max(n), 0) FROM even)"
    return (
        f"WITH RECURSIVE up(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM up WHERE i < {count})"
        f" INSERT INTO even(n, padding) SELECT {number}, {_padding(number)} FROM up;"
        f" UPDATE rows SET n = n + {count}"
    )


def page_of(image: bytes, pgno: int) -> bytes:
    """One page of an image; b"" beyond its end."""
    return image[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE]
