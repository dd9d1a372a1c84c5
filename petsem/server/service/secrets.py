"""Setting, listing, comparing, rolling back and destroying an app's secrets.

Guarantees: a batch is applied whole or not at all and makes one version; no reply contains a value.
What a body spells was checked before (`batches`); reading values is `values`.
"""

from __future__ import annotations

from typing import Final

import apsw
import msgspec

from petsem.clock import rfc3339
from petsem.crypto.digest import secret_digest
from petsem.crypto.envelope import DamagedEnvelope, Record, key_id_of, seal
from petsem.crypto.keys import Key
from petsem.errors import conflict, invalid, not_found
from petsem.model import Position, check_secret_name
from petsem.secretbytes import SecretBytes
from petsem.server.bundles import Patch
from petsem.server.database import ReadPool, read_position
from petsem.server.freshness import FreshnessSource, to_http
from petsem.server.keys import Keys, Owner
from petsem.server.principal import Principal
from petsem.server.service.batches import Batch
from petsem.server.service.destroying import Destroyed, destroy_all, destroy_version
from petsem.server.service.settings import durability_setting
from petsem.server.service.versions import (
    add_version,
    next_version,
    require_room,
    require_version,
    weight,
)
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import orgs
from petsem.server.store import secrets as rows
from petsem.server.store.secrets import SecretRow
from petsem.server.writer import Txn
from petsem.tokens.caveats import SecretFilter
from petsem.wire import http

_NEVER: Final = 2**63 - 1


class _Written(msgspec.Struct, frozen=True):
    """What an idempotency record keeps of a write: names and digests, no value."""

    version: int
    set: list[http.WrittenSecret]
    unset: list[str]
    durability: http.DurabilityWish


