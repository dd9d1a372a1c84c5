"""The keyring of a running node: read again, and made known to the cluster.

Guarantees: a keyring that was read again replaces the one in use only if it holds every KEK in use
that the one before it held, so that a file half edited, or gone, takes nothing away. A KEK that
this node holds and the cluster does not know becomes `waiting`; a retired one that wraps nothing is
forgotten once this node no longer holds it. It decides nothing else about KEKs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import apsw
import structlog

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError, conflict
from petsem.server.database import ReadPool
from petsem.server.keyring_source import KeyringSource
from petsem.server.keys import Keys
from petsem.server.store import keyring as rows
from petsem.server.store.keyring import KekRow
from petsem.server.writer import Txn, Writer

log = structlog.get_logger(__name__)


class HeldKeys:
    """Keeps `Keys` and the table of KEKs in step with the keyring's source."""

    def __init__(
        self,
        *,
        writer: Writer,
        pool: ReadPool,
        keys: Keys,
        source: KeyringSource,
        load: Callable[[KeyringSource], Keyring],
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._keys = keys
        self._source = source
        self._load = load
        self._reading = asyncio.Lock()
        self.last_error: str | None = None
        """Why the keyring could not be read again, until it can."""

    async def reload(self) -> bool:
        """Read the keyring again; False if the one before stays. Never raises."""
        async with self._reading:
            try:
                # Not on the writer's helper thread: the source may be a command that takes
                # seconds, and commits wait for that thread.
                keyring = await asyncio.to_thread(self._load, self._source)
                self._refuse_loss(keyring)
            except PetsemError as e:
                self.last_error = e.message
                log.warning("keyring_not_reloaded", message=e.message)
                return False
            self.last_error = None
            if keyring != self._keys.keyring:
                self._keys.replace(keyring)
                log.info("keyring_reloaded", held=len(keyring.keys()))
            await self.introduce()
            return True

    async def introduce(self) -> None:
        """Make the table of KEKs follow the keyring. Never raises."""
        if not self._writer.running:
            # A replica's: nobody would write it, and a node that leads later does this then.
            return
        try:
            with self._pool.snapshot() as db:
                new, gone = self._differences(db)
            if new or gone:
                await self._writer.submit(self._adapt)
        except (PetsemError, apsw.Error) as e:
            # Such as a full disk: the keys can be used, and the next reload makes them known.
            log.warning("keys_not_introduced", error=str(e))

    def _adapt(self, txn: Txn) -> None:
        new, gone = self._differences(txn.db)
        for purpose, kek_id in new:
            rows.add_waiting(txn.db, purpose, kek_id)
        for kek in gone:
            rows.forget_kek(txn.db, kek)

    def _differences(self, db: apsw.Connection) -> tuple[set[tuple[Purpose, bytes]], list[KekRow]]:
        """(KEKs to make known, KEKs to forget)."""
        keyring = self._keys.keyring.keys()
        held = {(purpose, key.id) for purpose, key in keyring}
        known = rows.keks(db)
        gone = [
            row
            for row in known
            if row.state == "retired"
            and (row.purpose, row.id) not in held
            and not rows.count_wrapped(db, row.purpose, row.id)
        ]
        return held - {(row.purpose, row.id) for row in known}, gone

    def _refuse_loss(self, keyring: Keyring) -> None:
        before = self._keys.keyring.keys()
        with self._pool.reading() as db:
            for purpose, key in before:
                gone = keyring.get(purpose, key.id) is None
                if gone and key.id in rows.keks_in_use(db, purpose):
                    raise conflict(
                        f"{self._source} no longer holds the {purpose} key {key.id.hex()}, which "
                        "is in use, so the node keeps the keyring that it has; rewrap and retire "
                        "a key before it is removed"
                    )
