"""The boot bundle: one sealed row per app that answers a whole fetch.

    etag 16 | the serialised FetchResponse of the current version, without freshness and etag

Guarantees: it is a cache. Rows are the truth: a bundle that is missing, damaged or of another
version is made again from them, and one that cannot be made is dropped and blocks nobody.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import apsw
import structlog

from petsem.crypto.digest import etag
from petsem.crypto.envelope import DamagedEnvelope, Record, seal
from petsem.crypto.keys import Key
from petsem.errors import Code, PetsemError
from petsem.server.keys import Keys, Owner
from petsem.server.store import orgs, secrets
from petsem.server.store.secrets import SecretRow
from petsem.server.writer import Txn
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

ETAG_BYTES: Final = 16


class Bundles:
    """Makes and opens bundles, and assembles the same answer from rows."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.damaged: set[int] = set()
        """Apps whose stored bundle could not be opened; housekeeping has them made again."""

    def finish(self, txn: Txn, topic: Hashable) -> None:
        """Make the bundle of an app that a group changed; other topics are no apps."""
        if isinstance(topic, int):
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
        entries = ((row.name, row.since, row.digest or b"") for row in rows)
        tag = etag(key, owner.incarnation, version, entries)
        return tag, pb.FetchResponse(version=version, secrets=secret).SerializeToString()

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

    def _rebuild(self, db: apsw.Connection, app_id: int) -> None:
        found = orgs.app_by_id(db, app_id)
        if found is None:
            return
        org_uid, app, primary = found
        owner = app.owner(org_uid)
        try:
            key = self._keys.primary_of(owner, primary)
            rows = secrets.current(db, app_id)
            tag, response = self._assemble(db, owner, key, app.version, rows)
            sealed = seal(key, owner.place(Record.BUNDLE, b"", app.version), tag + response)
        except PetsemError as e:
            log.warning("bundle_dropped", app=app.incarnation.hex(), error=e.message)
            secrets.drop_bundle(db, app_id)
            return
        secrets.write_bundle(db, app_id, app.version, sealed)
