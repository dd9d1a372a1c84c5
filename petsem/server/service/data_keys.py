"""Data keys wrapped again, and data sealed again, a bounded step at a time.

Guarantees: a step is one short transaction and can be repeated; what is dropped is decided by what
is stored, never by what a cursor says. A run that was cut short goes on from its cursor, or starts
anew without it: both end in the same state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import apsw

from petsem.errors import invalid
from petsem.server import cursors, old_keys, resealing, rewrapping
from petsem.server.database import ReadPool
from petsem.server.keys import Keys
from petsem.server.principal import Principal
from petsem.server.resealing import Resealer, Stage
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import keyring as rows
from petsem.server.store import orgs
from petsem.server.writer import Txn
from petsem.wire.http import KeyringProgress, KeyringStep

T = TypeVar("T")

STEP_MAX_ROWS: Final = 500


class DataKeys:
    """`rewrap` and `rotate-data`. Callers have authorised the principal."""

    def __init__(self, *, writes: Writes, pool: ReadPool, keys: Keys) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys
        self._resealer = Resealer(keys)

    async def rewrap(self, principal: Principal, call: Call, step: KeyringStep) -> KeyringProgress:
        """Wrap up to `limit` data keys again by the primary KEK of their purpose."""
        if step.org is not None or step.app is not None:
            raise invalid("rewrap is for all data keys; leave org and app out")
        limit = _check_limit(step.limit)
        if step.after is None:
            cursor = await self._reading(rewrapping.begin)
        else:
            cursor = cursors.parse(step.after, rewrapping.Cursor)

        def job(txn: Txn) -> KeyringProgress:
            after, done = rewrapping.advance(txn, self._keys, cursor, limit)
            if after is not None:
                return _progress(done, after.left, cursors.encode(after), "wrapping data keys")
            left = rewrapping.remaining(txn.db)
            message = rewrapping.explain(txn.db, self._keys) if left else ""
            return _progress(done, left, None, message or "every data key is wrapped anew")

        return await self._once(principal, call, job)

    async def rotate(self, principal: Principal, call: Call, step: KeyringStep) -> KeyringProgress:
        """Make new data keys and seal again what the old ones seal, about `limit` rows of it; at
        the end drop the old keys that nothing needs."""
        limit = _check_limit(step.limit)
        only = await self._reading(lambda db: _scope(db, step))
        if step.after is None:
            cursor = await self._reading(lambda db: resealing.begin(db, only))
        else:
            cursor = cursors.parse(step.after, resealing.Cursor)
        if cursor.stage is Stage.OLD_KEYS:
            return await self._drop(principal, call, cursor, only, limit)

        def job(txn: Txn) -> KeyringProgress:
            after, done = self._resealer.advance(txn, cursor, only, limit)
            return _progress(done, after.left, cursors.encode(after), "sealing again")

        return await self._once(principal, call, job)

    async def _drop(
        self,
        principal: Principal,
        call: Call,
        cursor: resealing.Cursor,
        only: int | None,
        limit: int,
    ) -> KeyringProgress:
        looked = await self._reading(lambda db: old_keys.look(db, only, cursor.key_bytes, limit))

        def job(txn: Txn) -> KeyringProgress:
            for key_id in looked.unneeded:
                rows.drop_data_key(txn.db, key_id)
            if looked.last is None:
                return _progress(looked.seen, 0, None, "")
            left = max(cursor.left - looked.seen, 1)
            after = resealing.Cursor(Stage.OLD_KEYS, left, key=looked.last.hex())
            return _progress(looked.seen, left, cursors.encode(after), "dropping old data keys")

        progress = await self._once(principal, call, job)
        if progress.next is not None:
            return progress
        message = await self._reading(lambda db: old_keys.explain(db, only))
        return _progress(progress.done, 0, None, message or "everything is under new data keys")

    async def _once(
        self, principal: Principal, call: Call, job: Callable[[Txn], KeyringProgress]
    ) -> KeyringProgress:
        done, _ = await self._writes.once(principal, call, owned_by(None), KeyringProgress, job)
        return done

    async def _reading(self, read: Callable[[apsw.Connection], T]) -> T:
        """`read` in one snapshot, on a thread: what is read here may be whole tables."""

        def run() -> T:
            with self._pool.snapshot() as db:
                return read(db)

        return await asyncio.to_thread(run)


def _scope(db: apsw.Connection, step: KeyringStep) -> int | None:
    """The row number of the one app that a step is for, or None."""
    if step.org is None and step.app is None:
        return None
    if step.org is None or step.app is None:
        raise invalid("give org and app both, or neither for everything")
    return orgs.get_app(db, step.org, step.app)[1].id


def _progress(done: int, left: int, after: str | None, message: str) -> KeyringProgress:
    return KeyringProgress(done=done, remaining=left, next=after, message=message)


def _check_limit(limit: int) -> int:
    if not 1 <= limit <= STEP_MAX_ROWS:
        raise invalid(f"limit is between 1 and {STEP_MAX_ROWS}")
    return limit
