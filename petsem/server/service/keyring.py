"""KEKs: listing, promoting, retiring; and what is done under them.

Guarantees: a KEK becomes primary only if this node holds it, and is called removable only when it
wraps nothing that lives; where it wraps something in a branch that was lost, that is said first. It
never sends or shows a key. Of other nodes it asks those that are heard now; a member that is not
counts as unknown, whatever it said last, and is named.

States: a KEK that this node holds and the cluster does not know is `waiting`. `promote` makes it
`primary` and the one before it `retired`. `retire` marks one that wraps nothing as `retired`; it
may then be removed from keyrings, and its row goes once the leader's keyring no longer holds it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import apsw

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.errors import conflict, invalid, not_found
from petsem.server.database import ReadPool
from petsem.server.held_keys import HeldKeys
from petsem.server.keyring_source import KeyringSource, load_keyring
from petsem.server.keys import Keys
from petsem.server.principal import Principal
from petsem.server.rewrapping import data_keys
from petsem.server.service.data_keys import DataKeys
from petsem.server.service.durability import NO_FOLLOWERS, Followers
from petsem.server.service.reports import lacking_kek, needed_by_lost, nodes_behind
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import keyring as rows
from petsem.server.store import nodes
from petsem.server.store.keyring import KekRow
from petsem.server.writer import Txn, Writer
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb

_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STATES: Final = ("primary", "waiting", "retired")
_PURPOSES: Final = tuple(Purpose)


class KeyringService:
    """The operations on keys. Callers have authorised the principal."""

    def __init__(
        self,
        *,
        node_id: str,
        writes: Writes,
        writer: Writer,
        pool: ReadPool,
        keys: Keys,
        source: KeyringSource,
        load: Callable[[KeyringSource], Keyring] = load_keyring,
        followers: Followers = NO_FOLLOWERS,
        own_lost: Callable[[], pb.NodeReport] = pb.NodeReport,
    ) -> None:
        self._node_id = node_id
        self._followers = followers
        self._own_lost = own_lost
        self._writes = writes
        self._pool = pool
        self._keys = keys
        self._source = source
        self._held = HeldKeys(writer=writer, pool=pool, keys=keys, source=source, load=load)
        self._data = DataKeys(writes=writes, pool=pool, keys=keys)

    @property
    def last_error(self) -> str | None:
        """Why the keyring could not be read again, until it can."""
        return self._held.last_error

    async def start(self) -> None:
        """Make the keys that the node started with known to the cluster. Never raises."""
        await self._held.introduce()

    async def reload(self) -> bool:
        """Read the keyring again, make its new keys known; False if the one before stays. Never
        raises."""
        return await self._held.reload()

    async def list(self) -> http.KeyringList:
        """Every KEK that the cluster knows or this node holds, by purpose and state."""
        await self.reload()
        return await asyncio.to_thread(self._list)

    async def promote(
        self, principal: Principal, call: Call, key_id: str, force: bool
    ) -> http.KekInfo:
        """Wrap new data keys with this KEK from now on.

        `force` is for live nodes that lack the key; this one has to wrap with it and never may.
        The answer names those in `lacking`, and the members of which it is not known in `unknown`.
        """
        kek_id = _check_id(key_id)
        await self.reload()

        def job(txn: Txn) -> http.KekInfo:
            kek = self._find(txn.db, kek_id)
            if self._keys.keyring.get(kek.purpose, kek.id) is None:
                raise conflict(
                    f"this node does not hold the {kek.purpose} key {key_id}; "
                    f"add it to {self._source}, then promote it{self._why_not_reloaded()}"
                )
            lacking = lacking_kek(self._followers.live(), kek.purpose, kek.id)
            if lacking and not force:
                raise conflict(
                    f"live nodes lack the {kek.purpose} key {key_id}: {_named(lacking)}; add it to "
                    "their keyrings first, or use --force and they will fail"
                )
            if kek.state != "primary":
                rows.add_waiting(txn.db, kek.purpose, kek.id)
                rows.make_primary(txn.db, kek)
            return self._info(txn.db, KekRow(kek.purpose, kek.id, "primary"), self._unknown(txn.db))

        return await self._once(principal, call, job)

    async def retire(
        self, principal: Principal, call: Call, key_id: str, force: bool = False
    ) -> http.KekInfo:
        """Mark a KEK that wraps nothing as one that may be removed from keyrings.

        `force` is for what it wraps in branches that are lost, and for members of which nothing is
        known; the answer names them in `lost` and `unknown`. It is not for what else it wraps.
        """
        kek_id = _check_id(key_id)

        def job(txn: Txn) -> http.KekInfo:
            kek = self._find(txn.db, kek_id)
            if kek.state == "primary":
                raise conflict(
                    f"{key_id} is the primary key for {kek.purpose}; promote another one first"
                )
            wraps = rows.count_wrapped(txn.db, kek.purpose, kek.id)
            if wraps:
                raise conflict(
                    f"{key_id} still wraps {data_keys(wraps)}; run 'petsem keyring rewrap' first"
                )
            behind = nodes_behind(self._followers.live())
            if behind:
                raise conflict(
                    f"live nodes are behind and may still need {key_id}: {_named(behind)}; retire "
                    "it when they have caught up"
                )
            lost = self._needed_by_lost(kek)
            if lost and not force:
                raise conflict(
                    f"{key_id} may still be needed for what is kept under lost/ of "
                    f"{_named(lost)}; make again from there what is missing and delete those "
                    "directories, or use --force and keep the key with them"
                )
            unknown = self._unknown(txn.db)
            if unknown and not force:
                raise conflict(
                    f"it is not known whether {key_id} is still needed by {', '.join(unknown)}: "
                    "what is not heard may be behind, or keep a branch under lost/; retire it when "
                    "they are back or removed, or use --force and keep the key for them"
                )
            rows.add_waiting(txn.db, kek.purpose, kek.id)
            rows.set_state(txn.db, kek, "retired")
            return self._info(txn.db, KekRow(kek.purpose, kek.id, "retired"), unknown)

        done = await self._once(principal, call, job)
        await self._held.introduce()
        return done

    async def rewrap(
        self, principal: Principal, call: Call, step: http.KeyringStep
    ) -> http.KeyringProgress:
        """Wrap up to `limit` data keys again by the primary KEK of their purpose."""
        return await self._data.rewrap(principal, call, step)

    async def rotate_data(
        self, principal: Principal, call: Call, step: http.KeyringStep
    ) -> http.KeyringProgress:
        """Make new data keys and seal again about `limit` rows of what the old ones seal."""
        return await self._data.rotate(principal, call, step)

    async def _once(
        self, principal: Principal, call: Call, job: Callable[[Txn], http.KekInfo]
    ) -> http.KekInfo:
        done, _ = await self._writes.once(principal, call, owned_by(None), http.KekInfo, job)
        return done

    def _list(self) -> http.KeyringList:
        held = self._keys.keyring.keys()
        with self._pool.snapshot() as db:
            known = {(row.purpose, row.id): row for row in rows.keks(db)}
            for purpose, key in held:
                known.setdefault((purpose, key.id), KekRow(purpose, key.id, "waiting"))
            order = sorted(
                known.values(),
                key=lambda k: (_PURPOSES.index(k.purpose), _STATES.index(k.state), k.id),
            )
            return http.KeyringList(keys=[self._info(db, row) for row in order])

    def _info(self, db: apsw.Connection, kek: KekRow, unknown: Iterable[str] = ()) -> http.KekInfo:
        return http.KekInfo(
            purpose=kek.purpose.value,
            id=kek.id.hex(),
            state=kek.state,
            held=self._keys.keyring.get(kek.purpose, kek.id) is not None,
            wraps=rows.count_wrapped(db, kek.purpose, kek.id),
            lacking=[
                report.node for report in lacking_kek(self._followers.live(), kek.purpose, kek.id)
            ],
            lost=[report.node for report in self._needed_by_lost(kek)],
            unknown=[*unknown],
        )

    def _needed_by_lost(self, kek: KekRow) -> Sequence[pb.NodeReport]:
        others = [report for _, report in sorted(self._followers.live().items())]
        return needed_by_lost([self._own_lost(), *others], kek.purpose, kek.id)

    def _unknown(self, db: apsw.Connection) -> Sequence[str]:
        """Members other than this node that are not heard now."""
        heard = {self._node_id, *self._followers.live()}
        return [row.id for row in nodes.every(db) if row.id not in heard]

    def _find(self, db: apsw.Connection, kek_id: bytes) -> KekRow:
        """A KEK that the cluster knows, or at least this node holds."""
        found = rows.find_kek(db, kek_id)
        if found is not None:
            return found
        held = self._keys.keyring.keys()
        for purpose, key in held:
            if key.id == kek_id:
                return KekRow(purpose, kek_id, "waiting")
        raise not_found(
            f"no keyring here holds the key {kek_id.hex()}, and the cluster does not know it; "
            f"see 'petsem keyring list'{self._why_not_reloaded()}"
        )

    def _why_not_reloaded(self) -> str:
        return "" if self.last_error is None else f" (not read again: {self.last_error})"


def _named(reports: Sequence[pb.NodeReport]) -> str:
    return ", ".join(f"{report.node} in {report.region}" for report in reports)


def _check_id(key_id: str) -> bytes:
    if _ID.fullmatch(key_id) is None:
        raise invalid("a key's id is 64 hexadecimal digits; see 'petsem keyring list'")
    return bytes.fromhex(key_id)
