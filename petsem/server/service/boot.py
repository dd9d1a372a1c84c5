"""The boot read: all secrets of one app for one machine, and word of new versions.

Guarantees: an answer is one consistent version, complete but for what the token's caveats leave
out, or an error; never a part. The position in it was read in the same transaction as the data.

The values here are structs and not dataclasses because they are made for every boot, and take an
eighth of the time to make.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

import apsw
import msgspec

from petsem import limits
from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError, limited, not_found
from petsem.model import Kind, Position, Role, check_secret_name
from petsem.secretbytes import SecretBytes
from petsem.server import sql
from petsem.server.auth import Authenticator
from petsem.server.bundles import Bundles
from petsem.server.changes import POSITION, Changes
from petsem.server.database import ReadPool, read_position
from petsem.server.freshness import FreshnessSource
from petsem.server.keys import Owner
from petsem.server.policy import SECRETS_READ
from petsem.server.principal import Names, Principal, Request
from petsem.server.service.staleness import check_boot
from petsem.server.service.two_key import BootReads, Read
from petsem.server.service.waiting import check_durable, check_fence, until_fresh
from petsem.server.stale import stale_version
from petsem.server.store import secrets as rows
from petsem.server.store.secrets import SecretRow
from petsem.server.store.tokens import ISSUED_COLUMNS, ISSUED_JOINS, IssuedRow

RECHECK_S: Final = 10.0
"""How often an open stream looks whether its token still holds."""
_COALESCE_S: Final = 0.02

_COLUMNS: Final = (
    "p.epoch, p.txid, o.id, o.uid, a.id, a.incarnation, a.version, b.version, b.envelope"
)
_JOINS: Final = (
    " FROM position p LEFT JOIN orgs o ON o.name = ?3 AND o.deleted_at IS NULL"
    " LEFT JOIN apps a ON a.org = o.id AND a.name = ?4 AND a.deleted_at IS NULL"
    " LEFT JOIN bundles b ON b.app = a.id"
)
_HEAD: Final = f"SELECT {_COLUMNS}{_JOINS}"
_HEAD_COLUMNS: Final = 9
_APP_ID: Final = 4
_TWO_KEY: Final = _HEAD_COLUMNS
_HEAD_AND_TOKEN: Final = (
    f"SELECT {_COLUMNS}, s.key, {ISSUED_COLUMNS}{_JOINS} LEFT JOIN root_keys r"
    f" ON r.id = ?1 AND r.use = 'tokens'{ISSUED_JOINS}"
    " LEFT JOIN org_settings s ON s.org = r.org AND s.key = 'two_key'"
)


class Fetch(msgspec.Struct, frozen=True):
    """What a fetch asks for. `names` empty: all; `version` 0: the current one."""

    org: str
    app: str
    version: int = 0
    min_version: int = 0
    min_position: Position | None = None
    names: tuple[str, ...] = ()
    known_etag: bytes = b""
    durable: bool = False


class Fetched(msgspec.Struct, frozen=True):
    """One consistent version. `body` is the serialised FetchResponse without freshness, etag and
    `filtered`; it is empty when the caller's etag still holds."""

    version: int
    etag: bytes
    body: bytes
    position: Position
    filtered: bool
    not_modified: bool

    def __repr__(self) -> str:
        return f"Fetched(version={self.version}, position={self.position}, …)"


class _Head(msgspec.Struct, frozen=True):
    position: Position
    owner: Owner
    app_id: int
    version: int
    bundle: tuple[int, bytes] | None


