"""A node made by `init`, started in this process, and asked as its operator would ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from petsem.clock import ManualClock
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek
from petsem.server.database import open_writer
from petsem.server.datadir import DataDir
from petsem.server.init import init_cluster
from petsem.server.node import Node, build_node
from petsem.server.policy import NODES_ADMIN
from petsem.server.principal import Principal, Request
from petsem.server.service.batches import check_batch
from petsem.server.service.boot import Fetch
from petsem.server.service.writes import Call
from petsem.wire import http
from petsem.wire.petsem_pb2 import FetchResponse


@dataclass
class Cluster:
    """A data directory, its keyring's file, and while it runs, its node."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        init_cluster(self.directory, region="ams", clock=self.clock)
        self.datadir = DataDir(self.directory)
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        assert self._node is not None
        return self._node

    @asynccontextmanager
    async def running(self, **parts: Any) -> AsyncIterator[Node]:
        """The node, from start to stop, holding the directory's lock as `serve` does."""
        with self.datadir.lock():
            node = build_node(self.datadir, {}, clock=self.clock, **parts)
            await node.start()
            self._node = node
            try:
                yield node
            finally:
                self._node = None
                await node.stop()

    @contextmanager
    def stopped(self) -> Iterator[apsw.Connection]:
        """The database, open for tampering while no node runs."""
        assert self._node is None
        db = open_writer(self.datadir.database)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        try:
            yield db
        finally:
            db.close()

    @property
    def token(self) -> str:
        """The operator token that init wrote."""
        return self.datadir.default_operator_token.read_text().strip()

    @property
    def operator(self) -> Principal:
        """Who holds that token."""
        with self.node.pool.snapshot() as db:
            return self.node.auth.authorize(db, Request(self.token, None), NODES_ADMIN)

    @property
    def keyring(self) -> Keyring:
        """What the keyring's file holds."""
        return Keyring.parse(self.datadir.default_keyring.read_bytes())

    def write_keyring(self, keyring: Keyring) -> None:
        self.datadir.default_keyring.write_bytes(keyring.encode())

    def add_kek(self, purpose: Purpose) -> str:
        """Put a new KEK into the keyring's file; its id."""
        key = generate_kek()
        self.write_keyring(self.keyring.with_key(purpose, key))
        return key.id.hex()

    def remove_kek(self, key_id: str) -> None:
        """Take a KEK out of the keyring's file."""
        kept, held = Keyring(), self.keyring.keys()
        for purpose, key in held:
            if key.id.hex() != key_id:
                kept = kept.with_key(purpose, key)
        self.write_keyring(kept)

    def kek(self, purpose: Purpose) -> str:
        """The id of the first KEK of a purpose, which init made."""
        return self.keyring.ids(purpose)[0].hex()

    async def org(self, name: str, *apps: str) -> None:
        """Make an org and apps in it."""
        await self.node.orgs.create_org(self.operator, call(), name)
        for app in apps:
            await self.node.orgs.create_app(self.operator, call(), name, app)

    async def set(self, org: str, app: str, *, key: str | None = None, **values: str) -> int:
        """Set secrets; the app's new version."""
        batch = check_batch(http.SecretsPatch(set=dict(values)))
        done = await self.node.secrets.patch(self.operator, call(key), org, app, batch)
        return done.version

    async def get(self, org: str, app: str, version: int = 0) -> dict[str, str]:
        """What a machine gets at boot."""
        fetched = await self.node.boot.fetch(
            Request(self.token, None), "", Fetch(org, app, version)
        )
        return {s.name: s.value.decode() for s in FetchResponse.FromString(fetched.body).secrets}

    def query(self, statement: str, *args: Any) -> list[tuple[Any, ...]]:
        """Rows of the running node's database."""
        with self.node.pool.reading() as db:
            return db.execute(statement, args).fetchall()

    async def change(self, statement: str, *args: Any) -> None:
        """Change rows of the running node's database, as no service would."""
        await self.node.writer.submit(lambda txn: txn.db.execute(statement, args).fetchall())


def call(key: str | None = None) -> Call:
    """A write as a door would describe it."""
    return Call("POST", "/test", b"{}", key)


def flip(
    db: apsw.Connection, table: str, column: str, where: str, *args: Any, at: int = -1
) -> None:
    """Change one bit of one stored byte of the first row that fits."""
    rowid, value = db.execute(
        f"SELECT {'rowid' if table in ('secrets', 'bundles') else column}, {column}"
        f" FROM {table} WHERE {where} LIMIT 1",
        args,
    ).fetchone()
    changed = bytearray(value)
    changed[at] ^= 1
    which = "rowid" if table in ("secrets", "bundles") else column
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {which} = ?", (bytes(changed), rowid))
