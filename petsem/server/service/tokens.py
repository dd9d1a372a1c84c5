"""Minting, revoking and listing tokens, and rotating root keys.

Guarantees: revoking a token ends what was minted on its authority. What is stored of a token is
never enough to use it; a repeated mint derives the same token again from its row. What a new token
may be is for `minting` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import apsw
import msgspec

from petsem import limits
from petsem.clock import rfc3339
from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError, invalid, not_found, unavailable
from petsem.model import Kind, Position
from petsem.server.auth import Authenticator
from petsem.server.changes import REVOCATIONS
from petsem.server.database import ReadPool
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.principal import Principal, Verified
from petsem.server.service import two_key
from petsem.server.service.kinds import kind_for
from petsem.server.service.minting import caveats_for, check_label, expiry_ms
from petsem.server.service.shared_keys import make_once, open_org_ticket
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import orgs
from petsem.server.store import tokens as rows
from petsem.server.store.orgs import OrgRow
from petsem.server.store.tokens import TokenRow
from petsem.server.writer import Txn
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import LOCATION
from petsem.tokens.mint import ROOT_SECRET_BYTES, ThirdParty, mint
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import encode_token
from petsem.tokens.ticket import Ticket, new_caveat_key, seal_ticket
from petsem.wire import http

_PAGE_BREAK: Final = "."


class Issued(msgspec.Struct, frozen=True):
    """What an idempotency record keeps of a mint: the nonce, from which the row is found."""

    nonce: str


class _RevokedRow(msgspec.Struct, frozen=True):
    nonce: str
    revoked_at: int


class _Rotated(msgspec.Struct, frozen=True):
    key_id: str
    retired: list[str]


class Tokens:
    """The operations on tokens. Callers have authorised the principal for the org."""

    def __init__(
        self,
        *,
        writes: Writes,
        pool: ReadPool,
        keys: Keys,
        auth: Authenticator,
        cluster_id: bytes,
    ) -> None:
        self._writes = writes
        self._pool = pool
        self._keys = keys
        self._auth = auth
        self._cluster_id = cluster_id

    async def mint(self, principal: Principal, call: Call, body: http.Mint) -> http.Minted:
        """A new token on the principal's authority."""
        kind = kind_for(body.kind, body.org)
        label = check_label(body.label)
        caveats = caveats_for(self._auth, principal, body)
        written = msgspec.json.encode([str(p) for p in caveats])
        # Whoever repeats the call with a narrower token of the same id would mint another token,
        # so he does not get this one.
        call = replace(call, body=call.body + b"\0" + written)

        def job(txn: Txn) -> Issued:
            org = None if body.org is None else orgs.get_org(txn.db, body.org)
            asker = principal.token
            return self.issue(
                txn,
                org,
                asker,
                parent=(asker.nonce, asker.depth),
                kind=kind,
                caveats=written.decode(),
                label=label,
                expires_at=expiry_ms(caveats, kind, txn.now_ms),
            )

        done, position = await self._writes.once(principal, call, owned_by(body.org), Issued, job)
        with self._pool.snapshot() as db:
            return self.derive(db, bytes.fromhex(done.nonce), position)

    def issue(
        self,
        txn: Txn,
        org: OrgRow | None,
        asker: Verified,
        *,
        parent: tuple[bytes, int],
        kind: Kind,
        caveats: str,
        label: str | None,
        expires_at: int,
    ) -> Issued:
        """Write the row of a new token, whose caveats are those that `asker` may have; `parent` is
        (nonce, depth) of the token whose end is its end."""
        ends_with, depth = parent
        if depth >= limits.TOKEN_CHAIN_MAX:
            raise invalid(
                f"authority is passed on by minting at most {limits.TOKEN_CHAIN_MAX} times; "
                "attenuate the token instead"
            )
        nonce = random_id()
        ticket = None
        if org is not None and two_key.is_on(txn.db, org.id):
            if asker.kind is Kind.HOST:
                raise PetsemError(
                    Code.DENIED, "where boots need two keys, a host's token passes nothing on"
                )
            if kind is Kind.HOST:
                ticket = self._boot_ticket(txn, org, nonce)
        org_id = None if org is None else org.id
        root_key, envelope = rows.primary_root_key(txn.db, org_id)
        # So that no token is issued which this node could not then hand out.
        self._root_secret(txn.db, org_id, root_key, envelope)
        rows.insert(
            txn.db,
            TokenRow(
                nonce=nonce,
                org=org_id,
                root_key=root_key,
                kind=kind,
                subject=f"{kind.text}:{nonce.hex()}",
                parent=ends_with,
                depth=depth + 1,
                caveats=caveats,
                label=label,
                created_at=txn.now_ms,
                created_by=asker.subject,
                expires_at=expires_at,
                epoch=txn.position.epoch,
                txid=txn.position.txid,
                ticket=ticket,
            ),
        )
        return Issued(nonce.hex())

    def _boot_ticket(self, txn: Txn, org: OrgRow, nonce: bytes) -> bytes:
        key_id, key = make_once(txn.db, self._keys, org, "boot", txn.now_ms)
        return seal_ticket(key_id, key, Ticket(org.uid, nonce, new_caveat_key(), txn.now_ms))

    def derive(self, db: apsw.Connection, nonce: bytes, position: Position) -> http.Minted:
        """The token of an issued row: the same bytes each time, but for the sealed key of a
        third-party caveat, which is drawn anew."""
        row = rows.get(db, nonce)
        envelope = None if row is None else rows.root_key_envelope(db, row.root_key)
        if row is None or envelope is None:
            raise not_found("the token that this Idempotency-Key minted is gone; take a new key")
        secret = self._root_secret(db, row.org, row.root_key, envelope)
        identifier = Identifier(
            self._cluster_id, Kind(row.kind), row.root_key, nonce, row.epoch, row.txid
        )
        caveats = msgspec.json.decode(row.caveats, type=list[str])
        token = mint(secret, identifier, caveats, self._third_parties(db, row))
        return http.Minted(
            token=encode_token(token),
            id=nonce.hex(),
            expires_at=rfc3339(row.expires_at),
            position=str(position),
        )

    def _third_parties(self, db: apsw.Connection, row: TokenRow) -> list[ThirdParty]:
        if row.ticket is None:
            return []
        org = None if row.org is None else orgs.org_by_id(db, row.org)
        if org is None:
            raise not_found("the token's org is gone")
        try:
            ticket = open_org_ticket(db, self._keys, org, row.ticket)
        except TokenRefused as refused:
            raise refused.as_error() from None
        return [ThirdParty(LOCATION.decode("ascii"), ticket.caveat_key, row.ticket)]

    def _root_secret(
        self, db: apsw.Connection, org: int | None, key_id: bytes, envelope: bytes
    ) -> bytes:
        owner = CLUSTER if org is None else _owner_of(db, org)
        try:
            return self._keys.open(db, owner, owner.place(Record.ROOT_KEY, key_id), envelope)
        except DamagedEnvelope:
            raise PetsemError(
                Code.CORRUPT, "the root key is damaged; rotate it, or run 'petsem check' here"
            ) from None

    async def revoke(
        self, principal: Principal, call: Call, org: str | None, token_id: str
    ) -> http.Revoked:
        """End a token and all that was attenuated from it or minted on its authority."""
        nonce = _check_id(token_id)

        def job(txn: Txn) -> _RevokedRow:
            org_id = None if org is None else orgs.get_org(txn.db, org).id
            token = rows.get(txn.db, nonce)
            if token is None or token.org != org_id:
                raise not_found(f"there is no token {token_id} here")
            by = (principal.token.subject, principal.token.nonce)
            rows.revoke(txn.db, token, txn.now_ms, by, (txn.position.epoch, txn.position.txid))
            found = rows.revocation(txn.db, nonce)
            assert found is not None
            txn.changed[REVOCATIONS] = None
            return _RevokedRow(token_id, found[0])

        done, position = await self._writes.once(principal, call, owned_by(org), _RevokedRow, job)
        return http.Revoked(
            id=done.nonce,
            revoked_at=rfc3339(done.revoked_at),
            position=str(position),
            durability=await self._writes.spread(position),
        )

    async def revoke_lost(self, nonces: Iterable[bytes], node_id: str) -> int:
        """End tokens that the lost branch of a node had ended; how many were live until now. One
        that was minted on that branch, too, is not known here and needs nothing.

        `unavailable` if that is not on another node's disk in time, where one is connected: then
        whoever asks has to ask again.
        """

        def job(txn: Txn) -> tuple[int, Position]:
            by = (f"node:{node_id}", b"")
            at = (txn.position.epoch, txn.position.txid)
            known = (rows.get(txn.db, nonce) for nonce in nonces)
            ended = [
                token
                for token in known
                if token is not None and rows.revoke(txn.db, token, txn.now_ms, by, at)
            ]
            if ended:
                txn.changed[REVOCATIONS] = None
            return len(ended), txn.position

        count, position = await self._writes.own(job)
        if not (await self._writes.spread(position)).met:
            raise unavailable("the revocations are on no other node yet; ask again")
        return count

    def list(self, org: str | None, after: str | None, limit: int) -> http.TokenList:
        """Issued tokens, oldest first; never a token itself. `after` is a page's `next`."""
        with self._pool.snapshot() as db:
            org_id = None if org is None else orgs.get_org(db, org).id
            found = rows.list_issued(db, org_id, _parse_page(after), limit)
            ended = [_ended_at(db, row, revoked_at) for row, revoked_at, _ in found]
        now_ms = self._auth.now_ms()
        return http.TokenList(
            tokens=[
                _info(row, at, seen_at, now_ms)
                for (row, _, seen_at), at in zip(found, ended, strict=True)
            ],
            next=_page(found[-1][0]) if len(found) == limit else None,
        )

    async def rotate_root_key(
        self, principal: Principal, call: Call, org: str
    ) -> http.RootKeyRotated:
        """Sign new tokens of an org with a new key. Live tokens keep verifying until their time."""

        def job(txn: Txn) -> _Rotated:
            org_row = orgs.get_org(txn.db, org)
            key_id, retired = add_root_key(txn.db, self._keys, org_row.tokens_owner, txn.now_ms)
            return _Rotated(key_id.hex(), [key.hex() for key in retired])

        done, position = await self._writes.once(principal, call, owned_by(org), _Rotated, job)
        return http.RootKeyRotated(key_id=done.key_id, retired=done.retired, position=str(position))