class Secrets:
    """The operations on one app's secrets. Callers have authorised the principal for the names."""

    def __init__(
        self,
        *,
        writes: Writes,
        pool: ReadPool,
        keys: Keys,
        freshness: FreshnessSource,
    ) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys
        self._freshness = freshness

    async def patch(
        self, principal: Principal, call: Call, org: str, app: str, batch: Batch
    ) -> http.SecretsPatched:
        """Apply a batch as the app's next version."""

        def job(txn: Txn) -> _Written:
            found = orgs.get_app_to_write(txn.db, org, app)
            app_row = found.app
            require_version(app_row, batch.if_version)
            version = next_version(app_row)
            owner = app_row.owner(found.org.uid)
            # What only takes away needs no key, and works without one.
            key = self._keys.primary_of(owner, found.key) if batch.set else None
            count, size = app_row.secrets, app_row.size
            for name in batch.unset:
                old_size = rows.close(txn.db, app_row.id, name, version)
                if old_size is None:
                    raise not_found(f"there is no secret {name} in {org}/{app}")
                count, size = count - 1, size - weight(name, old_size)
            written = []
            for name, value in batch.set.items():
                assert key is not None
                row = _seal(key, owner, name, version, value.reveal())
                old_size = rows.close(txn.db, app_row.id, name, version)
                if old_size is None:
                    count, size = count + 1, size + weight(name, row.size)
                else:
                    size += row.size - old_size
                rows.insert(txn.db, app_row.id, row)
                assert row.digest is not None
                written.append(http.WrittenSecret(name=name, digest=row.digest.hex()))
            require_room(count, size)
            add_version(txn, app_row, principal, version, "set", count, size)
            if key is not None:
                txn.changed[app_row.id] = Patch(owner, key, version, batch.set, batch.unset)
            wish = batch.durability or durability_setting(found.durability)
            return _Written(version, written, list(batch.unset), wish)

        done, position = await self._writes.once(principal, call, owned_by(org), _Written, job)
        return await self._patched(done, position)

    async def rollback(
        self, principal: Principal, call: Call, org: str, app: str, body: http.Rollback
    ) -> http.SecretsPatched:
        """Make a new version with the values of an earlier one; envelopes are copied unchanged."""

        def job(txn: Txn) -> _Written:
            found = orgs.get_app_to_write(txn.db, org, app)
            app_row = found.app
            require_version(app_row, body.if_version)
            if not 0 <= body.to < app_row.version:
                raise not_found(f"{org}/{app} has no version {body.to} to go back to")
            version = next_version(app_row)
            now = {row.name: row for row in rows.current(txn.db, app_row.id)}
            then = {row.name: row for row in rows.at_version(txn.db, app_row.id, body.to)}
            for name, row in then.items():
                if row.envelope is None:
                    raise conflict(
                        f"the value of {name} in version {body.to} was destroyed; "
                        "set the other names by hand"
                    )
            changed, gone = [], []
            for name in now.keys() - then.keys():
                rows.close(txn.db, app_row.id, name, version)
                gone.append(name)
            for name, row in then.items():
                if name in now and now[name].since == row.since:
                    continue
                rows.close(txn.db, app_row.id, name, version)
                copy = SecretRow(name, version, row.sealed_at, row.digest, row.envelope, row.size)
                rows.insert(txn.db, app_row.id, copy)
                assert row.digest is not None
                changed.append(http.WrittenSecret(name=name, digest=row.digest.hex()))
            size = sum(weight(row.name, row.size) for row in then.values())
            add_version(
                txn, app_row, principal, version, "rollback", len(then), size, back_to=body.to
            )
            wish = body.durability or durability_setting(found.durability)
            return _Written(version, changed, sorted(gone), wish)

        done, position = await self._writes.once(principal, call, owned_by(org), _Written, job)
        return await self._patched(done, position)

    async def _patched(self, done: _Written, position: Position) -> http.SecretsPatched:
        return http.SecretsPatched(
            version=done.version,
            position=str(position),
            durability=await self._writes.durability(done.durability, position),
            set=done.set,
            unset=done.unset,
        )

    async def destroy(
        self, principal: Principal, call: Call, org: str, app: str, body: http.Destroy
    ) -> http.Destroyed:
        """Remove values for good. Without a version: all of them, and the names are unset."""
        if not body.names or len(set(body.names)) != len(body.names):
            raise invalid("give each name to destroy once")
        for name in body.names:
            check_secret_name(name)

        def job(txn: Txn) -> Destroyed:
            _, app_row = orgs.get_app(txn.db, org, app)
            if body.version is None:
                return destroy_all(txn, principal, app_row, body.names)
            return destroy_version(txn, app_row, body.names, body.version)

        done, position = await self._writes.once(principal, call, owned_by(org), Destroyed, job)
        gone = await self._writes.scrub()
        return http.Destroyed(
            version=done.version,
            destroyed=done.destroyed,
            position=str(position),
            message=gone,
            durability=await self._writes.spread(position),
        )

    def list(
        self, principal: Principal, org: str, app: str, version: int | None = None
    ) -> http.SecretList:
        """Names, versions, digests and who set them, now or in a `version`; never a value."""
        with self._pool.snapshot() as db:
            _, app_row = orgs.get_app(db, org, app)
            if version is not None and version > app_row.version:
                raise not_found(f"{org}/{app} has no version {version} yet")
            listed = rows.listing(db, app_row.id, version)
            position = read_position(db)
        seen = [row for row in listed if _admits(principal.filter, row.name)]
        return http.SecretList(
            version=app_row.version if version is None else version,
            secrets=[
                http.SecretInfo(
                    name=row.name,
                    version=row.since,
                    digest=(row.digest or b"").hex(),
                    updated_at=rfc3339(row.at),
                    updated_by=http.Who(subject=row.subject, token_id=row.token.hex()),
                )
                for row in seen
            ],
            filtered=principal.filter is not None,
            freshness=to_http(self._freshness.at(position)),
        )

    def versions(self, org: str, app: str, before: int | None, limit: int) -> http.VersionList:
        """History, newest first: which names each version changed, and who made it."""
        with self._pool.snapshot() as db:
            _, app_row = orgs.get_app(db, org, app)
            found = rows.versions(db, app_row.id, _NEVER if before is None else before, limit)
            opened: dict[int, list[str]] = {}
            closed: dict[int, list[str]] = {}
            if found:
                opened, closed = rows.names_changed(
                    db, app_row.id, found[-1].version, found[0].version
                )
            position = read_position(db)
        return http.VersionList(
            versions=[
                http.VersionInfo(
                    version=row.version,
                    created_at=rfc3339(row.at),
                    updated_by=http.Who(subject=row.subject, token_id=row.token.hex()),
                    change=row.change,  # type: ignore[arg-type]
                    rolled_back_to=row.rolled_back_to,
                    set=opened.get(row.version, []),
                    unset=closed.get(row.version, []),
                )
                for row in found
            ],
            next=found[-1].version if len(found) == limit and found[-1].version > 1 else None,
            freshness=to_http(self._freshness.at(position)),
        )

    def diff(
        self, principal: Principal, org: str, app: str, batch: Batch, *, may_read: bool
    ) -> http.SecretsDiff:
        """What the batch would do. Whether a value is the same is told to readers only."""
        with self._pool.snapshot() as db:
            org_row, app_row = orgs.get_app(db, org, app)
            require_version(app_row, batch.if_version)
            now = {row.name: row for row in rows.current(db, app_row.id)}
            added = sorted(batch.set.keys() - now.keys())
            removed = sorted(set(batch.unset) & now.keys())
            present = sorted(batch.set.keys() & now.keys())
            if not may_read:
                return http.SecretsDiff(added=added, removed=removed, present=present)
            owner = app_row.owner(org_row.uid)
            same = [n for n in present if self._same(db, owner, now[n], batch.set[n].reveal())]
        return http.SecretsDiff(
            added=added,
            removed=removed,
            same=same,
            changed=sorted(set(present) - set(same)),
        )

    def _same(self, db: apsw.Connection, owner: Owner, row: SecretRow, value: bytes) -> bool:
        if row.envelope is None or row.digest is None:
            return False
        try:
            key = self._keys.data_key(db, owner, key_id_of(row.envelope))
        except DamagedEnvelope:
            return False
        return SecretBytes(row.digest) == SecretBytes(
            secret_digest(key, owner.incarnation, row.name, value)
        )


def _seal(key: Key, owner: Owner, name: str, version: int, value: bytes) -> SecretRow:
    digest = secret_digest(key, owner.incarnation, name, value)
    envelope = seal(key, owner.place(Record.VALUE, name.encode(), version), value)
    return SecretRow(name, version, version, digest, envelope, len(value))


def _admits(allowed: SecretFilter | None, name: str) -> bool:
    return allowed is None or allowed.admits(name)
