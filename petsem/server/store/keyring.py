"""Rows of KEKs and data keys.

A KEK is known by its id and state; the key itself is in the nodes' keyrings. A data key that is no
longer the primary one of its owner never becomes it again, so once nothing that is stored names it,
nothing ever will.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast

import apsw

from petsem.crypto.keys import Purpose
from petsem.server import sql
from petsem.server.keys import Owner

KekState = Literal["waiting", "primary", "retired"]


@dataclass(frozen=True, slots=True)
class KekRow:
    """A KEK as the cluster knows it."""

    purpose: Purpose
    id: bytes
    state: KekState


@dataclass(frozen=True, slots=True)
class DataKeyRow:
    """A data key as stored; `owner_name` is for people: `ORG/APP`, `ORG`, or None (the cluster)."""

    id: bytes
    owner: Owner
    owner_name: str | None
    kek: bytes
    wrapped: bytes

    @property
    def label(self) -> str:
        """What a message calls it."""
        return f"the data key of {self.owner_name or 'the cluster'}"


_DATA_KEY: Final = (
    "SELECT d.id, d.purpose, d.org, o.uid, d.app, a.incarnation, o.name, a.name, d.kek, d.wrapped"
    " FROM data_keys d LEFT JOIN orgs o ON o.id = d.org LEFT JOIN apps a ON a.id = d.app"
)


def keks(db: apsw.Connection) -> list[KekRow]:
    """Every KEK that the cluster knows."""
    return [_kek(*row) for row in sql.rows(db, "SELECT purpose, id, state FROM keks")]


def find_kek(db: apsw.Connection, kek_id: bytes) -> KekRow | None:
    """The KEK of that id. A keyring holds a key for one purpose only, so there is one row."""
    found = sql.one(db, "SELECT purpose, id, state FROM keks WHERE id = ?", (kek_id,))
    return None if found is None else _kek(*found)


def primary_kek(db: apsw.Connection, purpose: Purpose) -> bytes:
    """The id of the KEK that new data keys are wrapped with; empty if there is none."""
    found = sql.one(
        db, "SELECT id FROM keks WHERE purpose = ? AND state = 'primary'", (purpose.value,)
    )
    return b"" if found is None else found[0]


def add_waiting(db: apsw.Connection, purpose: Purpose, kek_id: bytes) -> None:
    """Make a KEK known, unless it is."""
    sql.run(
        db,
        "INSERT INTO keks (purpose, id, state) VALUES (?, ?, 'waiting') ON CONFLICT DO NOTHING",
        (purpose.value, kek_id),
    )


def make_primary(db: apsw.Connection, kek: KekRow) -> None:
    """Wrap new data keys of its purpose with this KEK; the one before it is retired."""
    sql.run(
        db,
        "UPDATE keks SET state = 'retired' WHERE purpose = ? AND state = 'primary'",
        (kek.purpose.value,),
    )
    set_state(db, kek, "primary")


def set_state(db: apsw.Connection, kek: KekRow, state: KekState) -> None:
    """Change one KEK's state."""
    sql.run(
        db,
        "UPDATE keks SET state = ? WHERE purpose = ? AND id = ?",
        (state, kek.purpose.value, kek.id),
    )


def forget_kek(db: apsw.Connection, kek: KekRow) -> None:
    """Remove a KEK's row."""
    sql.run(db, "DELETE FROM keks WHERE purpose = ? AND id = ?", (kek.purpose.value, kek.id))


def count_wrapped(db: apsw.Connection, purpose: Purpose, kek_id: bytes) -> int:
    """How many data keys a KEK wraps, those of softly deleted apps and orgs included."""
    found = sql.rows(
        db,
        "SELECT count(*) FROM data_keys WHERE purpose = ? AND kek = ?",
        (purpose.value, kek_id),
    )
    return int(found[0][0])


def keks_in_use(db: apsw.Connection, purpose: Purpose) -> list[bytes]:
    """The KEKs that wrap a data key, or new ones would be wrapped with. A few point reads, however
    many data keys there are."""
    primary = primary_kek(db, purpose)
    found = {primary} if primary else set()
    last: bytes | None = b""
    while last is not None:
        last = sql.rows(
            db,
            "SELECT min(kek) FROM data_keys WHERE purpose = ? AND kek > ?",
            (purpose.value, last),
        )[0][0]
        if last is not None:
            found.add(last)
    return sorted(found)


