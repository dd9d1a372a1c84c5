"""Rows of orgs and apps.

Guarantees: what is deleted, softly or not, is not found here unless it is asked for by name with
`deleted=True`. Names stay taken until the purge, so that an undelete always can succeed.
"""

from __future__ import annotations

import apsw
import msgspec

from petsem.crypto.keys import Purpose
from petsem.errors import not_found
from petsem.server import sql
from petsem.server.keys import Owner, PrimaryRow


class OrgRow(msgspec.Struct, frozen=True):
    """An org as stored; times are Unix milliseconds."""

    id: int
    uid: bytes
    name: str
    created_at: int
    deleted_at: int | None
    purge_at: int | None

    @property
    def tokens_owner(self) -> Owner:
        """Whose data key seals the org's root keys and idempotency records."""
        return Owner(Purpose.TOKENS, self.id, self.uid)


class AppRow(msgspec.Struct, frozen=True):
    """An app as stored; `secrets` and `size` (bytes) count its current version."""

    id: int
    incarnation: bytes
    org: int
    name: str
    version: int
    secrets: int
    size: int
    created_at: int
    deleted_at: int | None
    purge_at: int | None

    def owner(self, org_uid: bytes) -> Owner:
        """Whose data key seals the app's values and bundle."""
        return Owner(Purpose.SECRETS, self.org, org_uid, self.id, self.incarnation)


_ORG = "id, uid, name, created_at, deleted_at, purge_at"
_APP = "id, incarnation, org, name, version, secrets, size, created_at, deleted_at, purge_at"
_APP_OF_A = ", ".join(f"a.{column.strip()}" for column in _APP.split(","))
_ORG_OF_O = ", ".join(f"o.{column.strip()}" for column in _ORG.split(","))
_ORG_COLUMNS = _ORG.count(",") + 1
_APP_COLUMNS = _APP.count(",") + 1
_KEY_OF_A = "LEFT JOIN data_keys k ON k.app = a.id AND k.purpose = 'secrets' AND k.is_primary = 1"
_APP_WITH_KEY = (
    f"SELECT o.uid, {_APP_OF_A}, k.id, k.kek, k.wrapped FROM apps a JOIN orgs o ON o.id = a.org"
    f" {_KEY_OF_A} WHERE a.id = ?"
)
_APP_TO_WRITE = (
    f"SELECT {_ORG_OF_O}, {_APP_OF_A}, k.id, k.kek, k.wrapped, s.value"
    f" FROM orgs o JOIN apps a ON a.org = o.id {_KEY_OF_A}"
    " LEFT JOIN org_settings s ON s.org = o.id AND s.key = 'durability'"
    " WHERE o.name = ? AND o.deleted_at IS NULL AND a.name = ? AND a.deleted_at IS NULL"
)
_ORG_AND_APP = (
    f"SELECT {_ORG_OF_O}, {_APP_OF_A} FROM orgs o JOIN apps a ON a.org = o.id"
    " WHERE o.name = ? AND o.deleted_at IS NULL AND a.name = ? AND a.deleted_at IS NULL"
)


def find_org(db: apsw.Connection, name: str, *, deleted: bool = False) -> OrgRow | None:
    """The org of that name; a softly deleted one only on request."""
    found = sql.one(db, f"SELECT {_ORG} FROM orgs WHERE name = ?", (name,))
    if found is None or (found[4] is not None and not deleted):
        return None
    return OrgRow(*found)


def org_by_id(db: apsw.Connection, org_id: int) -> OrgRow | None:
    """The org of a row number, deleted or not."""
    found = sql.one(db, f"SELECT {_ORG} FROM orgs WHERE id = ?", (org_id,))
    return None if found is None else OrgRow(*found)


def get_org(db: apsw.Connection, name: str) -> OrgRow:
    """The live org of that name, or `not_found`."""
    org = find_org(db, name)
    if org is None:
        raise not_found(f"there is no org {name}")
    return org


def find_app(
    db: apsw.Connection, org: OrgRow, name: str, *, deleted: bool = False
) -> AppRow | None:
    """The app of that name in `org`; a softly deleted one only on request."""
    found = sql.one(db, f"SELECT {_APP} FROM apps WHERE org = ? AND name = ?", (org.id, name))
    if found is None or (found[8] is not None and not deleted):
        return None
    return AppRow(*found)


def get_app(db: apsw.Connection, org_name: str, name: str) -> tuple[OrgRow, AppRow]:
    """The live org and app of these names, or `not_found`."""
    found = sql.one(db, _ORG_AND_APP, (org_name, name))
    if found is None:
        raise not_found(f"there is no app {org_name}/{name}")
    return OrgRow(*found[:_ORG_COLUMNS]), AppRow(*found[_ORG_COLUMNS:])


class WritableApp(msgspec.Struct, frozen=True):
    """All that a write of secrets begins with. `durability` is the org's setting, if it is set."""

    org: OrgRow
    app: AppRow
    key: PrimaryRow
    durability: str | None


