"""Creating and deleting orgs and apps, and an org's settings.

Guarantees: deletion is soft for seven days, during which the name stays taken and `undelete`
brings all back; after that, or with `now`, it is purged. An org is made with its keys: a data key
and a root key of its own.
"""

from __future__ import annotations

from typing import Final

import msgspec

from petsem.clock import rfc3339
from petsem.crypto.keys import random_id
from petsem.errors import conflict, not_found
from petsem.model import check_app, check_org
from petsem.server.auth import Principal
from petsem.server.database import ReadPool
from petsem.server.keys import Keys
from petsem.server.service import settings
from petsem.server.service.tokens import add_root_key
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import orgs as rows
from petsem.server.store.orgs import AppRow, OrgRow
from petsem.server.writer import Txn
from petsem.wire import http

UNDELETE_MS: Final = 7 * 24 * 3600 * 1000


class _Nothing(msgspec.Struct, frozen=True):
    """The outcome of a call whose reply is read from the database."""


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
            _refuse_taken(rows.find_org(txn.db, name, deleted=True), f"org {name}")
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

        def job(txn: Txn) -> http.Deleted:
            org = rows.find_org(txn.db, name, deleted=now)
            if org is None:
                raise not_found(f"there is no org {name}")
            if now:
                rows.purge_org(txn.db, org.id)
                return _purged(txn)
            rows.mark_org(txn.db, org, txn.now_ms, txn.now_ms + UNDELETE_MS)
            return _softly(txn, f"org {name}")

        done, _ = await self._writes.once(principal, call, owned_by(None), http.Deleted, job)
        if now:
            await self._writes.scrub()
        return done

    async def undelete_org(self, principal: Principal, call: Call, name: str) -> http.Org:
        """Bring a softly deleted org back."""

        def job(txn: Txn) -> http.Org:
            org = rows.find_org(txn.db, name, deleted=True)
            if org is None or _is_due(org, txn.now_ms):
                raise not_found(f"there is no org {name}, deleted or not")
            rows.mark_org(txn.db, org, None, None)
            return _org(OrgRow(org.id, org.uid, org.name, org.created_at, None, None))

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

        def job(txn: Txn) -> _Nothing:
            settings.write(txn.db, rows.get_org(txn.db, name).id, patch)
            return _Nothing()

        await self._writes.once(principal, call, owned_by(name), _Nothing, job)
        return self.settings(name)

    async def create_app(
        self, principal: Principal, call: Call, org_name: str, name: str
    ) -> http.App:
        """A new app, at version 0, with a data key."""
        check_app(name)

        def job(txn: Txn) -> http.App:
            org = rows.get_org(txn.db, org_name)
            _refuse_taken(rows.find_app(txn.db, org, name, deleted=True), f"app {org_name}/{name}")
            app = rows.insert_app(txn.db, org, random_id(), name, txn.now_ms)
            self._keys.create(txn.db, app.owner(org.uid), txn.now_ms)
            txn.changed.add(app.id)
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

        def job(txn: Txn) -> http.Deleted:
            org = rows.get_org(txn.db, org_name)
            app = rows.find_app(txn.db, org, name, deleted=now)
            if app is None:
                raise not_found(f"there is no app {org_name}/{name}")
            txn.changed.add(app.id)
            if now:
                rows.purge_app(txn.db, app.id)
                return _purged(txn)
            rows.mark_app(txn.db, app, txn.now_ms, txn.now_ms + UNDELETE_MS)
            return _softly(txn, f"app {org_name}/{name}")

        done, _ = await self._writes.once(principal, call, owned_by(org_name), http.Deleted, job)
        if now:
            await self._writes.scrub()
        return done

    async def undelete_app(
        self, principal: Principal, call: Call, org_name: str, name: str
    ) -> http.App:
        """Bring a softly deleted app back, as it was."""

        def job(txn: Txn) -> _Nothing:
            org = rows.get_org(txn.db, org_name)
            app = rows.find_app(txn.db, org, name, deleted=True)
            if app is None or _is_due(app, txn.now_ms):
                raise not_found(f"there is no app {org_name}/{name}, deleted or not")
            rows.mark_app(txn.db, app, None, None)
            txn.changed.add(app.id)
            return _Nothing()

        await self._writes.once(principal, call, owned_by(org_name), _Nothing, job)
        with self._pool.snapshot() as db:
            return _app(rows.get_app(db, org_name, name)[1])


def _refuse_taken(found: OrgRow | AppRow | None, what: str) -> None:
    if found is None:
        return
    if found.deleted_at is None:
        raise conflict(f"there is an {what} already; choose another name")
    raise conflict(f"the {what} was deleted and can still be undeleted; do that, or delete it now")


def _is_due(row: OrgRow | AppRow, now_ms: int) -> bool:
    """Whether the purge may have begun: it goes in pieces, so nothing comes back after that."""
    return row.purge_at is not None and row.purge_at <= now_ms


def _softly(txn: Txn, what: str) -> http.Deleted:
    purge_at = rfc3339(txn.now_ms + UNDELETE_MS)
    return http.Deleted(
        deleted_at=rfc3339(txn.now_ms),
        purge_at=purge_at,
        message=f"undelete brings the {what} back until {purge_at}; copies in backups last longer",
    )


def _purged(txn: Txn) -> http.Deleted:
    return http.Deleted(
        deleted_at=rfc3339(txn.now_ms),
        purge_at=None,
        message="it is gone from this node's database; copies in backups made before now last "
        "as long as those backups",
    )


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