def wrapped_otherwise(
    db: apsw.Connection, purpose: Purpose, kek_id: bytes, after: tuple[bytes, bytes], limit: int
) -> list[DataKeyRow]:
    """Data keys of a purpose that this KEK does not wrap, in order beyond (KEK, id)."""
    # Two ranges of the index, so that what the KEK itself wraps is never walked over.
    found: list[sql.Row] = []
    for side in ("<", ">"):
        found += sql.rows(
            db,
            f"{_DATA_KEY} WHERE d.purpose = ? AND (d.kek, d.id) > (?, ?) AND d.kek {side} ?"
            " ORDER BY d.kek, d.id LIMIT ?",
            (purpose.value, *after, kek_id, limit - len(found)),
        )
    return [_data_key(*row) for row in found]


def count_wrapped_otherwise(db: apsw.Connection, purpose: Purpose, kek_id: bytes) -> int:
    """How many data keys of a purpose this KEK does not wrap."""
    found = sql.rows(
        db,
        "SELECT count(*) FROM data_keys WHERE purpose = ? AND kek <> ?",
        (purpose.value, kek_id),
    )
    return int(found[0][0])


def rewrap(db: apsw.Connection, data_key: bytes, kek_id: bytes, wrapped: bytes) -> None:
    """Put a data key's new wrapping in place of the old one."""
    sql.run(
        db,
        "UPDATE data_keys SET kek = ?, wrapped = ? WHERE id = ?",
        (kek_id, wrapped, data_key),
    )


def data_keys(db: apsw.Connection, after: bytes, limit: int) -> list[DataKeyRow]:
    """All data keys by id, beyond `after`."""
    found = sql.rows(db, f"{_DATA_KEY} WHERE d.id > ? ORDER BY d.id LIMIT ?", (after, limit))
    return [_data_key(*row) for row in found]


def ids_of(db: apsw.Connection, owner: Owner) -> set[bytes]:
    """The ids of an owner's data keys, primary and old."""
    found = sql.rows(
        db,
        "SELECT id FROM data_keys WHERE purpose = ? AND org IS ? AND app IS ?",
        (owner.purpose.value, owner.org, owner.app),
    )
    return {row[0] for row in found}


def primary_data_key(db: apsw.Connection, owner: Owner) -> bytes:
    """The id of the key that an owner's new envelopes are sealed under."""
    found: bytes = sql.rows(
        db,
        "SELECT id FROM data_keys WHERE purpose = ? AND org IS ? AND app IS ? AND is_primary = 1",
        (owner.purpose.value, owner.org, owner.app),
    )[0][0]
    return found


def old_data_keys(
    db: apsw.Connection, app: int | None, after: bytes, limit: int
) -> list[DataKeyRow]:
    """Data keys that seal nothing new, of one app or of all owners, by id beyond `after`."""
    scope = "" if app is None else " AND d.app = ?3"
    found = sql.rows(
        db,
        f"{_DATA_KEY} WHERE d.is_primary = 0 AND d.id > ?1{scope} ORDER BY d.id LIMIT ?2",
        (after, limit) if app is None else (after, limit, app),
    )
    return [_data_key(*row) for row in found]


def drop_data_key(db: apsw.Connection, data_key: bytes) -> None:
    """Remove a data key that is not a primary one."""
    sql.run(db, "DELETE FROM data_keys WHERE id = ? AND is_primary = 0", (data_key,))


def _kek(purpose: str, kek_id: bytes, state: str) -> KekRow:
    return KekRow(Purpose(purpose), kek_id, cast("KekState", state))


def _data_key(
    key_id: bytes,
    purpose: str,
    org: int | None,
    uid: bytes | None,
    app: int | None,
    incarnation: bytes | None,
    org_name: str | None,
    app_name: str | None,
    kek: bytes,
    wrapped: bytes,
) -> DataKeyRow:
    owner = Owner(Purpose(purpose), org, uid or b"", app, incarnation or b"")
    name = org_name if app_name is None else f"{org_name}/{app_name}"
    return DataKeyRow(key_id, owner, name, kek, wrapped)
