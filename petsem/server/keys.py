"""Data keys at run time: found by id, unwrapped once, kept in a bounded cache.

Guarantees: a key is used only for the row it was made for, and a KEK that this node does not hold
is named in the error. It does not decide which KEK is primary; that is a row in the database.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import apsw
import msgspec

from petsem.crypto.envelope import (
    DamagedEnvelope,
    Place,
    Record,
    key_id_of,
    open_sealed,
    seal,
    unwrap_data_key,
    wrap_data_key,
)
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Key, Purpose, generate_data_key
from petsem.errors import Code, PetsemError
from petsem.server import sql

_CACHE_MAX: Final = 65_536


class Owner(msgspec.Struct, frozen=True):
    """Whose a data key is: an app's, an org's, or (with neither) the cluster's.

    `org` and `app` are row numbers, `org_uid` and `incarnation` what is bound into envelopes.
    """

    purpose: Purpose
    org: int | None = None
    org_uid: bytes = b""
    app: int | None = None
    incarnation: bytes = b""

    def place(self, record: Record, name: bytes, version: int = 0) -> Place:
        """Where a record of this owner is sealed for."""
        return Place(record, self.purpose, self.org_uid, self.incarnation, name, version)


class PrimaryRow(msgspec.Struct, frozen=True):
    """The row of an owner's primary data key; all None if there is none."""

    id: bytes | None
    kek: bytes | None
    wrapped: bytes | None


CLUSTER: Final = Owner(Purpose.CLUSTER)


class MissingKek(PetsemError):  # noqa: N818 - a state
    """A KEK that this node does not hold; another node may."""

    def __init__(self, purpose: Purpose, kek_id: bytes) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            f"this node lacks the {purpose.value} key {kek_id.hex()}; "
            "add it to the node's keyring, or ask another node",
        )
        self.purpose = purpose


class Keys:
    """The keyring, and the data keys that it has opened so far."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        # By owner too: a key that was opened for one is not thereby another's.
        self._open: OrderedDict[tuple[bytes, bytes, bytes], Key] = OrderedDict()

    @property
    def keyring(self) -> Keyring:
        """The KEKs that this node holds now."""
        return self._keyring

    def replace(self, keyring: Keyring) -> None:
        """Take a keyring that was read again; keys that a lost KEK had opened are forgotten."""
        self._keyring = keyring
        self._open.clear()

    def seal(self, db: apsw.Connection, owner: Owner, place: Place, plaintext: bytes) -> bytes:
        """Seal under the owner's primary data key."""
        return seal(self.primary(db, owner), place, plaintext)

    def open(self, db: apsw.Connection, owner: Owner, place: Place, envelope: bytes) -> bytes:
        """Open under the data key that the envelope names, which must be the owner's.

        Raises `DamagedEnvelope`, also when no such key of this owner exists, and `unavailable` when
        the KEK is not on this node.
        """
        return open_sealed(self.data_key(db, owner, key_id_of(envelope)), place, envelope)

    def open_known(self, owner: Owner, place: Place, envelope: bytes) -> bytes | None:
        """The same for a key that was opened before; None for any other."""
        key = self._open.get((key_id_of(envelope), owner.org_uid, owner.incarnation))
        return None if key is None else open_sealed(key, place, envelope)

    def data_key(self, db: apsw.Connection, owner: Owner, key_id: bytes) -> Key:
        """The data key of that id; `DamagedEnvelope` if this owner has none such, or a damaged
        one."""
        key = self._open.get((key_id, owner.org_uid, owner.incarnation))
        if key is None:
            found = sql.one(
                db,
                "SELECT kek, wrapped FROM data_keys"
                " WHERE id = ? AND purpose = ? AND org IS ? AND app IS ?",
                (key_id, owner.purpose.value, owner.org, owner.app),
            )
            if found is None:
                raise DamagedEnvelope
            key = self._unwrap(owner, key_id, *found)
        return key

    def primary(self, db: apsw.Connection, owner: Owner) -> Key:
        """The key that new envelopes of this owner are sealed under; `corrupt` if there is none
        that can be used."""
        found = sql.one(
            db,
            "SELECT id, kek, wrapped FROM data_keys WHERE purpose = ? AND coalesce(org, 0) = ?"
            " AND coalesce(app, 0) = ? AND is_primary = 1",
            (owner.purpose.value, owner.org or 0, owner.app or 0),
        )
        return self.primary_of(owner, PrimaryRow(*(found or (None, None, None))))

    def primary_of(self, owner: Owner, row: PrimaryRow) -> Key:
        """The same, for a caller who has read the key's row together with others."""
        if row.id is None or row.kek is None or row.wrapped is None:
            raise PetsemError(
                Code.CORRUPT, "a data key is missing; run 'petsem check' on this node"
            )
        key = self._open.get((row.id, owner.org_uid, owner.incarnation))
        if key is not None:
            return key
        try:
            return self._unwrap(owner, row.id, row.kek, row.wrapped)
        except DamagedEnvelope:
            raise PetsemError(
                Code.CORRUPT,
                f"the data key {row.id.hex()} is damaged; run 'petsem check' on this node",
            ) from None

    def create(self, db: apsw.Connection, owner: Owner, now_ms: int) -> Key:
        """Make a data key for `owner` and make it the primary one; earlier ones stay readable."""
        key = generate_data_key()
        kek = self.primary_kek(db, owner.purpose)
        wrapped = wrap_data_key(kek, owner.place(Record.DATA_KEY, key.id), key)
        sql.run(
            db,
            "UPDATE data_keys SET is_primary = 0 WHERE purpose = ? AND coalesce(org, 0) = ?"
            " AND coalesce(app, 0) = ? AND is_primary = 1",
            (owner.purpose.value, owner.org or 0, owner.app or 0),
        )
        sql.run(
            db,
            "INSERT INTO data_keys (id, purpose, org, app, kek, wrapped, is_primary, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, 1, ?)",
            (key.id, owner.purpose.value, owner.org, owner.app, kek.id, wrapped, now_ms),
        )
        return key

    def primary_kek(self, db: apsw.Connection, purpose: Purpose) -> Key:
        """The KEK that new data keys are wrapped with."""
        found = sql.one(
            db, "SELECT id FROM keks WHERE purpose = ? AND state = 'primary'", (purpose.value,)
        )
        if found is None:
            raise PetsemError(Code.CORRUPT, f"the cluster has no primary key for {purpose.value}")
        return self.kek(purpose, found[0])

    def kek(self, purpose: Purpose, kek_id: bytes) -> Key:
        """The KEK of that id, if this node holds it."""
        key = self._keyring.get(purpose, kek_id)
        if key is None:
            raise MissingKek(purpose, kek_id)
        return key

    def _unwrap(self, owner: Owner, key_id: bytes, kek_id: bytes, wrapped: bytes) -> Key:
        kek = self.kek(owner.purpose, kek_id)
        key = unwrap_data_key(kek, owner.place(Record.DATA_KEY, key_id), wrapped)
        if len(self._open) >= _CACHE_MAX:
            self._open.popitem(last=False)
        self._open[key_id, owner.org_uid, owner.incarnation] = key
        return key
