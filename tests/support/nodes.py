"""A whole node in this process, made as `petsem init` makes it, and the calls that tests make.

The clock is a `ManualClock`. Every call takes the text of a token and authorises it by the rule
that its route has, as the doors do; the default is the operator's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from petsem.clock import ManualClock, rfc3339
from petsem.crypto.envelope import Record
from petsem.errors import Code, PetsemError
from petsem.server import policy, sql
from petsem.server.database import open_writer
from petsem.server.datadir import DataDir
from petsem.server.init import init_cluster
from petsem.server.keys import CLUSTER
from petsem.server.node import Node, build_node
from petsem.server.policy import Rule
from petsem.server.principal import NO_NAMES, Names, Principal, Request
from petsem.server.service.batches import check_batch
from petsem.server.service.boot import Fetch, Fetched
from petsem.server.service.verify import Verdict, VerifyItem
from petsem.server.service.writes import Call
from petsem.server.store import orgs, tokens
from petsem.server.writer import Txn
from petsem.tokens.macaroon import attenuate
from petsem.tokens.text import encode_token, parse_token
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb

T = TypeVar("T")

REGION: Final = "ams"
ORG_ACTIONS: Final = (
    "secrets:read", "secrets:list", "secrets:write", "secrets:delete", "apps:admin",
    "tokens:mint", "tokens:revoke", "tokens:list", "tokens:verify",
)  # fmt: skip
"""All that an org's key can do."""


