"""New data keys for everything, and all that is stored sealed again under them.

Order: the cluster, the orgs, root keys, then one app after another, then the old keys
(`petsem.server.old_keys`). A cursor says how far it came; every piece is a short transaction, and
doing a piece twice is harmless.

Guarantees: a value changes its envelope and digest and nothing else. What cannot be opened is left
as it is and stops nothing. It drops no key. Idempotency records are not sealed again: the MAC in
them is of a body that is not stored, so they keep their data key until they expire.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import apsw
import msgspec
from msgspec.structs import replace

from petsem.crypto.digest import secret_digest
from petsem.crypto.envelope import DamagedEnvelope, Place, Record, key_id_of, seal
from petsem.errors import invalid
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.store import sealed
from petsem.server.store.secrets import SecretRow
from petsem.server.writer import Txn

BYTES_MAX: Final = 1024 * 1024
"""Of values and bundles in one transaction, or one value more."""
_PAGE_ROWS: Final = 16


class Stage(enum.StrEnum):
    """What is done next."""

    CLUSTER = "cluster"
    ORGS = "orgs"
    ROOT_KEYS = "root-keys"
    APPS = "apps"
    OLD_KEYS = "old-keys"


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a rotation has come.

    `row` is the org or app that was finished last, or if it has `begun`, the app whose values come
    now, beyond (`name`, `since`). `key` is the last root key or old data key, in hexadecimal.
    `left` is an estimate, for people.
    """

    stage: Stage
    left: int
    row: int = 0
    begun: bool = False
    name: str = ""
    since: int = 0
    key: str = ""

    @property
    def key_bytes(self) -> bytes:
        """`key` as it is stored."""
        try:
            return bytes.fromhex(self.key)
        except ValueError:
            raise invalid(
                "that is not where this work stopped; start it again without it"
            ) from None


def begin(db: apsw.Connection, only: int | None) -> Cursor:
    """The start of a rotation of one app (by row number), or of everything. May take long."""
    # Beside the rows, a key is made for each owner, and an old one looked at in the end.
    if only is not None:
        return Cursor(Stage.APPS, sealed.count_values(db, only) + 2, row=only)
    rows, owners = sealed.count_all(db)
    return Cursor(Stage.CLUSTER, rows + 2 * owners)


@dataclass(slots=True)
class _Budget:
    """What a transaction may still do, and what it has done."""

    rows: int
    bytes: int = BYTES_MAX
    done: int = 0

    def spend(self, rows: int = 1, bytes_: int = 0) -> None:
        self.rows -= rows
        self.bytes -= bytes_
        self.done += rows


