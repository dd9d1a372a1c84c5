"""Creating and deleting orgs and apps, and an org's settings.

Guarantees: deletion is soft for seven days, during which the name stays taken and `undelete`
brings all back; after that, or with `now`, it is purged. An org is made with its keys: a data key
and a root key of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw
import msgspec
import structlog
from msgspec.structs import replace

from petsem.clock import rfc3339
from petsem.crypto.keys import random_id
from petsem.errors import PetsemError, conflict, not_found
from petsem.model import Position, check_app, check_org
from petsem.server.changes import REVOCATIONS
from petsem.server.database import ReadPool
from petsem.server.keys import Keys
from petsem.server.principal import Principal
from petsem.server.service import settings
from petsem.server.service.tokens import add_root_key
from petsem.server.service.writes import COPIES, Call, Writes, owned_by
from petsem.server.store import orgs as rows
from petsem.server.store import purging
from petsem.server.store.orgs import AppRow, OrgRow
from petsem.server.writer import Txn
from petsem.wire import http

log = structlog.get_logger(__name__)

_Purge = Callable[[apsw.Connection, int, int], int]
UNDELETE_MS: Final = 7 * 24 * 3600 * 1000
_PUT_OFF: Final = (
    "it is deleted for good, but the node could not remove all of it now (see its log) and goes on "
    "by itself; copies in backups made before then last as long as those backups"
)


class _Deletion(msgspec.Struct, frozen=True):
    """What an idempotency record keeps of a delete: the row's number, for a purge that was cut
    short, and the reply."""

    row: int
    purge_at: int
    reply: http.Deleted


class Orgs:
    """The operations on orgs and apps. Callers have authorised the principal."""

    def __init__(self, *, writes: Writes, pool: ReadPool, keys: Keys) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys

    async def create_org(self, principal: Principal, call: Call, name: str) -> http.Org:
        """A new org with a data key and a root key."""
        check_org(name)

        def job(txn: Txn) -> http.Org:
            _refuse_taken(rows.find_org(txn.db, name, deleted=True), f"org {name}", txn.now_ms)
            org = rows.insert_org(txn.db, random_id(), name, txn.now_ms)
            self._keys.create(txn.db, org.tokens_owner, txn.now_ms)
            add_root_key(txn.db, self._keys, org.tokens_owner, txn.now_ms)
            return _org(org)

        done, _ = await self._writes.once(principal, call, owned_by(None), http.Org, job)
        return done

    def list_orgs(self, after: str, limit: int) -> http.OrgList:
        """Orgs by name, softly deleted ones marked."""
        with self._pool.reading() as db:
            found = rows.list_orgs(db, after, limit)
        return http.OrgList(
            orgs=[_org(row) for row in found],
            next=found[-1].name if len(found) == limit else None,
        )

    async def delete_org(
        self, principal: Principal, call: Call, name: str, now: bool
    ) -> http.Deleted:
        """Delete an org with all its apps and tokens, softly unless `now`."""

        def job(txn: Txn) -> _Deletion:
            org = rows.find_org(txn.db, name, deleted=now)
            if org is None:
                raise not_found(f"there is no org {name}")
            deletion = _delete(txn, org.id, f"org {name}", now)
            txn.changed[REVOCATIONS] = None
            rows.mark_org(txn.db, org, txn.now_ms, deletion.purge_at)
            return deletion

        done, position = await self._writes.once(principal, call, owned_by(None), _Deletion, job)
        return await self._gone(purging.purge_org if now else None, done, position)

    async def undelete_org(self, principal: Principal, call: Call, name: str) -> http.Org:
        """Bring a softly deleted org back."""

        def job(txn: Txn) -> http.Org:
            org = rows.find_org(txn.db, name, deleted=True)
            if org is None or _is_due(org, txn.now_ms):
                raise not_found(f"there is no org {name}, deleted or not")
            rows.mark_org(txn.db, org, None, None)
            return _org(replace(org, deleted_at=None, purge_at=None))

        done, _ = await self._writes.once(principal, call, owned_by(None), http.Org, job)
        return done

    def settings(self, name: str) -> http.Settings:
        """The settings in force."""
        with self._pool.snapshot() as db:
            return settings.effective(db, rows.get_org(db, name).id)

    async def patch_settings(
        self, principal: Principal, call: Call, name: str, patch: http.SettingsPatch
    ) -> http.Settings:
        """Change some settings; the others stay."""

        def job(txn: Txn) -> http.Settings:
            org = rows.get_org(txn.db, name)
            settings.write(txn.db, self._keys, org, patch, txn.now_ms)
            return settings.effective(txn.db, org.id)

        done, _ = await self._writes.once(principal, call, owned_by(name), http.Settings, job)
        return done

    async def create_app(
        self, principal: Principal, call: Call, org_name: str, name: str
    ) -> http.App:
        """A new app, at version 0, with a data key."""
        check_app(name)

        def job(txn: Txn) -> http.App:
            org = rows.get_org(txn.db, org_name)
            found = rows.find_app(txn.db, org, name, deleted=True)
            _refuse_taken(found, f"app {org_name}/{name}", txn.now_ms)
            app = rows.insert_app(txn.db, org, random_id(), name, txn.now_ms)
            self._keys.create(txn.db, app.owner(org.uid), txn.now_ms)
            txn.changed[app.id] = None
            return _app(app)

        done, _ = await self._writes.once(principal, call, owned_by(org_name), http.App, job)
        return done

    def list_apps(self, org_name: str, after: str, limit: int) -> http.AppList:
        """Apps of an org by name, softly deleted ones marked."""
        with self._pool.snapshot() as db:
            found = rows.list_apps(db, rows.get_org(db, org_name), after, limit)
        return http.AppList(
            apps=[_app(row) for row in found],
            next=found[-1].name if len(found) == limit else None,
        )

    async def delete_app(
        self, principal: Principal, call: Call, org_name: str, name: str, now: bool
    ) -> http.Deleted:
        """Delete an app with all its history, softly unless `now`."""

        def job(txn: Txn) -> _Deletion:
            org = rows.get_org(txn.db, org_name)
            app = rows.find_app(txn.db, org, name, deleted=now)
            if app is None:
                raise not_found(f"there is no app {org_name}/{name}")
            txn.changed[app.id] = None
            deletion = _delete(txn, app.id, f"app {org_name}/{name}", now)
            rows.mark_app(txn.db, app, txn.now_ms, deletion.purge_at)
            return deletion

        owner = owned_by(org_name)
        done, position = await self._writes.once(principal, call, owner, _Deletion, job)
        return await self._gone(purging.purge_app if now else None, done, position)

    async def undelete_app(
        self, principal: Principal, call: Call, org_name: str, name: str
    ) -> http.App:
        """Bring a softly deleted app back, as it was."""

        def job(txn: Txn) -> http.App:
            org = rows.get_org(txn.db, org_name)
            app = rows.find_app(txn.db, org, name, deleted=True)
            if app is None or _is_due(app, txn.now_ms):
                raise not_found(f"there is no app {org_name}/{name}, deleted or not")
            rows.mark_app(txn.db, app, None, None)
            txn.changed[app.id] = None
            return _app(replace(app, deleted_at=None, purge_at=None))

        done, _ = await self._writes.once(principal, call, owned_by(org_name), http.App, job)
        return done

    async def _gone(self, purge: _Purge | None, done: _Deletion, at: Position) -> http.Deleted:
        """The reply to a deletion that was committed at `at`."""
        reply = done.reply if purge is None else await self._purge(purge, done)
        return replace(reply, durability=await self._writes.spread(at))

    async def _purge(self, piece: _Purge, of: _Deletion) -> http.Deleted:
        """Remove what was deleted for good, and the reply. If this is cut short, housekeeping ends
        it."""
        try:
            await self._writes.in_pieces(lambda txn: piece(txn.db, of.row, of.purge_at))
        except PetsemError as e:
            # An error would say that nothing was done, and the deletion is committed.
            log.warning("purge_put_off", code=e.code.value)
            return replace(of.reply, message=_PUT_OFF)
        return replace(of.reply, message=await self._writes.scrub())


def _refuse_taken(found: OrgRow | AppRow | None, what: str, now_ms: int) -> None:
    if found is None:
        return
    if found.deleted_at is None:
        raise conflict(f"there is an {what} already; choose another name")
    if _is_due(found, now_ms):
        raise conflict(f"the {what} is being purged; try again shortly")
    raise conflict(
        f"the {what} was deleted and can still be undeleted; do that, or delete it with now=true "
        "(--now)"
    )


def _is_due(row: OrgRow | AppRow, now_ms: int) -> bool:
    """Whether the purge may have begun: it goes in pieces, so nothing comes back after that."""
    return row.purge_at is not None and row.purge_at <= now_ms


def _delete(txn: Txn, row: int, what: str, now: bool) -> _Deletion:
    deleted_at = rfc3339(txn.now_ms)
    if now:
        message = f"it is gone from this node's database; {COPIES}"
        return _Deletion(row, txn.now_ms, http.Deleted(deleted_at, None, message))
    purge_at = txn.now_ms + UNDELETE_MS
    until = rfc3339(purge_at)
    message = f"undelete brings the {what} back until {until}; copies in backups last longer"
    return _Deletion(row, purge_at, http.Deleted(deleted_at, until, message))


def _org(row: OrgRow) -> http.Org:
    return http.Org(
        org=row.name,
        created_at=rfc3339(row.created_at),
        deleted_at=None if row.deleted_at is None else rfc3339(row.deleted_at),
        purge_at=None if row.purge_at is None else rfc3339(row.purge_at),
    )


def _app(row: AppRow) -> http.App:
    return http.App(
        app=row.name,
        version=row.version,
        created_at=rfc3339(row.created_at),
        deleted_at=None if row.deleted_at is None else rfc3339(row.deleted_at),
        purge_at=None if row.purge_at is None else rfc3339(row.purge_at),
    )
