"""Rows of boot grants: who asked that a machine may boot, and until when it may.

Guarantees: a grant is of an app and not of a name: it goes with the app, and one that is made under
the same name has none. Whoever reads one still has to ask whether its time is over and whether the
asker's token stands.
"""

from __future__ import annotations

import apsw
import msgspec

from petsem.server import sql


class GrantRow(msgspec.Struct, frozen=True):
    """One machine of one app. `subject` and `token` are whose asked; `id` has 16 bytes; `org` is a
    row number, and `app` what the app is called."""

    id: bytes
    org: int
    app: str
    machine: str
    subject: str
    token: bytes
    created_at: int
    expires_at: int


def insert(db: apsw.Connection, row: GrantRow) -> None:
    """Record a grant for an app that is there."""
    sql.run(
        db,
        "INSERT INTO boot_grants"
        " (id, app, boot_round, machine, subject, token, created_at, expires_at)"
        " SELECT ?, a.id, a.boot_round, ?, ?, ?, ?, ? FROM apps a WHERE a.org = ? AND a.name = ?",
        (
            row.id, row.machine, row.subject, row.token, row.created_at, row.expires_at, row.org,
            row.app,
        ),
    )  # fmt: skip


def get(db: apsw.Connection, grant: bytes) -> GrantRow | None:
    """The grant of that id, expired or not; None also once all of its app were ended."""
    found = sql.one(
        db,
        "SELECT g.id, a.org, a.name, g.machine, g.subject, g.token, g.created_at, g.expires_at"
        " FROM boot_grants g JOIN apps a ON a.id = g.app AND a.boot_round = g.boot_round"
        " WHERE g.id = ?",
        (grant,),
    )
    return None if found is None else GrantRow(*found)


def end_all(db: apsw.Connection, org: int, app: str) -> None:
    """End every grant of the app there is by then, however many, in one row."""
    sql.run(
        db, "UPDATE apps SET boot_round = boot_round + 1 WHERE org = ? AND name = ?", (org, app)
    )


def purge_expired(db: apsw.Connection, before_ms: int, limit: int) -> int:
    """Forget grants that had expired by then, some of them; how many."""
    return sql.run(
        db,
        "DELETE FROM boot_grants WHERE id IN"
        " (SELECT id FROM boot_grants WHERE expires_at < ? LIMIT ?)",
        (before_ms, limit),
    )
