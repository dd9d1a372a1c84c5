"""A ticket: what an authenticator has to know of the token that it is asked to discharge.

    format 1 | id of the key 16 | nonce 24 | ciphertext | tag 16
    sealed: org 16 | token 16 | caveat key 32 | made at 8 (ms) | for each domain: length 1, text

Guarantees: it opens only under the key that it was sealed under, and only whole; two tickets never
have the same bytes. Everything that a discharge depends on comes out of it, so that nothing which
travels beside it is believed. It does not say who may have the discharge; its authenticator does.

Byte table and vectors: `docs/formats/ticket.md`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from petsem.crypto import aead
from petsem.tokens.grammar import parse_predicates
from petsem.tokens.macaroon import LOCATION, Caveat, Macaroon, derive_key
from petsem.tokens.reasons import Reason, TokenRefused

KEY_BYTES: Final = 32
ID_BYTES: Final = 16
DOMAINS_MAX: Final = 16

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(f">B{ID_BYTES}s{aead.NONCE_BYTES}s")
_FIXED: Final = struct.Struct(">16s16s32sQ")
TICKET_BYTES: Final = _HEAD.size + _FIXED.size + aead.TAG_BYTES
"""A ticket that names no domains; each name makes it longer."""
_TICKET_PERSON: Final = b"petsem-ticket-v1"


@dataclass(frozen=True, slots=True)
class Ticket:
    """`org` is the org's uid, `token` the nonce of the token whose caveat this is, `caveat_key`
    what a discharge is signed with. With `domains`, a person must be of one of them."""

    org: bytes
    token: bytes
    caveat_key: bytes = field(repr=False)
    made_ms: int
    domains: tuple[str, ...] = ()


def new_caveat_key() -> bytes:
    """The secret of one third-party caveat."""
    return aead.random_bytes(KEY_BYTES)


def seal_ticket(key_id: bytes, key: bytes, ticket: Ticket) -> bytes:
    """`ticket` for whoever holds `key`, which is known by `key_id`."""
    assert len(key_id) == ID_BYTES
    assert len(ticket.domains) <= DOMAINS_MAX
    fixed = _FIXED.pack(ticket.org, ticket.token, ticket.caveat_key, ticket.made_ms)
    domains = b"".join(bytes((len(d),)) + d.encode("ascii") for d in ticket.domains)
    nonce, sealed = aead.encrypt(_key(key), fixed + domains, _associated(key_id))
    return _HEAD.pack(_FORMAT, key_id, nonce) + sealed


def key_id_of(data: bytes) -> bytes:
    """The id of the key that a ticket says it is under: a claim until it has been opened.
    TokenRefused DISCHARGE_INVALID for what is no ticket."""
    if len(data) < TICKET_BYTES or data[0] != _FORMAT:
        raise _no_ticket()
    key_id: bytes = _HEAD.unpack_from(data)[1]
    return key_id


def open_ticket(key_id: bytes, key: bytes, data: bytes) -> Ticket:
    """The ticket that was sealed under `key`; TokenRefused DISCHARGE_INVALID for anything else."""
    if key_id_of(data) != key_id:
        raise _no_ticket()
    nonce = _HEAD.unpack_from(data)[2]
    try:
        plain = aead.decrypt(_key(key), nonce, data[_HEAD.size :], _associated(key_id))
    except aead.AeadError:
        raise _no_ticket() from None
    org, token, caveat_key, made_ms = _FIXED.unpack_from(plain)
    return Ticket(org, token, caveat_key, made_ms, _domains(plain[_FIXED.size :]))


def discharge(ticket: bytes, caveat_key: bytes, predicates: Sequence[str]) -> Macaroon:
    """The discharge of the caveat with that ticket, not bound to a token yet. `invalid` if one of
    `predicates` is not in the grammar."""
    parse_predicates(predicates)
    signature = hmac.digest(derive_key(caveat_key), ticket, "sha256")
    cids = [text.encode("ascii") for text in predicates]
    for cid in cids:
        signature = hmac.digest(signature, cid, "sha256")
    return Macaroon(LOCATION, ticket, tuple(Caveat(cid) for cid in cids), signature)


def discharge_caveats(macaroon: Macaroon, ticket: bytes, caveat_key: bytes) -> tuple[bytes, ...]:
    """The caveats of an unbound discharge of that ticket; TokenRefused DISCHARGE_INVALID if it is
    not signed with the caveat's key, or asks for discharges itself."""
    signature = hmac.digest(derive_key(caveat_key), ticket, "sha256")
    for caveat in macaroon.caveats:
        if caveat.vid is not None:
            raise TokenRefused(Reason.DISCHARGE_INVALID)
        signature = hmac.digest(signature, caveat.cid, "sha256")
    if macaroon.identifier != ticket or not hmac.compare_digest(signature, macaroon.signature):
        raise TokenRefused(Reason.DISCHARGE_INVALID)
    return tuple(caveat.cid for caveat in macaroon.caveats)


def _domains(data: bytes) -> tuple[str, ...]:
    found: list[str] = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data) or len(found) == DOMAINS_MAX:
            raise _no_ticket()
        found.append(data[at + 1 : end].decode("ascii"))
        at = end
    return tuple(found)


def _key(key: bytes) -> bytes:
    """The key shared by node and authenticator never seals anything itself: each use has its own,
    derived from it."""
    return hashlib.blake2b(key=key, person=_TICKET_PERSON, digest_size=aead.KEY_BYTES).digest()


def _associated(key_id: bytes) -> bytes:
    return _TICKET_PERSON + key_id


def _no_ticket() -> TokenRefused:
    return TokenRefused(Reason.DISCHARGE_INVALID, "that is no ticket of this cluster; begin again")
