"""Setting, listing, reading and rolling back an app's secrets.

Guarantees: a batch is applied whole or not at all and makes one version; every name and size is
checked before anything is sealed; no reply but that of `values` contains a value.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final, Literal

import apsw
import msgspec

from petsem import limits
from petsem.clock import rfc3339
from petsem.crypto.digest import secret_digest
from petsem.crypto.envelope import DamagedEnvelope, Record, key_id_of, seal
from petsem.crypto.keys import Key
from petsem.errors import Code, Detail, PetsemError, conflict, invalid, not_found
from petsem.model import Position, check_secret_name
from petsem.secretbytes import SecretBytes
from petsem.server.auth import Principal
from petsem.server.bundles import Bundles, Patch
from petsem.server.database import ReadPool, read_position
from petsem.server.freshness import FreshnessSource, to_http
from petsem.server.keys import Keys, Owner
from petsem.server.service.settings import durability_setting
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import orgs
from petsem.server.store import secrets as rows
from petsem.server.store.orgs import AppRow
from petsem.server.store.secrets import SecretRow, VersionRow
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


class _Destroyed(msgspec.Struct, frozen=True):
    version: int
    destroyed: list[http.DestroyedSecret]


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked batch: values to set by name, and names to take away."""

    set: dict[str, SecretBytes]
    unset: tuple[str, ...]
    if_version: int | None
    durability: http.DurabilityWish | None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the batch touches."""
        return (*self.set, *self.unset)


def check_batch(patch: http.SecretsPatch) -> Batch:
    """The batch that a body spells, with every bound checked."""
    if not patch.set and not patch.unset:
        raise invalid("the batch is empty; give names to set or to unset")
    if len(patch.set) + len(patch.unset) > limits.APP_MAX_SECRETS:
        raise invalid(f"a batch has at most {limits.APP_MAX_SECRETS} names", reason="TOO_LARGE")
    if len(set(patch.unset)) != len(patch.unset):
        raise invalid("a name is unset twice in one batch")
    for name in (*patch.set, *patch.unset):
        check_secret_name(name)
    if not patch.set.keys().isdisjoint(patch.unset):
        raise invalid("a name is both set and unset in one batch")
    if isinstance(patch.durability, http.ReplicatedDurability) and patch.durability.replicated < 1:
        raise invalid("durability replicated must be at least 1")
    values = {name: _value(name, value) for name, value in patch.set.items()}
    return Batch(values, tuple(patch.unset), patch.if_version, patch.durability)


def _value(name: str, value: http.Value) -> SecretBytes:
    if isinstance(value, str):
        raw = value.encode()
    else:
        try:
            raw = base64.b64decode(value.base64, validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"the base64 of {name} is not valid") from None
    if len(raw) > limits.VALUE_MAX_BYTES:
        raise invalid(
            f"the value of {name} is over {limits.VALUE_MAX_BYTES} bytes", reason="TOO_LARGE"
        )
    return SecretBytes(raw)


class Secrets:
    """The operations on one app's secrets. Callers have authorised the principal for the names."""

    def __init__(
        self,
        *,
        writes: Writes,
        pool: ReadPool,
        keys: Keys,
        bundles: Bundles,
        freshness: FreshnessSource,
    ) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys
        self._bundles = bundles
        self._freshness = freshness

    async def patch(
        self, principal: Principal, call: Call, org: str, app: str, batch: Batch
    ) -> http.SecretsPatched:
        """Apply a batch as the app's next version."""

        def job(txn: Txn) -> _Written:
            found = orgs.get_app_to_write(txn.db, org, app)
            app_row = found.app
            _require_version(app_row, batch.if_version)
            version = _next_version(app_row)
            owner = app_row.owner(found.org.uid)
            # What only takes away needs no key, and works without one.
            key = self._keys.primary_of(owner, found.key) if batch.set else None
            count, size = app_row.secrets, app_row.size
            for name in batch.unset:
                old_size = rows.close(txn.db, app_row.id, name, version)
                if old_size is None:
                    raise not_found(f"there is no secret {name} in {org}/{app}")
                count, size = count - 1, size - _weight(name, old_size)
            written = []
            for name, value in batch.set.items():
                assert key is not None
                row = _seal(key, owner, name, version, value.reveal())
                old_size = rows.close(txn.db, app_row.id, name, version)
                if old_size is None:
                    count, size = count + 1, size + _weight(name, row.size)
                else:
                    size += row.size - old_size
                rows.insert(txn.db, app_row.id, row)
                assert row.digest is not None
                written.append(http.WrittenSecret(name=name, digest=row.digest.hex()))
            _require_room(count, size)
            _add_version(txn, app_row, principal, version, "set", count, size)
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
            _require_version(app_row, body.if_version)
            if not 0 <= body.to < app_row.version:
                raise not_found(f"{org}/{app} has no version {body.to} to go back to")
            version = _next_version(app_row)
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
            size = sum(_weight(row.name, row.size) for row in then.values())
            _add_version(
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

        def job(txn: Txn) -> _Destroyed:
            _, app_row = orgs.get_app(txn.db, org, app)
            if body.version is None:
                return self._destroy_all(txn, principal, app_row, body.names)
            return _destroy_one(txn, app_row, body.names, body.version)

        done, position = await self._writes.once(principal, call, owned_by(org), _Destroyed, job)
        gone = await self._writes.scrub()
        return http.Destroyed(
            version=done.version,
            destroyed=done.destroyed,
            position=str(position),
            message=gone,
            durability=await self._writes.spread(position),
        )

    def _destroy_all(
        self, txn: Txn, principal: Principal, app_row: AppRow, names: list[str]
    ) -> _Destroyed:
        version = app_row.version
        count, size = app_row.secrets, app_row.size
        ended = []
        for name in names:
            old = rows.current_one(txn.db, app_row.id, name)
            if old is not None:
                version = app_row.version + 1
                ended.append(name)
                count, size = count - 1, size - _weight(name, old.size)
        if ended:
            _next_version(app_row)
            for name in ended:
                rows.close(txn.db, app_row.id, name, version)
            _add_version(txn, app_row, principal, version, "destroy", count, size)
        destroyed = []
        for name in names:
            stored = rows.stored_values(txn.db, app_row.id, name)
            if not stored:
                raise not_found(f"no value of {name} is stored, now or in the history")
            since = [
                set_by
                for sealed_at in {sealed_at for _, _, sealed_at in stored}
                for set_by in rows.destroy(txn.db, app_row.id, name, sealed_at)
            ]
            destroyed.append(http.DestroyedSecret(name=name, versions=sorted(since)))
        return _Destroyed(version, destroyed)

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
            _require_version(app_row, batch.if_version)
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


def _weight(name: str, size: int) -> int:
    return len(name) + size


def _admits(allowed: SecretFilter | None, name: str) -> bool:
    return allowed is None or allowed.admits(name)


def _require_version(app: AppRow, wanted: int | None) -> None:
    if wanted is not None and wanted != app.version:
        raise PetsemError(
            Code.CONFLICT,
            f"the app is at version {app.version}, not {wanted}; read it again, then decide",
            Detail(have_version=app.version, need_version=wanted),
        )


def _next_version(app: AppRow) -> int:
    if app.version >= limits.VERSION_MAX:
        raise conflict("the app has reached the last version there can be; make a new app")
    return app.version + 1


def _require_room(count: int, size: int) -> None:
    if count > limits.APP_MAX_SECRETS:
        raise invalid(f"an app has at most {limits.APP_MAX_SECRETS} secrets", reason="TOO_LARGE")
    if size > limits.APP_MAX_BYTES:
        raise invalid(
            f"names and values of an app are at most {limits.APP_MAX_BYTES} bytes together",
            reason="TOO_LARGE",
        )


def _add_version(
    txn: Txn,
    app: AppRow,
    principal: Principal,
    version: int,
    change: Literal["set", "rollback", "destroy"],
    count: int,
    size: int,
    *,
    back_to: int | None = None,
) -> None:
    token = principal.token
    row = VersionRow(version, txn.now_ms, token.subject, token.nonce, change, back_to)
    rows.add_version(txn.db, app, row, count, size)
    txn.changed[app.id] = None


def _destroy_one(txn: Txn, app: AppRow, names: list[str], version: int) -> _Destroyed:
    if version > app.version:
        raise not_found(f"the app has no version {version} yet")
    then = {row.name: row for row in rows.at_version(txn.db, app.id, version)}
    destroyed = []
    for name in names:
        row = then.get(name)
        if row is None or row.envelope is None:
            raise not_found(f"no value of {name} is stored in version {version}")
        now = rows.current_one(txn.db, app.id, name)
        if now is not None and now.sealed_at == row.sealed_at:
            raise conflict(f"that value of {name} is the current one; set or unset {name} first")
        gone = rows.destroy(txn.db, app.id, name, row.sealed_at)
        destroyed.append(http.DestroyedSecret(name=name, versions=sorted(gone)))
    return _Destroyed(app.version, destroyed)
