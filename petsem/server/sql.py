"""Running one statement to its end.

Guarantees: on return no cursor is open, so that no read transaction outlives a call and nothing
stays open across an await. Types of columns are the schema's business (STRICT), hence `Any`.
"""

from __future__ import annotations

from typing import Any

import apsw

Row = tuple[Any, ...]


def rows(db: apsw.Connection, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
    """All rows."""
    return db.execute(sql, args).fetchall()


def one(db: apsw.Connection, sql: str, args: tuple[Any, ...] = ()) -> Row | None:
    """The first row, or None."""
    found: list[Row] = db.execute(sql, args).fetchall()
    return found[0] if found else None


def run(db: apsw.Connection, sql: str, args: tuple[Any, ...] = ()) -> int:
    """Execute a statement that changes rows and returns none; how many it changed."""
    db.execute(sql, args)
    return db.changes()
