"""A data directory in other hands: read, altered and forged with its database and its keyring."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from petsem.clock import rfc3339
from petsem.crypto.envelope import Record
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import random_id
from petsem.model import Kind
from petsem.server import sql
from petsem.server.database import open_writer, read_position
from petsem.server.datadir import DataDir
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.store import orgs, tokens
from petsem.tokens.identifier import Identifier
from petsem.tokens.mint import mint
from petsem.tokens.text import encode_token, parse_token


@dataclass(frozen=True)
class Disk:
    """A data directory and the keyring beside it. Its node may be running: SQLite's own locks
    hold between processes."""

    directory: Path

    @contextmanager
    def open(self) -> Iterator[apsw.Connection]:
        """The database, as the node opens it."""
        db = open_writer(DataDir(self.directory).database)
        db.set_busy_timeout(5_000)
        try:
            yield db
        finally:
            db.close()

    def rows(self, query: str, *args: object) -> list[sql.Row]:
        """What a query finds."""
        with self.open() as db:
            return sql.rows(db, query, args)

    def run(self, statement: str, *args: object) -> None:
        """Change something; AssertionError if nothing was changed."""
        with self.open() as db:
            assert sql.run(db, statement, args) > 0, "nothing was changed"

    def execute(self, statement: str) -> None:
        """Change the schema."""
        with self.open() as db:
            db.execute(statement)

    def flip(self, table: str, column: str, where: str = "true", at: int = -1) -> None:
        """Flip one bit of a byte of that column, in each row."""
        found = self.rows(f"SELECT DISTINCT {column} FROM {table} WHERE {where}")
        assert found, "there is nothing to damage"
        for (sealed,) in found:
            altered = bytearray(sealed)
            altered[at] ^= 1
            self.run(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", bytes(altered), sealed)

    @property
    def keyring(self) -> Keyring:
        """The keyring of the file beside the directory."""
        return Keyring.parse(DataDir(self.directory).default_keyring.read_bytes())

    def forged(self, org: str | None, *caveats: str, nonce: bytes | None = None) -> str:
        """A token under the true root key of an org (None: the cluster's) that nobody issued."""
        return self._sign(org, caveats, nonce or random_id(), None)

    def expired(self, org: str | None, now_s: int, *caveats: str) -> str:
        """A token that was issued in order two hours ago and whose time ended an hour ago."""
        ended_s = now_s - 3_600
        return self._sign(
            org, (*caveats, f"time < {rfc3339(ended_s * 1000)}"), random_id(), ended_s
        )

    def root_secret(self, org: str | None) -> bytes:
        """What the tokens of an org (None: the cluster's) are signed with."""
        with self.open() as db:
            return self._root_key(db, org)[2]

    def _root_key(self, db: apsw.Connection, org: str | None) -> tuple[Owner, bytes, bytes]:
        owner = CLUSTER if org is None else orgs.get_org(db, org).tokens_owner
        key_id, envelope = tokens.primary_root_key(db, owner.org)
        place = owner.place(Record.ROOT_KEY, key_id)
        return owner, key_id, Keys(self.keyring).open(db, owner, place, envelope)

    def _sign(
        self, org: str | None, asked: Sequence[str], nonce: bytes, ended_s: int | None
    ) -> str:
        identity = DataDir(self.directory).read_identity()
        caveats: list[Any] = list(asked) if org is None else [f"org = {org}", *asked]
        with self.open() as db:
            owner, key_id, secret = self._root_key(db, org)
            position = read_position(db)
            kind = Kind.OPERATOR if org is None else Kind.ORG
            if ended_s is not None:
                issued = tokens.TokenRow(
                    nonce=nonce,
                    org=owner.org,
                    root_key=key_id,
                    kind=kind,
                    subject=f"{kind.text}:{nonce.hex()}",
                    parent=None,
                    depth=0,
                    caveats=json.dumps(caveats),
                    label=None,
                    created_at=(ended_s - 3_600) * 1000,
                    created_by="test",
                    expires_at=ended_s * 1000,
                    epoch=position.epoch,
                    txid=position.txid,
                )
                tokens.insert(db, issued)
        identifier = Identifier(
            identity.cluster_id, kind, key_id, nonce, position.epoch, position.txid
        )
        return encode_token(mint(secret, identifier, caveats))


def nonce_of(token: str) -> bytes:
    """The nonce in a token's text: the bytes of its id."""
    return Identifier.parse(parse_token(token).root.identifier).nonce
