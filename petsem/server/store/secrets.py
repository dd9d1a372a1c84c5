"""Rows of secrets and of their versions.

A value is current in the versions `since <= v < until`. Writing closes the row that was current
and opens another, so that any version can be read as it was, and a rollback copies rows.
"""

from __future__ import annotations

import apsw
import msgspec

from petsem.server import sql
from petsem.server.store.orgs import AppRow

_SECRET = "name, since, sealed_at, digest, envelope, size"


class SecretRow(msgspec.Struct, frozen=True):
    """A value as stored. `digest` and `envelope` are None once it was destroyed."""

    name: str
    since: int
    sealed_at: int
    digest: bytes | None
    envelope: bytes | None
    size: int


class ListedRow(msgspec.Struct, frozen=True):
    """What a listing shows of a current secret, with who made the version that set it."""

    name: str
    since: int
    digest: bytes | None
    at: int
    subject: str
    token: bytes


class VersionRow(msgspec.Struct, frozen=True):
    """One version of an app and who made it."""

    version: int
    at: int
    subject: str
    token: bytes
    change: str
    rolled_back_to: int | None


def current(db: apsw.Connection, app_id: int) -> list[SecretRow]:
    """All current values, by name."""
    found = sql.rows(
        db,
        f"SELECT {_SECRET} FROM secrets WHERE app = ? AND until IS NULL ORDER BY name",
        (app_id,),
    )
    return [SecretRow(*row) for row in found]


def current_one(db: apsw.Connection, app_id: int, name: str) -> SecretRow | None:
    """The current value of one name."""
    found = sql.one(
        db,
        f"SELECT {_SECRET} FROM secrets WHERE app = ? AND name = ? AND until IS NULL",
        (app_id, name),
    )
    return None if found is None else SecretRow(*found)


def at_version(db: apsw.Connection, app_id: int, version: int) -> list[SecretRow]:
    """All values as they were in one version, by name."""
    found = sql.rows(
        db,
        f"SELECT {_SECRET} FROM secrets WHERE app = ?1 AND since <= ?2"
        " AND (until IS NULL OR until > ?2) ORDER BY name",
        (app_id, version),
    )
    return [SecretRow(*row) for row in found]


def listing(db: apsw.Connection, app_id: int, version: int | None) -> list[ListedRow]:
    """The names of one version, or of the current one, with what a listing shows, by name."""
    # An index finds what is current; any other version takes a look at the whole history.
    then = "s.until IS NULL"
    if version is not None:
        then = "s.since <= ?2 AND (s.until IS NULL OR s.until > ?2)"
    found = sql.rows(
        db,
        "SELECT s.name, s.since, s.digest, v.created_at, v.subject, v.token FROM secrets s"
        " JOIN versions v ON v.app = s.app AND v.version = s.since"
        f" WHERE s.app = ?1 AND ?2 IS ?2 AND {then} ORDER BY s.name",
        (app_id, version),
    )
    return [ListedRow(*row) for row in found]


def close(db: apsw.Connection, app_id: int, name: str, version: int) -> int | None:
    """End a name's current value with `version`; its size in bytes, or None if there was none."""
    found = sql.rows(
        db,
        "UPDATE secrets SET until = ? WHERE app = ? AND name = ? AND until IS NULL RETURNING size",
        (version, app_id, name),
    )
    return found[0][0] if found else None


def insert(db: apsw.Connection, app_id: int, row: SecretRow) -> None:
    """Open a new current value."""
    sql.run(
        db,
        "INSERT INTO secrets (app, name, since, sealed_at, digest, envelope, size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (app_id, row.name, row.since, row.sealed_at, row.digest, row.envelope, row.size),
    )


def add_version(db: apsw.Connection, app: AppRow, row: VersionRow, secrets: int, size: int) -> None:
    """Record a version and move the app to it, with the new counts of names and bytes."""
    sql.run(
        db,
        "INSERT INTO versions (app, version, created_at, subject, token, change, rolled_back_to)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (app.id, row.version, row.at, row.subject, row.token, row.change, row.rolled_back_to),
    )
    sql.run(
        db,
        "UPDATE apps SET version = ?, secrets = ?, size = ? WHERE id = ?",
        (row.version, secrets, size, app.id),
    )


def versions(db: apsw.Connection, app_id: int, before: int, limit: int) -> list[VersionRow]:
    """Versions below `before`, newest first."""
    found = sql.rows(
        db,
        "SELECT version, created_at, subject, token, change, rolled_back_to FROM versions"
        " WHERE app = ? AND version < ? ORDER BY version DESC LIMIT ?",
        (app_id, before, limit),
    )
    return [VersionRow(*row) for row in found]


def names_changed(
    db: apsw.Connection, app_id: int, first: int, last: int
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """For versions first..last: the names each set, and those it took away."""
    opened: dict[int, list[str]] = {}
    closed: dict[int, list[str]] = {}
    for name, since in sql.rows(
        db,
        "SELECT name, since FROM secrets WHERE app = ? AND since BETWEEN ? AND ? ORDER BY name",
        (app_id, first, last),
    ):
        opened.setdefault(since, []).append(name)
    for name, until in sql.rows(
        db,
        "SELECT name, until FROM secrets WHERE app = ? AND until BETWEEN ? AND ? ORDER BY name",
        (app_id, first, last),
    ):
        if name not in opened.get(until, ()):
            closed.setdefault(until, []).append(name)
    return opened, closed


def stored_values(db: apsw.Connection, app_id: int, name: str) -> list[tuple[int, int | None, int]]:
    """(since, until, sealed_at) of every value of a name that is not destroyed, oldest first."""
    found = sql.rows(
        db,
        "SELECT since, until, sealed_at FROM secrets"
        " WHERE app = ? AND name = ? AND envelope IS NOT NULL ORDER BY since",
        (app_id, name),
    )
    return [(since, until, sealed_at) for since, until, sealed_at in found]


def destroy(db: apsw.Connection, app_id: int, name: str, sealed_at: int) -> list[int]:
    """Remove one sealed value from every row that holds it; the versions that set it."""
    found = sql.rows(
        db,
        "UPDATE secrets SET envelope = NULL, digest = NULL WHERE app = ? AND name = ?"
        " AND sealed_at = ? AND envelope IS NOT NULL RETURNING since",
        (app_id, name, sealed_at),
    )
    return [row[0] for row in found]


def read_bundle(db: apsw.Connection, app_id: int) -> tuple[int, bytes] | None:
    """The version and envelope of the app's boot bundle, if there is one."""
    found = sql.one(db, "SELECT version, envelope FROM bundles WHERE app = ?", (app_id,))
    return None if found is None else (found[0], found[1])


def write_bundle(db: apsw.Connection, app_id: int, version: int, envelope: bytes) -> None:
    """Put a bundle in its place."""
    sql.run(
        db,
        "INSERT INTO bundles (app, version, envelope) VALUES (?, ?, ?) ON CONFLICT (app)"
        " DO UPDATE SET version = excluded.version, envelope = excluded.envelope",
        (app_id, version, envelope),
    )


def drop_bundle(db: apsw.Connection, app_id: int) -> None:
    """Do without a bundle until the next write."""
    sql.run(db, "DELETE FROM bundles WHERE app = ?", (app_id,))
