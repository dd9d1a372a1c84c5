"""What is sealed under data keys, found and replaced for a rotation.

An envelope names its data key in 32 bytes after an 8-byte header. Here that name is read by SQL, as
a claim that nobody has verified: enough to tell that a key is still needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from petsem.crypto.keys import Purpose
from petsem.server import sql
from petsem.server.keys import CLUSTER, Owner
from petsem.server.store.orgs import AppRow, OrgRow
from petsem.server.store.secrets import SecretRow

_CLAIM: Final = "substr(envelope, 9, 32)"


@dataclass(frozen=True, slots=True)
class AppOfOrg:
    """An app, deleted or not, with what its envelopes are bound to and people call it by."""

    org_uid: bytes
    org_name: str
    app: AppRow

    @property
    def label(self) -> str:
        """`ORG/APP`."""
        return f"{self.org_name}/{self.app.name}"


def app(db: apsw.Connection, app_id: int) -> AppOfOrg | None:
    """The app of that row number."""
    return _app(db, "= ?", app_id)


def app_after(db: apsw.Connection, app_id: int) -> AppOfOrg | None:
    """The first app beyond that row number."""
    return _app(db, "> ?", app_id)


def _app(db: apsw.Connection, condition: str, app_id: int) -> AppOfOrg | None:
    found = sql.one(
        db,
        "SELECT o.uid, o.name, a.id, a.incarnation, a.org, a.name, a.version, a.secrets, a.size,"
        " a.created_at, a.deleted_at, a.purge_at FROM apps a JOIN orgs o ON o.id = a.org"
        f" WHERE a.id {condition} ORDER BY a.id LIMIT 1",
        (app_id,),
    )
    return None if found is None else AppOfOrg(found[0], found[1], AppRow(*found[2:]))


def org_after(db: apsw.Connection, org_id: int) -> OrgRow | None:
    """The first org, deleted or not, beyond that row number."""
    found = sql.one(
        db,
        "SELECT id, uid, name, created_at, deleted_at, purge_at FROM orgs WHERE id > ?"
        " ORDER BY id LIMIT 1",
        (org_id,),
    )
    return None if found is None else OrgRow(*found)


def values_after(
    db: apsw.Connection, app_id: int, data_key: bytes, after: tuple[str, int], limit: int
) -> list[SecretRow]:
    """An app's stored values, history included, that do not name that data key, in order beyond
    (name, since).

    A rollback copies an envelope to the same name and a later version, so to a place that a walk
    in this order has not passed, if it had not passed the place that was copied.
    """
    found = sql.rows(
        db,
        "SELECT name, since, sealed_at, digest, envelope, size FROM secrets"
        " WHERE app = ? AND (name, since) > (?, ?) AND envelope IS NOT NULL"
        f" AND {_CLAIM} <> ? ORDER BY name, since LIMIT ?",
        (app_id, *after, data_key, limit),
    )
    return [SecretRow(*row) for row in found]


def replace_value(
    db: apsw.Connection, app_id: int, row: SecretRow, digest: bytes, envelope: bytes
) -> None:
    """Put another envelope of the same value in place of a row's."""
    sql.run(
        db,
        "UPDATE secrets SET digest = ?, envelope = ? WHERE app = ? AND name = ? AND since = ?",
        (digest, envelope, app_id, row.name, row.since),
    )


def root_keys_after(
    db: apsw.Connection, after: bytes, limit: int
) -> list[tuple[bytes, Owner, bytes, str]]:
    """(id, whose data key seals it, envelope, use) of the root keys of all orgs and of the cluster,
    by id beyond `after`."""
    found = sql.rows(
        db,
        "SELECT r.id, r.org, o.uid, r.envelope, r.use FROM root_keys r"
        " LEFT JOIN orgs o ON o.id = r.org"
        " WHERE r.id > ? ORDER BY r.id LIMIT ?",
        (after, limit),
    )
    return [
        (key_id, CLUSTER if org is None else Owner(Purpose.TOKENS, org, uid), envelope, use)
        for key_id, org, uid, envelope, use in found
    ]


def replace_root_key(db: apsw.Connection, key_id: bytes, envelope: bytes) -> None:
    """Put another envelope of the same root key in its place."""
    sql.run(db, "UPDATE root_keys SET envelope = ? WHERE id = ?", (envelope, key_id))


def ca_key(db: apsw.Connection) -> bytes:
    """The sealed private key of the cluster's CA."""
    envelope: bytes = sql.rows(db, "SELECT ca_key FROM cluster")[0][0]
    return envelope


def replace_ca_key(db: apsw.Connection, envelope: bytes) -> None:
    """Put another envelope of the same CA key in its place."""
    sql.run(db, "UPDATE cluster SET ca_key = ?", (envelope,))


def count_values(db: apsw.Connection, app_id: int) -> int:
    """How many values an app's history has, destroyed ones too."""
    return int(sql.rows(db, "SELECT count(*) FROM secrets WHERE app = ?", (app_id,))[0][0])


def count_all(db: apsw.Connection) -> tuple[int, int]:
    """(values and root keys, owners of data keys), of the whole cluster."""
    values, roots, apps, orgs = (
        int(sql.rows(db, f"SELECT count(*) FROM {name}")[0][0])
        for name in ("secrets", "root_keys", "apps", "orgs")
    )
    return values + roots, apps + orgs + 1


def claimed_in_app(db: apsw.Connection, app_id: int) -> set[bytes]:
    """The data keys that an app's values name. Reads every row of its history. Bundles do not
    count: one whose key is gone is made again."""
    found = sql.rows(
        db,
        f"SELECT DISTINCT {_CLAIM} FROM secrets WHERE app = ? AND envelope IS NOT NULL",
        (app_id,),
    )
    return {row[0] for row in found}


def claimed_by_root_keys(db: apsw.Connection) -> set[tuple[int | None, bytes]]:
    """(org, data key) as the root keys of all orgs, and the cluster's with its CA key, name them.
    Reads the whole table."""
    found = sql.rows(db, f"SELECT org, {_CLAIM} FROM root_keys")
    return {(org, claim) for org, claim in found} | {(None, ca_key(db)[8:40])}


def claimed_by_idempotency(db: apsw.Connection) -> set[bytes]:
    """The data keys that idempotency records need. Reads the whole table."""
    return {row[0] for row in sql.rows(db, "SELECT DISTINCT data_key FROM idempotency")}


def values_not_under(
    db: apsw.Connection, app_id: int, data_key: bytes, limit: int
) -> list[tuple[str, int]]:
    """(name, version) of an app's values whose envelope does not name that data key."""
    found = sql.rows(
        db,
        f"SELECT name, since FROM secrets WHERE app = ? AND envelope IS NOT NULL AND {_CLAIM} <> ?"
        " ORDER BY name, since LIMIT ?",
        (app_id, data_key, limit),
    )
    return [(name, since) for name, since in found]