class Resealer:
    """Does one bounded piece at a time."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._stages: dict[Stage, Callable[[Txn, Cursor, int | None, _Budget], Cursor]] = {
            Stage.CLUSTER: self._cluster,
            Stage.ORGS: self._orgs,
            Stage.ROOT_KEYS: self._root_keys,
            Stage.APPS: self._apps,
        }

    def advance(self, txn: Txn, cursor: Cursor, only: int | None, limit: int) -> tuple[Cursor, int]:
        """Go on from `cursor` by about `limit` rows: (the new cursor, rows done).

        `unavailable` if this node lacks a KEK that it needs.
        """
        if only is not None and (cursor.stage, cursor.row) != (Stage.APPS, only):
            raise invalid("that is where another rotation stopped; start this one without it")
        budget = _Budget(limit)
        while budget.rows > 0 and budget.bytes > 0 and cursor.stage is not Stage.OLD_KEYS:
            cursor = self._stages[cursor.stage](txn, cursor, only, budget)
        return replace(cursor, left=max(cursor.left - budget.done, 1)), budget.done

    def _cluster(self, txn: Txn, cursor: Cursor, _: int | None, budget: _Budget) -> Cursor:
        self._keys.create(txn.db, CLUSTER, txn.now_ms)
        place = CLUSTER.place(Record.CA_KEY, b"ca")
        again = self._again(txn.db, CLUSTER, place, sealed.ca_key(txn.db))
        if again is not None:
            sealed.replace_ca_key(txn.db, again[0])
        budget.spend()
        return Cursor(Stage.ORGS, cursor.left)

    def _orgs(self, txn: Txn, cursor: Cursor, _: int | None, budget: _Budget) -> Cursor:
        org = sealed.org_after(txn.db, cursor.row)
        if org is None:
            return Cursor(Stage.ROOT_KEYS, cursor.left)
        self._keys.create(txn.db, org.tokens_owner, txn.now_ms)
        budget.spend()
        return replace(cursor, row=org.id)

    def _root_keys(self, txn: Txn, cursor: Cursor, _: int | None, budget: _Budget) -> Cursor:
        rows = min(budget.rows, _PAGE_ROWS)
        page = sealed.root_keys_after(txn.db, cursor.key_bytes, rows)
        for key_id, owner, envelope, _use in page:
            again = self._again(txn.db, owner, owner.place(Record.ROOT_KEY, key_id), envelope)
            if again is not None:
                sealed.replace_root_key(txn.db, key_id, again[0])
            cursor = replace(cursor, key=key_id.hex())
        budget.spend(len(page))
        return cursor if len(page) == rows else Cursor(Stage.APPS, cursor.left)

    def _apps(self, txn: Txn, cursor: Cursor, only: int | None, budget: _Budget) -> Cursor:
        if cursor.begun:
            return self._values(txn, cursor, only, budget)
        found = sealed.app_after(txn.db, cursor.row) if only is None else sealed.app(txn.db, only)
        if found is None:
            return Cursor(Stage.OLD_KEYS, cursor.left)
        self._keys.create(txn.db, found.app.owner(found.org_uid), txn.now_ms)
        budget.spend()
        return Cursor(Stage.APPS, cursor.left, row=found.app.id, begun=True)

    def _values(self, txn: Txn, cursor: Cursor, only: int | None, budget: _Budget) -> Cursor:
        """One page of an app's values; at its end the bundle is made again."""
        found = sealed.app(txn.db, cursor.row)
        after, rows = (cursor.name, cursor.since), min(budget.rows, _PAGE_ROWS)
        page: list[SecretRow] = []
        if found is not None:
            owner = found.app.owner(found.org_uid)
            # Not those under the new key: whoever writes meanwhile could keep ahead of the walk.
            primary = self._keys.primary(txn.db, owner).id
            page = sealed.values_after(txn.db, found.app.id, primary, after, rows)
            for row in page:
                self._value(txn.db, found.app.id, owner, row)
                cursor = replace(cursor, name=row.name, since=row.since)
        budget.spend(len(page), sum(row.size for row in page))
        if len(page) == rows:
            return cursor
        if found is not None:
            txn.changed[found.app.id] = None
            budget.rows -= found.app.secrets
            budget.bytes -= found.app.size
        stage = Stage.APPS if only is None else Stage.OLD_KEYS
        return Cursor(stage, cursor.left, row=cursor.row)

    def _value(self, db: apsw.Connection, app_id: int, owner: Owner, row: SecretRow) -> None:
        assert row.envelope is not None
        name = row.name.encode()
        again = self._again(db, owner, owner.place(Record.VALUE, name, row.sealed_at), row.envelope)
        if again is not None:
            envelope, value = again
            key = self._keys.primary(db, owner)
            digest = secret_digest(key, owner.incarnation, row.name, value)
            sealed.replace_value(db, app_id, row, digest, envelope)

    def _again(
        self, db: apsw.Connection, owner: Owner, place: Place, envelope: bytes
    ) -> tuple[bytes, bytes] | None:
        """(envelope under the owner's primary key, plaintext); None if it is that already, or
        cannot be opened."""
        key = self._keys.primary(db, owner)
        try:
            if key_id_of(envelope) == key.id:
                return None
            plain = self._keys.open(db, owner, place, envelope)
        except DamagedEnvelope:
            return None
        return seal(key, place, plain), plain
