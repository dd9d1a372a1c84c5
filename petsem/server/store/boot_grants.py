"""Rows of boot grants: who asked that a machine may boot, and until when it may."""

from __future__ import annotations

import apsw
import msgspec

from petsem.server import sql

_COLUMNS = "id, org, app, machine, subject, token, created_at, expires_at"


class GrantRow(msgspec.Struct, frozen=True):
    """One machine of one app. `subject` and `token` are whose asked; `id` has 16 bytes."""

    id: bytes
    org: int
    app: str
    machine: str
    subject: str
    token: bytes
    created_at: int
    expires_at: int


def insert(db: apsw.Connection, row: GrantRow) -> None:
    """Record a grant."""
    sql.run(
        db,
        f"INSERT INTO boot_grants ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id, row.org, row.app, row.machine, row.subject, row.token, row.created_at,
            row.expires_at,
        ),
    )  # fmt: skip


def get(db: apsw.Connection, grant: bytes) -> GrantRow | None:
    """The grant of that id, expired or not."""
    found = sql.one(db, f"SELECT {_COLUMNS} FROM boot_grants WHERE id = ?", (grant,))
    return None if found is None else GrantRow(*found)


def purge_expired(db: apsw.Connection, before_ms: int, limit: int) -> int:
    """Forget grants that had expired by then, some of them; how many."""
    return sql.run(
        db,
        "DELETE FROM boot_grants WHERE id IN"
        " (SELECT id FROM boot_grants WHERE expires_at < ? LIMIT ?)",
        (before_ms, limit),
    )
