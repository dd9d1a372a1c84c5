"""Revoking all tokens of a person, of an app, or of an org.

Guarantees: when it answers, every token that it is about and that was issued before it began has
ended, and with it what was minted on its authority, also meanwhile; with an app's, every boot of it
that anybody was allowed before. A person is found in whatever case the address is given, or was
once written down. Up to 1,000 rows it is one transaction. More are ended a piece at a time, so that
no write waits long and no reader of the feed of revocations gets a page that is too large; whoever
is cut off sends the call again.

It ends what there is. It does not keep a person from signing in again, or anybody from minting:
that is for the provider, the org's settings and the tokens that are left.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec

from petsem.errors import PetsemError, invalid, unavailable
from petsem.model import Kind, Position, check_app
from petsem.server.changes import REVOCATIONS
from petsem.server.database import ReadPool
from petsem.server.principal import Principal
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import boot_grants, orgs
from petsem.server.store import revoking as rows
from petsem.server.store.revoking import Ending, Scope
from petsem.server.writer import Txn
from petsem.wire import http

PIECE_ROWS: Final = 1_000
"""Revocations of one transaction, which the feed never takes apart."""

_SUBJECT: Final = re.compile(rf"({'|'.join(kind.text for kind in Kind)}):[\x21-\x7e]{{1,320}}")


class _Began(msgspec.Struct, frozen=True):
    """What an idempotency record keeps: how many ended at once, or that it takes more than one
    transaction."""

    org: int
    revoked: int | None


class Revoking:
    """The one operation. Callers have authorised the principal for the org."""

    def __init__(self, *, writes: Writes, pool: ReadPool) -> None:
        self._writes = writes
        self._pool = pool

    async def revoke(
        self, principal: Principal, call: Call, org: str, body: http.RevokeMany
    ) -> http.RevokedMany:
        """End every token of the org that `body` is about."""
        subject, app = _checked(body)
        by = (principal.token.subject, principal.token.nonce)

        def job(txn: Txn) -> _Began:
            scope = Scope(orgs.get_org(txn.db, org).id, txn.position, subject, app)
            ending = Ending(txn.now_ms, by, txn.position)
            txn.changed[REVOCATIONS] = None
            if app is not None:
                boot_grants.end_all(txn.db, scope.org, app)
            return _Began(scope.org, rows.end_few(txn.db, scope, ending, PIECE_ROWS))

        began, position = await self._writes.once(principal, call, owned_by(org), _Began, job)
        if began.revoked is not None:
            revoked = began.revoked
        else:
            scope = Scope(began.org, position, subject, app)
            await self._end_rest(scope, by)
            revoked, position = await asyncio.to_thread(self._ended, scope)
        return http.RevokedMany(
            revoked=revoked,
            position=str(position),
            durability=await self._writes.spread(position),
        )

    async def _end_rest(self, scope: Scope, by: tuple[str, bytes]) -> None:
        """Piece after piece. Whoever asked may have ended his own token with the first one."""
        after = (0, b"")
        while found := await asyncio.to_thread(self._not_ended, scope, after):
            after = found[-1]
            await self._end([nonce for _, nonce in found], by)
        # A successor of a service token has the parent of its predecessor, which may be of no app,
        # or of the cluster's key. Once all have ended, those that are left come from nobody new.
        while nonces := await asyncio.to_thread(self._renewed, scope, by[1]):
            await self._end(nonces, by)

    async def _end(self, nonces: list[bytes], by: tuple[str, bytes]) -> None:
        def piece(txn: Txn) -> None:
            rows.end_these(txn.db, nonces, Ending(txn.now_ms, by, txn.position))
            txn.changed[REVOCATIONS] = None

        try:
            await self._writes.own(piece)
        except PetsemError as e:
            raise unavailable(
                f"only some of the tokens have ended yet, because {e.message}; send the call "
                "again with the same Idempotency-Key"
            ) from None

    def _renewed(self, scope: Scope, by: bytes) -> list[bytes]:
        with self._pool.snapshot() as db:
            return rows.renewed(db, scope, by, PIECE_ROWS)

    def _not_ended(self, scope: Scope, after: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        with self._pool.snapshot() as db:
            return rows.not_ended(db, scope, after, PIECE_ROWS)

    def _ended(self, scope: Scope) -> tuple[int, Position]:
        with self._pool.snapshot() as db:
            return rows.ended(db, scope)


def _checked(body: http.RevokeMany) -> tuple[str | None, str | None]:
    """The subject, or the app, or neither if it is all; `invalid` unless it is exactly one."""
    if (body.subject is not None) + (body.app is not None) + (body.all is True) != 1:
        raise invalid('say whose tokens are to end: one of "subject", "app" and "all": true')
    if body.subject is not None and _SUBJECT.fullmatch(body.subject) is None:
        raise invalid(
            "a subject is KIND:ID, such as person:a@example.com; 'petsem token list' shows it"
        )
    return body.subject, None if body.app is None else check_app(body.app)
