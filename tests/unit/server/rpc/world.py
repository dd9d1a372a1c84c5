"""A small node in one process: a real database with one org and app, and tokens to ask it with."""

from __future__ import annotations

from pathlib import Path

import apsw

from petsem.clock import Clock, ManualClock
from petsem.crypto.envelope import Record, seal
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek, random_id
from petsem.crypto.digest import secret_digest
from petsem.crypto.aead import random_bytes
from petsem.model import Kind, Position
from petsem.server import sql
from petsem.server.auth import Authenticator
from petsem.server.bundles import Bundles
from petsem.server.changes import Changes
from petsem.server.database import ReadPool, open_writer
from petsem.server.freshness import FreshnessSource
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.schema import migrate
from petsem.server.service.boot import Boot
from petsem.server.store import orgs, tokens
from petsem.server.store import secrets as rows
from petsem.server.store.secrets import SecretRow, VersionRow
from petsem.server.writer import Txn
from petsem.tokens.identifier import Identifier
from petsem.tokens.mint import mint
from petsem.tokens.text import encode_token

CLUSTER_ID = b"c" * 16
REGION = "ams"


class World:
    """What a `Node` has of use to the RPC doors, over a database in `directory`."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.clock = clock or ManualClock()
        keyring = Keyring()
        for purpose in Purpose:
            keyring = keyring.with_key(purpose, generate_kek())
        self.keys = Keys(keyring)
        self.path = directory / "petsem.db"
        self.db = open_writer(self.path, create=True)
        self.position = Position(1, 1)
        self.db.execute("BEGIN")
        migrate(self.db)
        now = self.clock.unix_ms()
        sql.run(self.db, "INSERT INTO position (id, epoch, txid) VALUES (1, 1, 1)")
        sql.run(self.db, "INSERT INTO epochs VALUES (1, 1, 'n1', ?)", (now,))
        for purpose, key in keyring.keys():
            sql.run(self.db, "INSERT INTO keks VALUES (?, ?, 'primary')", (purpose.value, key.id))
        self.keys.create(self.db, CLUSTER, now)
        self._roots: dict[int | None, tuple[bytes, bytes]] = {}
        self._root_key(None, CLUSTER)
        self.db.execute("COMMIT")
        self.pool = ReadPool(self.path)
        self.changes = Changes()
        self.auth = Authenticator(self.keys, self.clock, CLUSTER_ID, REGION)
        self.freshness = FreshnessSource("n1", REGION, self.clock)
        self.bundles = Bundles(self.keys)
        self.boot = Boot(
            pool=self.pool,
            bundles=self.bundles,
            auth=self.auth,
            changes=self.changes,
            freshness=self.freshness,
        )

    def _root_key(self, org: int | None, owner: Owner) -> None:
        key_id, secret = random_id(), random_bytes(32)
        envelope = self.keys.seal(self.db, owner, owner.place(Record.ROOT_KEY, key_id), secret)
        tokens.add_root_key(self.db, key_id, org, envelope, self.clock.unix_ms())
        self._roots[org] = (key_id, secret)

    def org(self, name: str) -> int:
        now = self.clock.unix_ms()
        self.db.execute("BEGIN")
        row = orgs.insert_org(self.db, random_id(), name, now)
        self.keys.create(self.db, row.tokens_owner, now)
        self._root_key(row.id, row.tokens_owner)
        self.db.execute("COMMIT")
        return row.id

    def app(self, org: str, name: str) -> None:
        now = self.clock.unix_ms()
        self.db.execute("BEGIN")
        org_row = orgs.get_org(self.db, org)
        row = orgs.insert_app(self.db, org_row, random_id(), name, now)
        self.keys.create(self.db, row.owner(org_row.uid), now)
        self.db.execute("COMMIT")

    def set(self, org: str, app: str, values: dict[str, bytes]) -> int:
        """One batch as the writer would commit it; the new version."""
        self.db.execute("BEGIN")
        org_row, row = orgs.get_app(self.db, org, app)
        owner, version = row.owner(org_row.uid), row.version + 1
        key = self.keys.primary(self.db, owner)
        for name, value in values.items():
            envelope = seal(key, owner.place(Record.VALUE, name.encode(), version), value)
            digest = secret_digest(key, owner.incarnation, name, value)
            rows.close(self.db, row.id, name, version)
            stored = SecretRow(name, version, version, digest, envelope, len(value))
            rows.insert(self.db, row.id, stored)
        made = VersionRow(version, self.clock.unix_ms(), "operator:x", b"n" * 16, "set", None)
        rows.add_version(self.db, row, made, len(values), 0)
        self._commit({row.id})
        return version

    def _commit(self, changed: set) -> None:
        self.position = Position(1, self.position.txid + 1)
        txn = Txn(self.db, self.position, self.clock.unix_ms(), changed)
        self.bundles.finish(txn)
        sql.run(self.db, "UPDATE position SET txid = ?", (self.position.txid,))
        self.db.execute("COMMIT")
        self.changes.publish(changed)

    def token(self, *caveats: str, org: str | None, kind: Kind = Kind.HOST) -> str:
        """An issued token of the org's key, or with None of the cluster's."""
        org_id = None if org is None else orgs.get_org(self.db, org).id
        key_id, secret = self._roots[org_id]
        now, nonce = self.clock.unix_ms(), random_id()
        position = self.position
        identifier = Identifier(CLUSTER_ID, kind, key_id, nonce, position.epoch, position.txid)
        text = encode_token(mint(secret, identifier, caveats))
        row = tokens.TokenRow(
            nonce, org_id, key_id, kind, f"{kind.text}:{nonce.hex()}", None, 0, "[]", None, now,
            "test", now + 86_400_000, position.epoch, position.txid,
        )  # fmt: skip
        tokens.insert(self.db, row)
        return text

    def close(self) -> None:
        self.pool.close()
        self.db.close()
