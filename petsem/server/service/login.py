"""Signing in: tickets for the authenticator, and the tokens of those whom it let in.

Guarantees: nothing is written for anybody who has not signed in: a ticket is sealed, not stored. A
person's token is minted against a discharge of its own ticket, stands for whom the discharge names,
and holds the caveat that asks for that discharge. A ticket gives one token, and gives it again only
to whoever repeats the first call with its Idempotency-Key: the discharge travels with each narrower
copy and proves no more than that. It does not sign anybody in, and shares with the authenticator
the org's key and setting alone (`org_of`).
"""

from __future__ import annotations

from typing import Final

import apsw
import msgspec
import structlog

from petsem import base64url
from petsem.clock import Clock
from petsem.crypto.keys import random_id
from petsem.errors import Code, Detail, PetsemError, conflict, invalid, not_found
from petsem.model import Kind, check_org
from petsem.server.database import ReadPool
from petsem.server.keys import Keys, Owner
from petsem.server.service import shared_keys
from petsem.server.service.kinds import LIFE_MAX_S
from petsem.server.service.sso_settings import SSO, read_sso
from petsem.server.service.tokens import Issued, Tokens
from petsem.server.service.writes import Call, Writes
from petsem.server.store import orgs
from petsem.server.store import tokens as rows
from petsem.server.store.orgs import OrgRow
from petsem.server.store.tokens import TokenRow
from petsem.server.writer import Txn
from petsem.sso.orgs import SsoOrg
from petsem.tokens.caveats import Access, clear, one_of, time_before
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import parse_token
from petsem.tokens.ticket import (
    Ticket,
    discharge_caveats,
    key_id_of,
    new_caveat_key,
    seal_ticket,
)
from petsem.wire import http

log = structlog.get_logger(__name__)

TICKET_LIFE_MS: Final = 15 * 60 * 1000
"""How long after its ticket was made a person's token can be minted: signing in takes minutes."""


class Login:
    """What signing in needs of the node."""

    def __init__(
        self, *, writes: Writes, pool: ReadPool, keys: Keys, tokens: Tokens, clock: Clock
    ) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys
        self._tokens = tokens
        self._clock = clock

    def ticket(self, org: str) -> http.LoginTicket:
        """A ticket for a token that does not exist yet."""
        check_org(org)
        with self._pool.snapshot() as db:
            row, sso = _find(db, org)
            key = shared_keys.read(db, self._keys, row, "sso")
        if key is None:
            raise _no_sign_in(org)
        made_ms = self._clock.unix_ms()
        ticket = Ticket(row.uid, random_id(), new_caveat_key(), made_ms, tuple(sso.domains))
        return http.LoginTicket(base64url.encode(seal_ticket(*key, ticket)))

    async def mint(self, body: http.LoginToken, call: Call) -> http.Minted:
        """The token of whoever the discharge was made for."""
        data = _unspell(body.ticket)

        def owner(txn: Txn) -> tuple[int, Owner]:
            org, _, _ = self._open(txn.db, data)
            return org.id, org.tokens_owner

        def job(txn: Txn) -> Issued:
            org, ticket, email, actions = self._signed_in(txn.db, body, data, txn.now_ms)
            caveats = _caveats(org.name, email, actions, txn.now_ms)
            self._issue(txn, org, data, ticket, email, caveats)
            return Issued(ticket.token.hex())

        # The writer is everybody's, and this door is open to everybody: first look, then queue.
        with self._pool.snapshot() as db:
            org, ticket, email, _ = self._signed_in(db, body, data, self._clock.unix_ms())
        _, position = await self._writes.once_for(ticket.token, call, owner, Issued, job)
        with self._pool.snapshot() as db:
            minted = self._tokens.derive(db, ticket.token, position)
        log.info("sign_in_finished", org=org.name, user=email, issued=minted.id)
        return minted

    def org_of(self, key_id: bytes) -> SsoOrg | None:
        """The org whose authenticator's key has that id, as it is set now."""
        with self._pool.snapshot() as db:
            found = rows.org_of_shared_key(db, key_id, "sso")
            org = None if found is None else orgs.org_by_id(db, found)
            if org is None or org.deleted_at is not None:
                return None
            sso = read_sso(orgs.read_settings(db, org.id).get(SSO))
            key = shared_keys.read(db, self._keys, org, "sso")
            secret = shared_keys.read(db, self._keys, org, "client")
        if sso is None or key is None:
            return None
        return SsoOrg(
            uid=org.uid,
            name=org.name,
            key_id=key[0],
            key=key[1],
            issuer=sso.issuer,
            client_id=sso.client_id,
            client_secret=None if secret is None else secret[1].decode(),
            domains=tuple(sso.domains),
            groups=tuple(sso.groups),
            groups_claim=sso.groups_claim,
            discharge_s=sso.discharge_s,
            session_s=sso.session_s,
        )

    def _open(self, db: apsw.Connection, data: bytes) -> tuple[OrgRow, http.SsoInfo, Ticket]:
        """Whose ticket that is, and what it says. Everything comes out of the ticket."""
        try:
            found = rows.org_of_shared_key(db, key_id_of(data), "sso")
            org = None if found is None else orgs.org_by_id(db, found)
            if org is None or org.deleted_at is not None:
                raise TokenRefused(
                    Reason.DISCHARGE_INVALID, "that is no ticket of this cluster; begin again"
                )
            ticket = shared_keys.open_org_ticket(db, self._keys, org, data)
        except TokenRefused as refused:
            raise refused.as_error() from None
        sso = read_sso(orgs.read_settings(db, org.id).get(SSO))
        if sso is None:
            raise _no_sign_in(org.name)
        return org, sso, ticket

    def _signed_in(
        self, db: apsw.Connection, body: http.LoginToken, data: bytes, now_ms: int
    ) -> tuple[OrgRow, Ticket, str, list[str]]:
        """Who has signed in, to which org, and what he may do there."""
        org, sso, ticket = self._open(db, data)
        if not 0 <= now_ms - ticket.made_ms + _CLOCKS_MS <= TICKET_LIFE_MS:
            raise _refused("the sign-in has taken too long; begin it again")
        email = _person(body.discharge, data, ticket, now_ms)
        return org, ticket, email, _actions(body.actions, sso)

    def _issue(
        self,
        txn: Txn,
        org: OrgRow,
        data: bytes,
        ticket: Ticket,
        email: str,
        caveats: list[str],
    ) -> None:
        subject = f"{Kind.PERSON.text}:{email}"
        if rows.get(txn.db, ticket.token) is not None:
            raise conflict(
                "this sign-in has given its token already; begin a new one, or send the first "
                "call again with its Idempotency-Key"
            )
        root_key, _ = rows.primary_root_key(txn.db, org.id)
        rows.insert(
            txn.db,
            TokenRow(
                nonce=ticket.token,
                org=org.id,
                root_key=root_key,
                kind=Kind.PERSON,
                subject=subject,
                parent=None,
                depth=0,
                caveats=msgspec.json.encode(caveats).decode(),
                label=None,
                created_at=txn.now_ms,
                created_by=subject,
                expires_at=_expires_s(txn.now_ms) * 1000,
                epoch=txn.position.epoch,
                txid=txn.position.txid,
                ticket=data,
            ),
        )