def get_app_to_write(db: apsw.Connection, org_name: str, name: str) -> WritableApp:
    """The live org and app of these names with what a write needs, or `not_found`."""
    found = sql.one(db, _APP_TO_WRITE, (org_name, name))
    if found is None:
        raise not_found(f"there is no app {org_name}/{name}")
    end = _ORG_COLUMNS + _APP_COLUMNS
    return WritableApp(
        OrgRow(*found[:_ORG_COLUMNS]),
        AppRow(*found[_ORG_COLUMNS:end]),
        PrimaryRow(*found[end : end + 3]),
        found[end + 3],
    )


def app_by_id(db: apsw.Connection, app_id: int) -> tuple[bytes, AppRow, PrimaryRow] | None:
    """The org's uid, the app of a row number, deleted or not, and its primary data key."""
    found = sql.one(db, _APP_WITH_KEY, (app_id,))
    if found is None:
        return None
    return found[0], AppRow(*found[1 : 1 + _APP_COLUMNS]), PrimaryRow(*found[1 + _APP_COLUMNS :])


def list_orgs(db: apsw.Connection, after: str, limit: int) -> list[OrgRow]:
    """Orgs by name, deleted ones too, from the first name beyond `after`."""
    found = sql.rows(
        db, f"SELECT {_ORG} FROM orgs WHERE name > ? ORDER BY name LIMIT ?", (after, limit)
    )
    return [OrgRow(*row) for row in found]


def list_apps(db: apsw.Connection, org: OrgRow, after: str, limit: int) -> list[AppRow]:
    """Apps of `org` by name, deleted ones too, from the first name beyond `after`."""
    found = sql.rows(
        db,
        f"SELECT {_APP} FROM apps WHERE org = ? AND name > ? ORDER BY name LIMIT ?",
        (org.id, after, limit),
    )
    return [AppRow(*row) for row in found]


def insert_org(db: apsw.Connection, uid: bytes, name: str, now_ms: int) -> OrgRow:
    """A new org's row."""
    sql.run(db, "INSERT INTO orgs (uid, name, created_at) VALUES (?, ?, ?)", (uid, name, now_ms))
    return OrgRow(db.last_insert_rowid(), uid, name, now_ms, None, None)


def insert_app(
    db: apsw.Connection, org: OrgRow, incarnation: bytes, name: str, now_ms: int
) -> AppRow:
    """A new app's row, at version 0."""
    sql.run(
        db,
        "INSERT INTO apps (incarnation, org, name, created_at) VALUES (?, ?, ?, ?)",
        (incarnation, org.id, name, now_ms),
    )
    return AppRow(db.last_insert_rowid(), incarnation, org.id, name, 0, 0, 0, now_ms, None, None)


def mark_org(db: apsw.Connection, org: OrgRow, deleted: int | None, purge: int | None) -> None:
    """Delete softly, or undo it with None."""
    sql.run(
        db, "UPDATE orgs SET deleted_at = ?, purge_at = ? WHERE id = ?", (deleted, purge, org.id)
    )


def mark_app(db: apsw.Connection, app: AppRow, deleted: int | None, purge: int | None) -> None:
    """Delete softly, or undo it with None."""
    sql.run(
        db, "UPDATE apps SET deleted_at = ?, purge_at = ? WHERE id = ?", (deleted, purge, app.id)
    )


def purge_org(db: apsw.Connection, org_id: int) -> None:
    """Remove an org and, by its foreign keys, all that was in it."""
    sql.run(db, "DELETE FROM orgs WHERE id = ?", (org_id,))


def purge_app(db: apsw.Connection, app_id: int) -> None:
    """Remove an app and, by its foreign keys, all that was in it."""
    sql.run(db, "DELETE FROM apps WHERE id = ?", (app_id,))


def due_for_purge(db: apsw.Connection, now_ms: int, limit: int) -> tuple[list[int], list[int]]:
    """Row numbers of orgs and of apps whose time to undelete is over."""
    orgs = sql.rows(db, "SELECT id FROM orgs WHERE purge_at <= ? LIMIT ?", (now_ms, limit))
    apps = sql.rows(db, "SELECT id FROM apps WHERE purge_at <= ? LIMIT ?", (now_ms, limit))
    return [row[0] for row in orgs], [row[0] for row in apps]


def read_settings(db: apsw.Connection, org_id: int) -> dict[str, str]:
    """The settings that were set; defaults are the service's business."""
    return dict(sql.rows(db, "SELECT key, value FROM org_settings WHERE org = ?", (org_id,)))


def write_setting(db: apsw.Connection, org_id: int, key: str, value: str | None) -> None:
    """Set one key, or with None put it back to its default."""
    if value is None:
        sql.run(db, "DELETE FROM org_settings WHERE org = ? AND key = ?", (org_id, key))
        return
    sql.run(
        db,
        "INSERT INTO org_settings (org, key, value) VALUES (?, ?, ?)"
        " ON CONFLICT (org, key) DO UPDATE SET value = excluded.value",
        (org_id, key, value),
    )