@dataclass
class Site:
    """A data directory with its operator's token; `running` starts a node on it."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)
    vfs: str | None = None

    def __post_init__(self) -> None:
        made = init_cluster(self.directory, region=REGION, clock=self.clock)
        self.cluster_id = made.cluster_id
        self.datadir = DataDir(self.directory)
        self.operator = made.operator_token_file.read_text().strip()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """A node on this directory, from start to stop."""
        node = build_node(self.datadir, {}, clock=self.clock, vfs=self.vfs)
        await node.start()
        try:
            yield Running(self, node)
        finally:
            await node.stop()

    def offline(self, statement: str, *args: Any) -> list[sql.Row]:
        """Run SQL on the database while no node does."""
        db = open_writer(self.datadir.database)
        try:
            return sql.rows(db, statement, args)
        finally:
            db.close()


@dataclass
class Running:
    """A started node."""

    site: Site
    node: Node

    @property
    def clock(self) -> ManualClock:
        return self.site.clock

    @property
    def operator(self) -> str:
        return self.site.operator

    # Tokens

    def principal(
        self, rule: Rule, names: Names = NO_NAMES, token: str | None = None, ip: str | None = None
    ) -> Principal:
        """Whom the doors would find behind a token, or the error that they would answer."""
        with self.node.pool.reading() as db:
            return self.node.auth.authorize(db, Request(token or self.operator, ip), rule, names)

    async def mint(
        self,
        *caveats: str,
        org: str | None = "acme",
        kind: str | None = None,
        label: str | None = None,
        life_s: int | None = 3600,
        token: str | None = None,
        ip: str | None = None,
        key: str | None = None,
    ) -> http.Minted:
        """A new token; `time <` is added from `life_s`."""
        if life_s is not None:
            caveats = (*caveats, self.time_in(life_s))
        body = http.Mint(caveats=list(caveats), org=org, kind=kind, label=label)
        principal = self.principal(policy.TOKENS_MINT, Names(org), token, ip)
        shown = {"caveats": caveats, "org": org, "kind": kind, "label": label}
        return await self.node.tokens.mint(principal, call("/v1/tokens", shown, key), body)

    async def org_token(self, *caveats: str, org: str = "acme", **more: Any) -> str:
        """The text of a token for all that `org`'s key can do, within `caveats`."""
        actions = f"action in {', '.join(ORG_ACTIONS)}"
        return (await self.mint(actions, *caveats, org=org, **more)).token

    async def reader(self, *caveats: str, org: str = "acme", **more: Any) -> str:
        """The text of a host's token that reads, within `caveats`."""
        return (await self.mint("action = secrets:read", *caveats, org=org, **more)).token

    async def revoke(
        self, token_id: str, org: str | None = "acme", token: str | None = None
    ) -> http.Revoked:
        principal = self.principal(policy.TOKENS_REVOKE, Names(org), token)
        path = f"/v1/tokens/{token_id}"
        return await self.node.tokens.revoke(principal, call(path), org, token_id)

    def time_in(self, seconds: float) -> str:
        """The caveat that ends a token so many seconds from now."""
        return f"time < {rfc3339(self.clock.unix_ms() + round(seconds * 1000))}"

    def verdict(self, token: str, asker: str | None = None, **access: str) -> Verdict:
        """What `verify` says; by default the operator asks about reading in acme."""
        item = VerifyItem(token, {"org": "acme", "action": "secrets:read", **access})
        return self.node.verification.verify(Request(asker or self.operator, None), [item])[0]

    def root_secret(self, org: str | None) -> tuple[bytes, bytes]:
        """(id, secret) of the primary root key, as somebody who stole it would have it."""
        with self.node.pool.reading() as db:
            org_row = None if org is None else orgs.get_org(db, org)
            owner = CLUSTER if org_row is None else org_row.tokens_owner
            key_id, envelope = tokens.primary_root_key(db, owner.org)
            place = owner.place(Record.ROOT_KEY, key_id)
            return key_id, self.node.keys.open(db, owner, place, envelope)

    # Orgs and apps

    async def furnish(self, org: str = "acme", *apps: str) -> None:
        """An org with apps, web by default."""
        principal = self.principal(policy.ORGS_ADMIN, Names(org))
        await self.node.orgs.create_org(principal, call("/v1/orgs", org), org)
        for app in apps or ("web",):
            await self.create_app(org, app)

    async def create_app(self, org: str = "acme", app: str = "web") -> http.App:
        principal = self.principal(policy.APPS_ADMIN, Names(org, app))
        path = f"/v1/orgs/{org}/apps"
        return await self.node.orgs.create_app(principal, call(path, app), org, app)

    async def delete_app(
        self, app: str = "web", *, org: str = "acme", now: bool = False
    ) -> http.Deleted:
        principal = self.principal(policy.APPS_ADMIN, Names(org, app))
        path = f"/v1/orgs/{org}/apps/{app}"
        return await self.node.orgs.delete_app(principal, call(path), org, app, now)

    async def delete_org(self, org: str = "acme", *, now: bool = False) -> http.Deleted:
        principal = self.principal(policy.ORGS_ADMIN, Names(org))
        return await self.node.orgs.delete_org(principal, call(f"/v1/orgs/{org}"), org, now)

    # Secrets

    async def patch(
        self,
        values: Mapping[str, str | bytes] | None = None,
        *,
        unset: Iterable[str] = (),
        if_version: int | None = None,
        org: str = "acme",
        app: str = "web",
        key: str | None = None,
        token: str | None = None,
    ) -> http.SecretsPatched:
        """One batch."""
        body = http.SecretsPatch(
            set={name: _value(value) for name, value in (values or {}).items()},
            unset=list(unset),
            if_version=if_version,
        )
        batch = check_batch(body)
        names = Names(org, app, secrets=batch.names)
        principal = self.principal(policy.SECRETS_WRITE, names, token)
        shown = {"set": {n: str(v) for n, v in (values or {}).items()}, "unset": list(unset)}
        made = call(_path(org, app), shown, key)
        return await self.node.secrets.patch(principal, made, org, app, batch)

    async def rollback(
        self, to: int, *, if_version: int | None = None, key: str | None = None
    ) -> http.SecretsPatched:
        principal = self.principal(policy.SECRETS_WRITE, Names("acme", "web"))
        body = http.Rollback(to=to, if_version=if_version)
        made = call(_path("acme", "web"), to, key)
        return await self.node.secrets.rollback(principal, made, "acme", "web", body)

    async def destroy(
        self, *names: str, version: int | None = None, key: str | None = None
    ) -> http.Destroyed:
        body = http.Destroy(names=list(names), version=version)
        principal = self.principal(policy.SECRETS_DELETE, Names("acme", "web", secrets=names))
        made = call(_path("acme", "web"), [*names, version], key)
        return await self.node.secrets.destroy(principal, made, "acme", "web", body)

    async def fetch(
        self,
        *,
        token: str | None = None,
        machine: str = "",
        org: str = "acme",
        app: str = "web",
        **asked: Any,
    ) -> Fetched:
        """The boot read."""
        request = Request(token or self.operator, None)
        return await self.node.boot.fetch(request, machine, Fetch(org, app, **asked))

    async def values(self, **asked: Any) -> dict[str, bytes]:
        """Name and value of what a fetch returns."""
        return values_in(await self.fetch(**asked))

    def listed(self, token: str | None = None) -> dict[str, http.SecretInfo]:
        """What a listing of acme/web shows, by name."""
        names = Names("acme", "web", filterable=True)
        principal = self.principal(policy.SECRETS_LIST, names, token)
        found = self.node.secrets.list(principal, "acme", "web")
        return {each.name: each for each in found.secrets}

    # The database

    def rows(self, statement: str, *args: Any) -> list[sql.Row]:
        """What a reader sees."""
        with self.node.pool.reading() as db:
            return sql.rows(db, statement, args)

    async def tamper(self, statement: str, *args: Any) -> None:
        """Change the database behind everybody's back, on the writing connection."""
        await self.node.writer.submit(lambda txn: sql.run(txn.db, statement, args))

    async def flip(self, table: str, column: str, where: str, *args: Any, at: int = -1) -> None:
        """Flip one bit of one stored byte of each row that `where` names."""

        def job(txn: Txn) -> None:
            for rowid, value in sql.rows(
                txn.db, f"SELECT rowid, {column} FROM {table} WHERE {where}", args
            ):
                changed = bytearray(value)
                changed[at] ^= 1
                update = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
                sql.run(txn.db, update, (bytes(changed), rowid))

        await self.node.writer.submit(job)

    def on_disk(self) -> bytes:
        """Every byte of the database and its WAL. Another process reads them, because closing a
        file here would drop this one's locks on it."""
        paths = [
            path for path in self.site.directory.glob("petsem.db*") if path.suffix != ".db-shm"
        ]
        return subprocess.run(["cat", *paths], check=True, capture_output=True).stdout


