"""The second key of a boot: somebody of the org asks for a machine, and its host may read.

Guarantees: only a person or a service of the org itself is heard, and only for a host token of that
org which still stands; what is handed out is a discharge of that one token for one machine of one
app, good for an hour at most and for no longer than the token that asked or the host's, and its row
names who asked. A repeated call answers with the same discharge. What the discharge is worth at a
read is for `two_key` to say.
"""

from __future__ import annotations

import apsw
import msgspec
import structlog

from petsem import base64url
from petsem.clock import rfc3339
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError, invalid, not_found
from petsem.model import Kind, Position
from petsem.server.database import ReadPool
from petsem.server.keys import Keys
from petsem.server.principal import Principal
from petsem.server.service.shared_keys import open_org_ticket
from petsem.server.service.two_key import boot_caveat
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import boot_grants, orgs
from petsem.server.store import tokens as rows
from petsem.server.store.boot_grants import GrantRow
from petsem.server.store.orgs import OrgRow
from petsem.server.writer import Txn
from petsem.tokens.caveats import one_of, time_before
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import encode_part
from petsem.tokens.ticket import Ticket, discharge
from petsem.wire import http

log = structlog.get_logger(__name__)

ASKERS = frozenset({Kind.PERSON, Kind.SERVICE})


class _Granted(msgspec.Struct, frozen=True):
    grant: str


class Boots:
    """The operation. Callers have authorised the principal for the org, the app and the machine."""

    def __init__(self, *, writes: Writes, pool: ReadPool, keys: Keys) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys

    async def allow(
        self, principal: Principal, call: Call, org: str, body: http.Boot
    ) -> http.BootAllowed:
        """Let the host of that ticket read the app's secrets for the machine, for a while."""
        data = _data(body.ticket)
        asker = principal.token
        if asker.kind not in ASKERS or asker.org is None:
            raise PetsemError(
                Code.DENIED,
                "a machine is asked for by a person or a service of the org; sign in with "
                "'petsem login'",
            )

        def job(txn: Txn) -> _Granted:
            org_row, _ = orgs.get_app(txn.db, org, body.app)
            host = self._host(txn.db, org_row, data, txn.now_ms)
            grant = random_id()
            # By the row, as the token was issued: a client asks with a copy that is good for a
            # minute.
            ends = (txn.now_ms + body.ttl_s * 1000, host.expires_at, asker.expires_at_ms)
            boot_grants.insert(
                txn.db,
                GrantRow(
                    id=grant,
                    org=org_row.id,
                    app=body.app,
                    machine=body.machine,
                    subject=asker.subject,
                    token=asker.nonce,
                    created_at=txn.now_ms,
                    expires_at=min(ends) // 1000 * 1000,
                ),
            )
            return _Granted(grant.hex())

        done, position = await self._writes.once(principal, call, owned_by(org), _Granted, job)
        with self._pool.snapshot() as db:
            allowed, host_id = self._discharge(db, org, data, bytes.fromhex(done.grant), position)
        log.info(
            "boot_allowed",
            grant=done.grant,
            asker=asker.subject,
            host=host_id,
            org=org,
            app=body.app,
            machine=body.machine,
        )
        return allowed

    def _host(self, db: apsw.Connection, org: OrgRow, data: bytes, now_ms: int) -> rows.TokenRow:
        """The host's token that the ticket is of, if it stands."""
        row = rows.get(db, self._open(db, org, data).token)
        if row is None or row.kind != Kind.HOST or row.org != org.id or row.ticket != data:
            raise _no_ticket()
        if row.expires_at <= now_ms or rows.revoked_ancestor(db, row.nonce) is not None:
            raise invalid("the host's token has ended; mint a new one for it")
        return row

    def _open(self, db: apsw.Connection, org: OrgRow, data: bytes) -> Ticket:
        try:
            return open_org_ticket(db, self._keys, org, data)
        except TokenRefused:
            raise _no_ticket() from None

    def _discharge(
        self, db: apsw.Connection, org: str, data: bytes, grant: bytes, position: Position
    ) -> tuple[http.BootAllowed, str]:
        """The discharge of a grant, the same each time, and the id of the token that it is for."""
        row = boot_grants.get(db, grant)
        if row is None:
            raise not_found("what this Idempotency-Key allowed has ended; take a new key")
        ticket = self._open(db, orgs.get_org(db, org), data)
        caveats = [
            one_of("app", row.app),
            one_of("machine", row.machine),
            time_before(row.expires_at),
            boot_caveat(grant, position),
        ]
        allowed = http.BootAllowed(
            discharge=encode_part(discharge(data, ticket.caveat_key, caveats)),
            grant=grant.hex(),
            expires_at=rfc3339(row.expires_at),
            position=str(position),
        )
        return allowed, ticket.token.hex()


def _data(text: str) -> bytes:
    data = base64url.decode(text)
    if data is None:
        raise _no_ticket()
    return data


def _no_ticket() -> PetsemError:
    return invalid("that is no ticket of a host token of this org; take it from the host's token")
