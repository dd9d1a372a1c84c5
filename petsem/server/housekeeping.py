"""What a leader does by itself, once a minute: purge, forget, mend.

Guarantees: every change goes through the writer in short transactions, so nobody waits long for it;
whatever goes wrong is logged, never raised, and tried again at the next tick. Nothing depends on it
happening at a certain time, but that deleted data stays until it ran.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import apsw
import structlog

from petsem.clock import Clock
from petsem.crypto.keyring import Keyring
from petsem.errors import Code, PetsemError
from petsem.server import old_keys
from petsem.server.database import ReadPool
from petsem.server.keys import Keys
from petsem.server.service.writes import KEPT_MS
from petsem.server.space import Space
from petsem.server.store import boot_grants, keyring, orgs, purging, secrets, tokens
from petsem.server.writer import Txn, Writer

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NOTHING: Final = PetsemError(Code.NOT_FOUND, "there is nothing to do")
TOKENS_KEPT_MS: Final = 7 * 24 * 3600 * 1000
"""How long an expired token stays listed."""
_TICK_MAX_S: Final = 20.0
_DUE_MAX: Final = 100
_APPS_LOOKED_AT: Final = 5_000
_BUNDLES_MAX: Final = 20
_OLD_KEYS_MAX: Final = 100


class Housekeeping:
    """One task for the minute's work and one that watches the disk."""

    def __init__(
        self,
        *,
        writer: Writer,
        pool: ReadPool,
        keys: Keys,
        clock: Clock,
        space: Space,
        damaged_bundles: set[int],
        interval_s: float = 60.0,
        space_interval_s: float = 1.0,
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._keys = keys
        self._clock = clock
        self._space = space
        self._damaged_bundles = damaged_bundles
        self._interval_s = interval_s
        self._space_interval_s = space_interval_s
        self._tasks: list[asyncio.Task[None]] = []
        self._deadline_s = 0.0
        self._next_app = 0
        self._next_old_key = b""
        self._without_bundle: tuple[Keyring, dict[int, int]] = (keys.keyring, {})

    def start(self) -> None:
        """Begin; the first tick comes after one interval."""
        work = ((self.tick, self._interval_s), (self.watch_space, self._space_interval_s))
        self._tasks = [
            asyncio.create_task(_every(seconds, call), name=f"housekeeping-{call.__name__}")
            for call, seconds in work
        ]

    async def stop(self) -> None:
        """End, at the next await; a transaction that was begun is finished by the writer."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def watch_space(self) -> None:
        """Let the node take writes again when there is room. Never raises."""
        try:
            # On a thread: laying the ballast down may write 16 MiB.
            await asyncio.to_thread(self._space.restore)
        except OSError as e:
            log.warning("ballast_not_laid", error=type(e).__name__)

    async def tick(self) -> None:
        """Every chore once, within a bounded time. Never raises."""
        self._deadline_s = self._clock.boot_s() + _TICK_MAX_S
        for chore in (
            self._purge,
            self._forget_requests,
            self._forget_tokens,
            self._forget_grants,
            self._drop_old_keys,
            self._make_bundles,
        ):
            try:
                await chore()
            except PetsemError as e:
                log.warning("housekeeping_put_off", chore=chore.__name__, message=e.message)
                if e.code in (Code.UNAVAILABLE, Code.LIMIT):
                    # Full, busy or stopping: the other chores would fare no better.
                    return
            except Exception as e:
                log.error("housekeeping_failed", chore=chore.__name__, exc_info=e)

    async def _purge(self) -> None:
        """Remove orgs and apps whose time to undelete is over, in pieces.

        Whoever undeletes looks at that time too, so what was begun is never brought back in part.
        """
        now_ms = self._clock.unix_ms()
        due_orgs, due_apps = await self._reading(
            lambda db: orgs.due_for_purge(db, now_ms, _DUE_MAX)
        )
        for app in due_apps:
            await self._until_nothing(purging.purge_app, app, now_ms)
        for org in due_orgs:
            await self._until_nothing(purging.purge_org, org, now_ms)
        if due_apps or due_orgs:
            log.info("purged", apps=len(due_apps), orgs=len(due_orgs))
            await self._writer.scrub()

    async def _forget_requests(self) -> None:
        before_ms = self._clock.unix_ms() - KEPT_MS
        await self._until_nothing(purging.forget_requests, before_ms)

    async def _forget_tokens(self) -> None:
        before_ms = self._clock.unix_ms() - TOKENS_KEPT_MS
        await self._until_nothing(tokens.purge_expired, before_ms, purging.PIECE_ROWS)

    async def _forget_grants(self) -> None:
        await self._until_nothing(
            boot_grants.purge_expired, self._clock.unix_ms(), purging.PIECE_ROWS
        )

    async def _drop_old_keys(self) -> None:
        """Drop data keys that only waited for idempotency records or damaged rows to go."""
        looked = await self._reading(
            lambda db: old_keys.look(db, None, self._next_old_key, _OLD_KEYS_MAX)
        )
        self._next_old_key = looked.last or b""
        if looked.unneeded:

            def job(txn: Txn) -> None:
                for key_id in looked.unneeded:
                    keyring.drop_data_key(txn.db, key_id)

            await self._writer.submit(job)
            log.info("old_data_keys_dropped", count=len(looked.unneeded))

    async def _make_bundles(self) -> None:
        """Make boot bundles that were found damaged or were dropped, a few at a time."""
        for app in sorted(self._damaged_bundles)[:_BUNDLES_MAX]:
            await self._done(partial(self._ask_for_bundle, app))
            self._damaged_bundles.discard(app)
        missing, self._next_app = await self._reading(
            lambda db: purging.apps_without_bundle(
                db, self._next_app, _APPS_LOOKED_AT, _BUNDLES_MAX
            )
        )
        if self._without_bundle[0] is not self._keys.keyring:
            self._without_bundle = (self._keys.keyring, {})
        hopeless = self._without_bundle[1]
        for app, version in missing:
            if hopeless.get(app) == version:
                continue
            asked = await self._done(partial(self._ask_for_bundle, app))
            if not asked or not self._has_bundle(app):
                hopeless[app] = version

    def _has_bundle(self, app: int) -> bool:
        with self._pool.reading() as db:
            return secrets.read_bundle(db, app) is not None

    def _ask_for_bundle(self, app: int, txn: Txn) -> None:
        """Have the writer make an app's bundle at the end of this group, if it can."""
        found = orgs.app_by_id(txn.db, app)
        if found is None:
            raise _NOTHING
        try:
            self._keys.primary(txn.db, found[1].owner(found[0]))
        except PetsemError:
            raise _NOTHING from None
        txn.changed[app] = None

    async def _until_nothing(self, piece: Callable[..., int], *args: int) -> None:
        """Run `piece(db, *args)` in transactions of its own until it finds nothing more to do."""

        def job(txn: Txn) -> None:
            if not piece(txn.db, *args):
                raise _NOTHING

        while self._clock.boot_s() < self._deadline_s and await self._done(job):
            pass

    async def _done(self, job: Callable[[Txn], None]) -> bool:
        """Whether the job found something to do. If not, there is no transaction: an idle node
        writes nothing."""
        try:
            await self._writer.submit(job)
        except PetsemError as e:
            if e is _NOTHING:
                return False
            raise
        return True

    async def _reading(self, read: Callable[[apsw.Connection], T]) -> T:
        """`read` in one snapshot, on a thread: it may look at many rows."""

        def run() -> T:
            with self._pool.snapshot() as db:
                return read(db)

        return await asyncio.to_thread(run)


async def _every(seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await call()