class Boot:
    """Fetch and Watch. It reads with a pool, the keys and a source of freshness, nothing else."""

    def __init__(
        self,
        *,
        pool: ReadPool,
        bundles: Bundles,
        auth: Authenticator,
        reads: BootReads,
        changes: Changes,
        freshness: FreshnessSource,
        streams_max: int = limits.GRPC_STREAMS_MAX,
    ) -> None:
        self._pool = pool
        self._bundles = bundles
        self._auth = auth
        self._reads = reads
        self._changes = changes
        self._freshness = freshness
        self._streams_max = streams_max
        self._streams = 0

    async def fetch(self, request: Request, machine: str, asked: Fetch) -> Fetched:
        """The answer, once this node has reached what was asked for; else `stale`."""
        names = Names(asked.org, asked.app, machine or None, None, True)
        ordinary = self._at_once(request, names, asked)
        if ordinary is not None:
            return ordinary

        def answer() -> tuple[Read, Fetched]:
            with self._pool.snapshot() as db:
                read = self._reads.authorize(db, request, names)
                return read, self._read(db, read.principal, asked)

        read, fetched = await until_fresh(self._changes, POSITION, answer)
        self._reads.note(read, names)
        return fetched

    def _at_once(self, request: Request, names: Names, asked: Fetch) -> Fetched | None:
        """The answer to the ordinary boot read, in one statement, which needs no transaction
        around it. None where more has to be read, or the answer is a refusal to be worded."""
        if asked.version or asked.names or asked.min_position is not None:
            return None
        if asked.durable or self._freshness.leader_is_quiet():
            return None
        presented = self._auth.seen_before(request)
        if presented is None:
            return None
        identifier = presented.identifier
        ids = (identifier.root_key_id, identifier.nonce, asked.org, asked.app)
        with self._pool.reading() as db:
            found = sql.rows(db, _HEAD_AND_TOKEN, ids)[0]
            issued = IssuedRow(*found[_TWO_KEY + 1 :])
            if issued.envelope is None or issued.grandparent is not None:
                return None
            if issued.kind == Kind.HOST and (found[_TWO_KEY] or issued.ticket):
                return None
            if found[_APP_ID] is None and asked.min_version:
                return None
            principal = self._auth.authorize_row(
                db, presented, issued, request, SECRETS_READ, names
            )
        head = _head_of(found, asked.org, asked.app)
        if head.bundle is None or head.bundle[0] != head.version or principal.filter is not None:
            return None
        if asked.min_version > head.version:
            return None
        opened = self._bundles.open_with_known_key(head.owner, *head.bundle)
        return None if opened is None else _fetched(head, head.version, asked, principal, *opened)

    def _read(self, db: apsw.Connection, principal: Principal, asked: Fetch) -> Fetched:
        if asked.min_position is not None:
            logged = self._freshness.view.logged
            check_fence(db, read_position(db), asked.min_position, logged)
        try:
            head = _head(db, asked.org, asked.app)
        except PetsemError:
            # On a replica the app may be about to come.
            wanted = max(asked.min_version, asked.version)
            if wanted and self._freshness.role is not Role.LEADER:
                raise stale_version(0, wanted) from None
            raise
        org_id = head.owner.org
        assert org_id is not None
        check_boot(db, self._freshness, org_id, head.position)
        if asked.durable:
            check_durable(self._freshness.at(head.position))
        if asked.min_version > head.version:
            raise stale_version(head.version, asked.min_version)
        if asked.version > head.version:
            if self._freshness.role is Role.LEADER:
                raise not_found(f"{asked.org}/{asked.app} has no version {asked.version} yet")
            raise stale_version(head.version, asked.version)
        whole = not asked.names and principal.filter is None
        if whole and asked.version in (0, head.version):
            tag, body = self._whole(db, head)
        else:
            tag, body = self._part(db, head, principal, asked)
        return _fetched(head, asked.version or head.version, asked, principal, tag, body)

    def _whole(self, db: apsw.Connection, head: _Head) -> tuple[bytes, bytes]:
        if head.bundle is not None and head.bundle[0] == head.version:
            opened = self._bundles.open(db, head.owner, *head.bundle)
            if opened is not None:
                return opened
        stored = rows.current(db, head.app_id)
        return self._bundles.from_rows(db, head.owner, head.version, stored)

    def _part(
        self, db: apsw.Connection, head: _Head, principal: Principal, asked: Fetch
    ) -> tuple[bytes, bytes]:
        """Some names, or an earlier version."""
        version = asked.version or head.version
        stored = (
            rows.current(db, head.app_id)
            if version == head.version
            else rows.at_version(db, head.app_id, version)
        )
        chosen = stored
        if asked.names:
            by_name = {row.name: row for row in stored}
            for name in asked.names:
                check_secret_name(name)
            admitted = [n for n in asked.names if _admits(principal, n)]
            for name in admitted:
                if name not in by_name:
                    raise not_found(f"there is no secret {name} in {asked.org}/{asked.app}")
            chosen = [by_name[name] for name in sorted(set(admitted))]
        visible: list[SecretRow] = [row for row in chosen if _admits(principal, row.name)]
        return self._bundles.from_rows(db, head.owner, version, visible)

    async def watch(
        self, request: Request, machine: str, org: str, app: str, after_version: int
    ) -> AsyncGenerator[tuple[int, Position], None]:
        """(version, position) at once if the app is past `after_version`, then at each change.

        The token is looked at again at each event and every ten seconds.
        """
        names = Names(org, app, machine or None, None, filterable=True)

        def look() -> tuple[Read, _Head]:
            with self._pool.snapshot() as db:
                return self._reads.authorize(db, request, names), _head(db, org, app)

        read, head = look()
        self._reads.note(read, names)
        incarnation = head.owner.incarnation
        with self._stream(), self._changes.subscribed(head.app_id, stream=True) as event:
            # What the leader never had is the version of an app that was deleted: begin anew.
            anew = after_version > head.version and self._freshness.role is Role.LEADER
            seen = -1 if anew else after_version
            while True:
                event.clear()
                _, head = look()
                if head.owner.incarnation != incarnation:
                    raise not_found(f"the app {org}/{app} was deleted and made again")
                if head.version > seen:
                    seen = head.version
                    yield head.version, head.position
                await _wait(event)

    def _stream(self) -> _Counted:
        if self._streams >= self._streams_max:
            raise limited("this node has as many streams open as it takes; ask another node")
        return _Counted(self._count)

    def _count(self, change: int) -> None:
        self._streams += change


class _Counted:
    """Counts an open stream for as long as it is open."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, *_: object) -> None:
        self._count(-1)


async def _wait(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(RECHECK_S):
            await event.wait()
    except TimeoutError:
        return
    # Many commits in a row become one look at the database.
    await asyncio.sleep(_COALESCE_S)


def _head(db: apsw.Connection, org: str, app: str) -> _Head:
    return _head_of(sql.rows(db, _HEAD, (None, None, org, app))[0], org, app)


def _head_of(row: sql.Row, org: str, app: str) -> _Head:
    epoch, txid, org_id, org_uid, app_id, incarnation, version, bundled, envelope = row[
        :_HEAD_COLUMNS
    ]
    if app_id is None:
        raise not_found(f"there is no app {org}/{app}")
    return _Head(
        Position(epoch, txid),
        Owner(Purpose.SECRETS, org_id, org_uid, app_id, incarnation),
        app_id,
        version,
        None if envelope is None else (bundled, envelope),
    )


def _fetched(
    head: _Head, version: int, asked: Fetch, principal: Principal, tag: bytes, body: bytes
) -> Fetched:
    same = bool(asked.known_etag) and SecretBytes(tag) == SecretBytes(asked.known_etag)
    filtered = principal.filter is not None
    return Fetched(version, tag, b"" if same else body, head.position, filtered, same)


def _admits(principal: Principal, name: str) -> bool:
    return principal.filter is None or principal.filter.admits(name)
