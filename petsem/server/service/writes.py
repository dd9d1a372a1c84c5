"""What every write shares: the token checked again inside the transaction, idempotency, durability.

Guarantees: a request that carries an Idempotency-Key happens at most once in 24 hours, whatever
was lost on the way; its record is made in the request's own savepoint, so it exists exactly if the
write does. The record holds nothing that is a credential: replies are made again from it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from petsem import limits
from petsem.crypto.digest import body_mac
from petsem.crypto.envelope import DamagedEnvelope, Place, Record
from petsem.errors import Code, PetsemError, conflict, invalid
from petsem.model import Position
from petsem.server import sql
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.principal import Principal
from petsem.server.service.durability import NO_FOLLOWERS, REMOVAL_WAIT_S, Followers, durability
from petsem.server.store import orgs
from petsem.server.verifying import Verifying
from petsem.server.writer import Txn, Writer
from petsem.wire import http

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

KEPT_MS: Final = 24 * 3600 * 1000
COPIES: Final = (
    "sealed copies stay in the transaction log of each node for up to 8 days, and in backups made "
    "before now as long as those last"
)
"""Where values may still be after they were destroyed."""
_PIECES: Final = 8


@dataclass(frozen=True, slots=True)
class Call:
    """A write as the door saw it: what an Idempotency-Key is compared by. The body may hold
    values of secrets."""

    method: str
    path: str
    body: bytes = field(repr=False)
    key: str | None = None


class Writes:
    """Runs jobs in the writer on behalf of a principal."""

    def __init__(
        self,
        writer: Writer,
        keys: Keys,
        auth: Verifying,
        followers: Followers = NO_FOLLOWERS,
    ) -> None:
        self._followers = followers
        self._writer = writer
        self._keys = keys
        self._auth = auth

    async def once(
        self,
        principal: Principal,
        call: Call,
        owner: Callable[[Txn], tuple[int | None, Owner]],
        outcome: type[T],
        job: Callable[[Txn], T],
    ) -> tuple[T, Position]:
        """The outcome of `job` and the position of the transaction that did it, now or before.

        `owner` finds the org's row number and whose key seals the idempotency record; it raises
        `not_found` as the job itself would.
        """
        _check_key(call.key)

        def run(txn: Txn) -> tuple[T, Position]:
            self._auth.still_holds(txn.db, principal.token)
            return self._once(txn, principal.token.nonce, call, owner, outcome, job)

        return await self._writer.submit(run)

    async def once_for(
        self,
        nonce: bytes,
        call: Call,
        owner: Callable[[Txn], tuple[int | None, Owner]],
        outcome: type[T],
        job: Callable[[Txn], T],
    ) -> tuple[T, Position]:
        """The same for whoever has no token yet, and shows in `owner` and in `job` that he may have
        the one of that nonce."""
        _check_key(call.key)
        return await self._writer.submit(
            lambda txn: self._once(txn, nonce, call, owner, outcome, job)
        )

    async def durability(
        self, wish: http.DurabilityWish, position: Position
    ) -> http.DurabilityReport:
        """Wait until a committed write is where it was wished to be, for a while; what is true of
        it then."""
        return await durability(self._followers, wish, position)

    async def spread(self, position: Position) -> http.DurabilityReport:
        """The same for what takes authority or values away: one other node, if one is there."""
        connected = self._followers.connected
        wish: http.DurabilityWish = http.ReplicatedDurability(1) if connected else "local"
        return await durability(self._followers, wish, position, REMOVAL_WAIT_S)

    async def own(self, job: Callable[[Txn], V]) -> V:
        """The result of a write that no principal asked for but a node of the cluster."""
        return await self._writer.submit(job)

    async def in_pieces(self, piece: Callable[[Txn], int]) -> None:
        """The rest of a write that would be too long for one transaction: `piece` again and again,
        a few times in each of many transactions, until it finds nothing more to do."""

        def some(txn: Txn) -> bool:
            return all(piece(txn) for _ in range(_PIECES))

        while await self._writer.submit(some):
            pass

    async def scrub(self) -> str:
        """After values were destroyed: see that the overwritten pages are on the disk. A sentence
        for whoever asked, which says where copies may still be."""
        if await self._writer.scrub():
            gone = "it is gone from this node's database"
        else:
            gone = (
                "it is deleted; sealed copies stay in the write-ahead log until whoever reads the "
                "database lets go of it"
            )
        return f"{gone}; {COPIES}"

    def _once(
        self,
        txn: Txn,
        nonce: bytes,
        call: Call,
        owner: Callable[[Txn], tuple[int | None, Owner]],
        outcome: type[T],
        job: Callable[[Txn], T],
    ) -> tuple[T, Position]:
        if call.key is None:
            return job(txn), txn.position
        org, whose = owner(txn)
        before = self._recall(txn, nonce, call, whose, outcome)
        if before is not None:
            return before
        done = job(txn)
        self._remember(txn, nonce, call, org, whose, done)
        return done, txn.position

    def _recall(
        self, txn: Txn, nonce: bytes, call: Call, owner: Owner, outcome: type[T]
    ) -> tuple[T, Position] | None:
        found = sql.one(
            txn.db,
            "SELECT body_mac, data_key, outcome, epoch, txid FROM idempotency"
            " WHERE nonce = ? AND method = ? AND path = ? AND key = ? AND at > ?",
            (nonce, call.method, call.path, call.key, txn.now_ms - KEPT_MS),
        )
        if found is None:
            return None
        mac, data_key, sealed, epoch, txid = found
        try:
            key = self._keys.data_key(txn.db, owner, data_key)
            if not hmac.compare_digest(mac, body_mac(key, call.body)):
                raise conflict("this Idempotency-Key was used with another body; take a new key")
            stored = self._keys.open(txn.db, owner, self._place(owner, nonce, call), sealed)
        except DamagedEnvelope:
            raise PetsemError(
                Code.CORRUPT, "the record of this Idempotency-Key is damaged; take a new key"
            ) from None
        return msgspec.json.decode(stored, type=outcome), Position(epoch, txid)

    def _remember(
        self, txn: Txn, nonce: bytes, call: Call, org: int | None, owner: Owner, done: T
    ) -> None:
        key = self._keys.primary(txn.db, owner)
        sealed = self._keys.seal(
            txn.db, owner, self._place(owner, nonce, call), msgspec.json.encode(done)
        )
        sql.run(
            txn.db,
            "INSERT OR REPLACE INTO idempotency"
            " (nonce, method, path, key, org, body_mac, data_key, outcome, epoch, txid, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                nonce, call.method, call.path, call.key, org,
                body_mac(key, call.body), key.id, sealed,
                txn.position.epoch, txn.position.txid, txn.now_ms,
            ),
        )  # fmt: skip

    def _place(self, owner: Owner, nonce: bytes, call: Call) -> Place:
        scope = b"\0".join(
            (
                nonce.hex().encode(),
                call.method.encode(),
                call.path.encode(),
                (call.key or "").encode(),
            )
        )
        return owner.place(Record.IDEMPOTENCY, scope)


def owned_by(org: str | None) -> Callable[[Txn], tuple[int | None, Owner]]:
    """Whose key seals the idempotency records of calls on an org; None: the cluster's."""

    def find(txn: Txn) -> tuple[int | None, Owner]:
        if org is None:
            return None, CLUSTER
        row = orgs.get_org(txn.db, org)
        return row.id, row.tokens_owner

    return find


def _check_key(key: str | None) -> None:
    if key is not None and not (
        0 < len(key) <= limits.IDEMPOTENCY_KEY_MAX_CHARS and key.isascii() and key.isprintable()
    ):
        raise invalid("an Idempotency-Key is 1 to 128 printable ASCII characters")
