"""Removing in pieces what is no longer wanted, so that no transaction is long.

Each function removes at most a piece and says how much that was; the caller comes back until there
is nothing left. What is removed here is overwritten in the database (`secure_delete`).
"""

from __future__ import annotations

from typing import Final

import apsw

from petsem.server import sql
from petsem.server.store import orgs

PIECE_ROWS: Final = 200
PIECE_BYTES: Final = 1024 * 1024


def purge_app(db: apsw.Connection, app: int, now_ms: int) -> int:
    """Remove a piece of an app whose time to undelete is over, in the end the app; how much that
    was, 0 only if the app is gone or not to be purged."""
    due = sql.one(db, "SELECT 1 FROM apps WHERE id = ? AND purge_at <= ?", (app, now_ms))
    if due is None:
        return 0
    gone = _piece_of_app(db, app)
    if not gone:
        orgs.purge_app(db, app)
    return max(gone, 1)


def purge_org(db: apsw.Connection, org: int, now_ms: int) -> int:
    """The same for an org: its apps, its tokens and revocations, in the end the org."""
    due = sql.one(db, "SELECT 1 FROM orgs WHERE id = ? AND purge_at <= ?", (org, now_ms))
    if due is None:
        return 0
    app = sql.one(db, "SELECT id FROM apps WHERE org = ? LIMIT 1", (org,))
    if app is not None:
        gone = _piece_of_app(db, app[0])
        if not gone:
            orgs.purge_app(db, app[0])
    else:
        gone = _piece_of_tokens(db, org)
        if not gone:
            orgs.purge_org(db, org)
    return max(gone, 1)


def _piece_of_app(db: apsw.Connection, app: int) -> int:
    """Remove some of an app's values, then of its versions; how many rows."""
    found = sql.rows(db, "SELECT rowid, size FROM secrets WHERE app = ? LIMIT ?", (app, PIECE_ROWS))
    size = 0
    for count, (rowid, value_size) in enumerate(found):
        size += value_size
        if count and size > PIECE_BYTES:
            return count
        sql.run(db, "DELETE FROM secrets WHERE rowid = ?", (rowid,))
    if found:
        return len(found)
    return sql.run(
        db,
        "DELETE FROM versions WHERE app = ?1 AND version IN"
        " (SELECT version FROM versions WHERE app = ?1 LIMIT ?2)",
        (app, PIECE_ROWS),
    )


def _piece_of_tokens(db: apsw.Connection, org: int) -> int:
    for table in ("tokens", "revocations"):
        gone = sql.run(
            db,
            f"DELETE FROM {table} WHERE nonce IN (SELECT nonce FROM {table} WHERE org = ? LIMIT ?)",
            (org, PIECE_ROWS),
        )
        if gone:
            return gone
    return 0


def forget_requests(db: apsw.Connection, before_ms: int) -> int:
    """Remove some of the idempotency records made up to then; how many."""
    return sql.run(
        db,
        "DELETE FROM idempotency WHERE (nonce, method, path, key) IN"
        " (SELECT nonce, method, path, key FROM idempotency WHERE at <= ? ORDER BY at LIMIT ?)",
        (before_ms, PIECE_ROWS),
    )


def apps_without_bundle(
    db: apsw.Connection, after: int, look_at: int, limit: int
) -> tuple[list[tuple[int, int]], int]:
    """(row number, version) of live apps whose bundle is missing or of another version, among the
    next `look_at`; and where to go on, 0 from the start."""
    window = sql.one(
        db, "SELECT id FROM apps WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?", (after, look_at - 1)
    )
    last = None if window is None else window[0]
    found = sql.rows(
        db,
        "SELECT a.id, a.version FROM apps a LEFT JOIN bundles b ON b.app = a.id"
        " WHERE a.id > ?1 AND (?2 IS NULL OR a.id <= ?2) AND a.deleted_at IS NULL"
        " AND a.version > 0 AND (b.app IS NULL OR b.version <> a.version) ORDER BY a.id LIMIT ?3",
        (after, last, limit),
    )
    missing = [(app, version) for app, version in found]
    if len(missing) == limit:
        return missing, missing[-1][0]
    return missing, last or 0
