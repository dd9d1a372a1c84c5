"""Exchange: a token, with its discharges, for a service token bound to one machine and its key.

Guarantees: the new token holds no more than whoever asks clears for exactly that app and machine,
inherits every caveat of his but `time` and `user`, and lives an hour at most, never longer than the
token that stands behind it. Revoking that one ends it, and all that it was renewed to.

A service token that may renew itself is exchanged for a successor like any other; the successor
stands beside it, on the same parent, so that renewing never lengthens the chain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import apsw
import msgspec
import structlog

from petsem.clock import rfc3339
from petsem.errors import invalid
from petsem.model import Kind, is_host_key
from petsem.server.auth import Authenticator
from petsem.server.database import ReadPool
from petsem.server.policy import TOKENS_EXCHANGE
from petsem.server.principal import Names, Principal, Verified
from petsem.server.service.minting import require_actions, with_inherited
from petsem.server.service.tokens import Issued, Tokens
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import orgs
from petsem.server.store import tokens as rows
from petsem.server.store.tokens import TokenRow
from petsem.server.writer import Txn
from petsem.tokens.caveats import one_of, parse_predicates, time_before
from petsem.wire import http

log = structlog.get_logger(__name__)

EXCHANGE: Final = TOKENS_EXCHANGE.action
_LEAST_LIFE_MS: Final = 1_000


class Exchanging:
    """The operation. Callers have authorised the principal for the org, the app and the machine."""

    def __init__(
        self, *, writes: Writes, pool: ReadPool, auth: Authenticator, tokens: Tokens
    ) -> None:
        self._writes = writes
        self._pool = pool
        self._auth = auth
        self._tokens = tokens

    async def exchange(
        self, principal: Principal, call: Call, body: http.Exchange
    ) -> http.Exchanged:
        """A service token on the principal's authority."""
        bound = _bound(body, principal)
        actions = sorted({*body.actions, *([EXCHANGE] if body.renewable else [])})
        if EXCHANGE in body.actions:
            raise invalid(f"{EXCHANGE} comes with 'renewable'; leave it out of the actions")
        allowed = one_of("action", *actions)
        names = Names(body.org, body.app, body.machine)
        require_actions(self._auth, principal, names, frozenset(actions))
        # With any time, to see what there is room for; whoever repeats the call with a narrower
        # copy of his token would get other caveats, so he does not get this token.
        any_time = time_before(principal.token.expires_at_ms)
        caveats = with_inherited(parse_predicates((*bound, allowed, any_time)), principal)
        texts = [str(caveat) for caveat in caveats]
        call = replace(call, body=call.body + b"\0" + msgspec.json.encode(texts))

        def job(txn: Txn) -> Issued:
            org = orgs.get_org(txn.db, body.org)
            parent = _parent(txn.db, principal.token, bound)
            expires_at = min(txn.now_ms + body.ttl_s * 1000, parent.expires_at) // 1000 * 1000
            if expires_at - txn.now_ms < _LEAST_LIFE_MS:
                raise invalid("the token that stands behind this one ends now; get a new one first")
            until = time_before(expires_at)
            return self._tokens.issue(
                txn,
                org,
                principal.token,
                parent=(parent.nonce, parent.depth),
                kind=Kind.SERVICE,
                caveats=msgspec.json.encode(
                    [until if text == any_time else text for text in texts]
                ).decode(),
                label=None,
                expires_at=expires_at,
            )

        done, position = await self._writes.once(principal, call, owned_by(body.org), Issued, job)
        nonce = bytes.fromhex(done.nonce)
        with self._pool.snapshot() as db:
            minted = self._tokens.derive(db, nonce, position)
            behind = _behind(db, nonce) if body.renewable else None
        log.info(
            "exchanged",
            issued=minted.id,
            asker=principal.token.subject,
            by=principal.token.token_id,
            org=body.org,
            app=body.app,
            machine=body.machine,
        )
        return http.Exchanged(
            token=minted.token,
            id=minted.id,
            expires_at=minted.expires_at,
            position=minted.position,
            renew_until=None if behind is None else rfc3339(behind.expires_at),
        )


def _bound(body: http.Exchange, principal: Principal) -> list[str]:
    """The caveats that say where the token is of use, always in this order."""
    return [
        one_of("org", body.org),
        one_of("app", body.app),
        one_of("machine", body.machine),
        one_of("host_key", _host_key(body.host_key, principal)),
    ]


def _host_key(wanted: str | None, principal: Principal) -> str:
    """The key of the connection that asks, which a body cannot change; without one, the body's."""
    shown = None if principal.host_key is None else principal.host_key()
    if wanted is not None and not is_host_key(wanted):
        raise invalid(
            "host_key is the SHA-256 of a public key, as 64 lower-case hexadecimal digits"
        )
    if shown is None and wanted is None:
        raise invalid("name a host_key, or connect with the host's TLS certificate")
    if shown is not None and wanted not in (None, shown):
        raise invalid("host_key is another one than that of this connection's certificate")
    return wanted or shown or ""


def _parent(db: apsw.Connection, asker: Verified, bound: list[str]) -> TokenRow:
    """Whose end is the new token's: the asker's; where that is a service token bound to the same
    machine and key already, that of the token which stands behind it."""
    own = rows.get(db, asker.nonce)
    assert own is not None, "the token has just been looked up"
    minted = msgspec.json.decode(own.caveats, type=list[str])
    if asker.kind is not Kind.SERVICE or own.parent is None or minted[: len(bound)] != bound:
        return own
    return rows.get(db, own.parent) or own


def _behind(db: apsw.Connection, nonce: bytes) -> TokenRow | None:
    row = rows.get(db, nonce)
    return None if row is None or row.parent is None else rows.get(db, row.parent)