def add_root_key(
    db: apsw.Connection, keys: Keys, owner: Owner, now_ms: int
) -> tuple[bytes, list[bytes]]:
    """Make a new primary root key for an org or the cluster: (its id, ids of those it retires)."""
    assert 2 * len(random_id()) == ROOT_SECRET_BYTES
    key_id = random_id()
    secret = random_id() + random_id()
    envelope = keys.seal(db, owner, owner.place(Record.ROOT_KEY, key_id), secret)
    return key_id, rows.add_root_key(db, key_id, owner.org, envelope, now_ms)


def _owner_of(db: apsw.Connection, org_id: int) -> Owner:
    row = orgs.org_by_id(db, org_id)
    if row is None:
        raise not_found("the token's org is gone")
    return row.tokens_owner


def _check_id(token_id: str) -> bytes:
    try:
        nonce = bytes.fromhex(token_id)
    except ValueError:
        nonce = b""
    if len(nonce) != 16 or nonce.hex() != token_id:
        raise invalid("a token's id is 32 hexadecimal digits; 'petsem token inspect' shows it")
    return nonce


def _page(row: TokenRow) -> str:
    return f"{row.created_at}{_PAGE_BREAK}{row.nonce.hex()}"


def _parse_page(after: str | None) -> tuple[int, bytes]:
    if after is None:
        return 0, b""
    time, _, nonce = after.partition(_PAGE_BREAK)
    if not (time.isascii() and time.isdigit() and len(time) < 16):
        raise invalid("after must be the 'next' of the page before")
    return int(time), _check_id(nonce)


def _ended_at(db: apsw.Connection, row: TokenRow, revoked_at: int | None) -> int | None:
    """When the token, or one on whose authority it was minted, was revoked."""
    if revoked_at is not None or row.parent is None:
        return revoked_at
    return rows.revoked_ancestor(db, row.parent)


def _info(
    row: TokenRow, revoked_at: int | None, seen_at: int | None, now_ms: int
) -> http.TokenInfo:
    if revoked_at is not None:
        state = "revoked"
    else:
        state = "expired" if row.expires_at <= now_ms else "live"
    return http.TokenInfo(
        id=row.nonce.hex(),
        kind=Kind(row.kind).text,
        subject=row.subject,
        label=row.label,
        parent=None if row.parent is None else row.parent.hex(),
        caveats=msgspec.json.decode(row.caveats, type=list[str]),
        created_at=rfc3339(row.created_at),
        created_by=row.created_by,
        expires_at=rfc3339(row.expires_at),
        state=state,  # type: ignore[arg-type]
        revoked_at=None if revoked_at is None else rfc3339(revoked_at),
        last_seen=None if seen_at is None else rfc3339(seen_at),
    )
