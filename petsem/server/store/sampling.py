"""Rows to look at, when looking at all would take too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import apsw

from petsem.server import sql

Numbered = Literal["secrets", "bundles"]


def count(db: apsw.Connection, table: Numbered | Literal["idempotency"]) -> int:
    """How many rows a table has."""
    return int(sql.rows(db, f"SELECT count(*) FROM {table}")[0][0])


def row_numbers(
    db: apsw.Connection, table: Numbered, sample: int | None, chance: float
) -> Iterator[int]:
    """Row numbers of a table: all, or about `sample` of them, evenly spread over their range.
    `chance`, from 0 to 1, moves the first one, so that another run sees others."""
    lowest, highest = sql.rows(db, f"SELECT min(rowid), max(rowid) FROM {table}")[0]
    if lowest is None:
        return
    span = highest - lowest + 1
    width = 1.0 if sample is None else max(span / sample, 1.0)
    offset = chance * (width - 1)
    while True:
        found = sql.rows(
            db, f"SELECT min(rowid) FROM {table} WHERE rowid >= ?", (lowest + int(offset),)
        )[0][0]
        if found is None:
            return
        yield found
        # The next place of the even grid that is past the row found.
        offset += max(1, int((found - lowest - offset) // width) + 1) * width


def requests(db: apsw.Connection, sample: int | None, start: bytes) -> list[sql.Row]:
    """Idempotency records with their org's uid: all, or `sample` of them from the nonce `start` on
    (nonces are random)."""
    statement = (
        "SELECT i.nonce, i.method, i.path, i.key, i.org, o.uid, i.data_key, i.outcome"
        " FROM idempotency i LEFT JOIN orgs o ON o.id = i.org WHERE i.nonce {} ?"
        " ORDER BY i.nonce LIMIT ?"
    )
    if sample is None:
        return sql.rows(db, statement.format(">="), (b"", -1))
    found = sql.rows(db, statement.format(">="), (start, sample))
    return found + sql.rows(db, statement.format("<"), (start, sample - len(found)))