_CLOCKS_MS: Final = 60_000
"""By how much the clock of the node that made a ticket may be ahead."""


def _find(db: apsw.Connection, org: str) -> tuple[OrgRow, http.SsoInfo]:
    row = orgs.find_org(db, org)
    sso = None if row is None else read_sso(orgs.read_settings(db, row.id).get(SSO))
    if row is None or sso is None:
        raise _no_sign_in(org)
    return row, sso


def _no_sign_in(org: str) -> PetsemError:
    # The same for an org that does not exist.
    return not_found(f"people of {org} do not sign in here; an operator can set its sso")


def _person(text: str, data: bytes, ticket: Ticket, now_ms: int) -> str:
    """Whom a discharge of that ticket names: its first caveat, which only the authenticator can
    have written there."""
    try:
        token = parse_token(text)
        if token.discharges:
            raise TokenRefused(
                Reason.DISCHARGE_INVALID, "give the discharge alone, without its token"
            )
        cids = discharge_caveats(token.root, data, ticket.caveat_key)
        first = parse_predicate(cids[0]) if cids else None
        if first is None or first.key != "user" or first.op != "=":
            raise TokenRefused(Reason.DISCHARGE_INVALID)
        email = first.values[0]
        if email != email.lower():
            # Nobody is two people by the case of a letter.
            raise TokenRefused(
                Reason.DISCHARGE_INVALID, "the address is not in lower case; begin again"
            )
        clear(cids, Access({"user": email}, now_ms // 1000))
    except TokenRefused as refused:
        raise refused.as_error() from None
    return email


def _actions(asked: list[str] | None, sso: http.SsoInfo) -> list[str]:
    """What the new token may do: what was asked for, of what the org lets its people do."""
    if asked is None:
        return sso.actions
    for action in asked:
        if action not in sso.actions:
            # Said to those who have signed in only: what an org's people may do is its own affair.
            raise PetsemError(
                Code.DENIED,
                "you have signed in, but no token was made: the org's people may do "
                f"{', '.join(sso.actions)}, and not all of what was asked for; sign "
                "in again and ask for less, or have an operator add it to the actions of its sso",
                Detail(reason=Reason.CAVEAT.value),
            )
    return asked


def _caveats(org: str, email: str, actions: list[str], now_ms: int) -> list[str]:
    return [
        one_of("org", org),
        one_of("action", *dict.fromkeys(actions)),
        time_before(_expires_s(now_ms) * 1000),
        one_of("user", email),
    ]


def _expires_s(now_ms: int) -> int:
    return now_ms // 1000 + LIFE_MAX_S[Kind.PERSON]


def _refused(message: str) -> PetsemError:
    return TokenRefused(Reason.DISCHARGE_INVALID, message).as_error()


def _unspell(text: str) -> bytes:
    data = base64url.decode(text)
    if not data:
        raise invalid("ticket must be unpadded base64url")
    return data