@asynccontextmanager
async def running(
    directory: Path, *, vfs: str | None = None, furnished: bool = True
) -> AsyncIterator[Running]:
    """A started node on a new directory, with the org acme and its app web."""
    async with Site(directory / "node", vfs=vfs).running() as node:
        if furnished:
            await node.furnish()
        yield node


def call(path: str = "/test", body: object = None, key: str | None = None) -> Call:
    """A write as a door would describe it."""
    return Call("POST", path, json.dumps(body).encode(), key)


def narrowed(token: str, *caveats: str) -> str:
    """The token with more caveats, as any holder can make it."""
    return encode_token(attenuate(parse_token(token).root, caveats))


def id_of(token: str) -> str:
    """A token's id."""
    return parse_token(token).root.identifier[34:50].hex()


def values_in(fetched: Fetched) -> dict[str, bytes]:
    """Name and value of each secret in an answer."""
    return {each.name: each.value for each in pb.FetchResponse.FromString(fetched.body).secrets}


def refusal(error: PetsemError) -> tuple[Code, str | None, str | None]:
    """What a program goes by in a refused request: code, reason and caveat."""
    return error.code, error.detail.reason, error.detail.caveat


async def soon(work: Awaitable[T]) -> T:
    """What is awaited, which a bug may keep from ever coming."""
    async with asyncio.timeout(20):
        return await work


def outcome(call: Callable[[], T]) -> T | tuple[Code, str | None, str | None]:
    """What a call returns, or its refusal."""
    try:
        return call()
    except PetsemError as e:
        return refusal(e)


def _value(value: str | bytes) -> http.Value:
    if isinstance(value, str):
        return value
    return http.Base64Value(base64=base64.b64encode(value).decode())


def _path(org: str, app: str) -> str:
    return f"/v1/orgs/{org}/apps/{app}/secrets"
