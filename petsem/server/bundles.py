"""The boot bundle: one sealed row per app that answers a whole fetch.

    etag 16 | the serialised FetchResponse of the current version, without freshness and etag

Guarantees: it is a cache. Rows are the truth: a bundle that is missing, damaged or of another
version is made again from them, and one that cannot be made is dropped and blocks nobody.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final

import apsw
import msgspec
import structlog

from petsem.crypto.digest import etag
from petsem.crypto.envelope import DamagedEnvelope, Record, seal
from petsem.crypto.keys import Key
from petsem.errors import Code, PetsemError
from petsem.secretbytes import SecretBytes
from petsem.server.keys import Keys, Owner
from petsem.server.store import orgs, secrets
from petsem.server.store.secrets import SecretRow
from petsem.server.writer import Txn
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

ETAG_BYTES: Final = 16


class Patch(msgspec.Struct, frozen=True):
    """What one batch made of an app: `version`, out of the one before, under `key`. With it the
    next bundle comes from the last one, instead of from every row."""

    owner: Owner
    key: Key
    version: int
    set: Mapping[str, SecretBytes]
    unset: tuple[str, ...]


class Bundles:
    """Makes and opens bundles, and assembles the same answer from rows."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.damaged: set[int] = set()
        """Apps whose stored bundle could not be opened; housekeeping has them made again."""

    def finish(self, txn: Txn, topic: Hashable, notes: list[object]) -> None:
        """Make the bundle of an app that a group changed; other topics are no apps.

        `notes` are the batches that changed it, in order; anything else among them, and the bundle
        is made from the rows.
        """
        if not isinstance(topic, int):
            return
        patches = [note for note in notes if isinstance(note, Patch)]
        if len(patches) < len(notes) or not self._patch(txn.db, topic, patches):
            self._rebuild(txn.db, topic)

    def open(
        self, db: apsw.Connection, owner: Owner, version: int, envelope: bytes
    ) -> tuple[bytes, bytes] | None:
        """(etag, response) of a stored bundle, or None if it cannot be used."""
        try:
            plain = self._keys.open(db, owner, owner.place(Record.BUNDLE, b"", version), envelope)
        except DamagedEnvelope:
            if owner.app is not None and owner.app not in self.damaged:
                self.damaged.add(owner.app)
                log.warning("bundle_damaged", app=owner.incarnation.hex())
            return None
        return plain[:ETAG_BYTES], plain[ETAG_BYTES:]

    def open_with_known_key(
        self, owner: Owner, version: int, envelope: bytes
    ) -> tuple[bytes, bytes] | None:
        """The same without the database: None also where the key is not open yet, and without a
        word where the bundle is damaged; `open` tells."""
        try:
            plain = self._keys.open_known(owner, owner.place(Record.BUNDLE, b"", version), envelope)
        except DamagedEnvelope:
            return None
        return None if plain is None else (plain[:ETAG_BYTES], plain[ETAG_BYTES:])

    def from_rows(
        self, db: apsw.Connection, owner: Owner, version: int, rows: list[SecretRow]
    ) -> tuple[bytes, bytes]:
        """(etag, response) made from rows; `corrupt` naming the first secret that is damaged."""
        return self._assemble(db, owner, self._keys.primary(db, owner), version, rows)

    def _assemble(
        self,
        db: apsw.Connection,
        owner: Owner,
        key: Key,
        version: int,
        rows: list[SecretRow],
    ) -> tuple[bytes, bytes]:
        secret = [
            pb.Secret(name=row.name, value=self.value(db, owner, row), version=row.since)
            for row in rows
        ]
        body = pb.FetchResponse(version=version, secrets=secret).SerializeToString()
        return etag(key, owner.incarnation, body), body

    def value(self, db: apsw.Connection, owner: Owner, row: SecretRow) -> bytes:
        """The value of one row."""
        if row.envelope is None:
            raise PetsemError(
                Code.NOT_FOUND, f"the value of {row.name} in that version was destroyed"
            )
        place = owner.place(Record.VALUE, row.name.encode(), row.sealed_at)
        try:
            return self._keys.open(db, owner, place, row.envelope)
        except DamagedEnvelope:
            raise PetsemError(
                Code.CORRUPT,
                f"the stored value of {row.name} is damaged; set it again or restore it",
            ) from None

    def _patch(self, db: apsw.Connection, app_id: int, patches: list[Patch]) -> bool:
        """Make the bundle out of the last one, if that is whole and of the version before."""
        last = patches[-1]
        stored = secrets.read_bundle(db, app_id)
        if stored is None or stored[0] != patches[0].version - 1:
            return False
        opened = self.open_with_known_key(last.owner, *stored)
        if opened is None:
            return False
        whole = pb.FetchResponse.FromString(opened[1])
        now = {each.name: each for each in whole.secrets}
        before = set(now)
        for patch in patches:
            for name in patch.unset:
                now.pop(name, None)
            for name, value in patch.set.items():
                if name not in now:
                    now[name] = pb.Secret(name=name)
                now[name].value, now[name].version = value.reveal(), patch.version
        if before != now.keys():
            whole = pb.FetchResponse(secrets=[now[name] for name in sorted(now)])
        whole.version = last.version
        body = whole.SerializeToString()
        self._store(db, app_id, last.owner, last.key, last.version, body)
        return True

    def _store(
        self, db: apsw.Connection, app_id: int, owner: Owner, key: Key, version: int, body: bytes
    ) -> None:
        tag = etag(key, owner.incarnation, body)
        sealed = seal(key, owner.place(Record.BUNDLE, b"", version), tag + body)
        secrets.write_bundle(db, app_id, version, sealed)

    def _rebuild(self, db: apsw.Connection, app_id: int) -> None:
        found = orgs.app_by_id(db, app_id)
        if found is None:
            return
        org_uid, app, primary = found
        owner = app.owner(org_uid)
        try:
            key = self._keys.primary_of(owner, primary)
            rows = secrets.current(db, app_id)
            _, body = self._assemble(db, owner, key, app.version, rows)
            self._store(db, app_id, owner, key, app.version, body)
        except PetsemError as e:
            log.warning("bundle_dropped", app=app.incarnation.hex(), error=e.message)
            secrets.drop_bundle(db, app_id)
