"""A sign-in on its way: the flow that the CLI holds, and the state that travels by the provider.

    flow:  id 16 | begun at 8 (ms) | commitment 32 | port 2 (0: none) | length 1, address | ticket
    state: nonce 32 | PKCE verifier 32 | hash of the cookie 32 | a flow, as above

Guarantees: nothing is kept for a flow until somebody has signed in; it is over `LIFE_MS` after it
was begun; a state names the one browser that may come back with it. The commitment is the SHA-256
of a secret that whoever began the flow keeps to himself until the result is fetched.

Byte tables and vectors: `docs/formats/ticket.md`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Final

from petsem.crypto import aead
from petsem.errors import not_found
from petsem.sso.orgs import SsoOrg
from petsem.sso.sealing import Sealed, Use, derive, not_ours, seal

LIFE_MS: Final = 10 * 60 * 1000
TICKET_MAX_BYTES: Final = 2 * 1024
"""Of a ticket that people sign in for: it goes by the provider and back in a URL."""
TEXT_MAX_CHARS: Final = 4 * 1024
"""Of a flow, or a state, as text."""
SECRET_BYTES: Final = 32

_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so that no code is a word."""
_CODE_LETTERS: Final = 8
_FLOW: Final = struct.Struct(">16sQ32sHB")
_STATE: Final = struct.Struct(">32s32s32s")


@dataclass(frozen=True, slots=True)
class Flow:
    """Who asked, when, for what, and how he will prove that it was he. `port` is where a browser
    finds his own loopback listener, None if a person types a code instead."""

    id: bytes
    begun_ms: int
    commitment: bytes
    port: int | None
    ip: str
    ticket: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The bytes that are sealed."""
        ip = self.ip.encode("ascii")
        fixed = _FLOW.pack(self.id, self.begun_ms, self.commitment, self.port or 0, len(ip))
        return fixed + ip + self.ticket

    @classmethod
    def parse(cls, data: bytes) -> Flow:
        """What `encode` wrote."""
        if len(data) < _FLOW.size:
            raise not_ours()
        flow_id, begun_ms, commitment, port, size = _FLOW.unpack_from(data)
        end = _FLOW.size + size
        if len(data) <= end:
            raise not_ours()
        ip = data[_FLOW.size : end].decode("ascii", "replace")
        return cls(flow_id, begun_ms, commitment, port or None, ip, data[end:])

    def seal(self, org: SsoOrg) -> str:
        """The flow as text for its holder."""
        return seal(Use.FLOW, org.key_id, org.key, self.encode())

    def live(self, now_ms: int) -> Flow:
        """The flow, if it is not over; `not_found` if it is."""
        if now_ms >= self.begun_ms + LIFE_MS:
            raise not_found("this sign-in was begun more than 10 minutes ago; begin it again")
        return self

    def proves(self, secret: bytes) -> bool:
        """Whether that is the secret of whoever began the flow."""
        return hmac.compare_digest(hashlib.sha256(secret).digest(), self.commitment)

    def code(self, org: SsoOrg) -> str:
        """What the CLI shows and a person types: `BCDF-GHJK`."""
        digest = hashlib.blake2b(self.id, key=derive(Use.CODE, org.key), digest_size=16).digest()
        rest = int.from_bytes(digest, "big")
        letters = ""
        for _ in range(_CODE_LETTERS):
            rest, at = divmod(rest, len(_LETTERS))
            letters += _LETTERS[at]
        return f"{letters[:4]}-{letters[4:]}"

    def is_code(self, org: SsoOrg, typed: str) -> bool:
        """Whether somebody typed the code; case, spaces and hyphens do not matter."""
        plain = typed.upper().replace("-", "").replace(" ", "").encode()
        return hmac.compare_digest(plain, self.code(org).replace("-", "").encode())


@dataclass(frozen=True, slots=True)
class State:
    """One trip of a browser to the provider and back."""

    nonce: bytes = field(repr=False)
    verifier: bytes = field(repr=False)
    cookie_hash: bytes
    flow: Flow

    @classmethod
    def new(cls, flow: Flow, cookie: bytes) -> State:
        """A trip of the browser that was given `cookie`."""
        fresh = aead.random_bytes
        return cls(fresh(SECRET_BYTES), fresh(SECRET_BYTES), hashlib.sha256(cookie).digest(), flow)

    def seal(self, org: SsoOrg) -> str:
        """The `state` parameter of the trip."""
        plain = _STATE.pack(self.nonce, self.verifier, self.cookie_hash) + self.flow.encode()
        return seal(Use.STATE, org.key_id, org.key, plain)

    def is_of(self, cookie: bytes) -> bool:
        """Whether the browser with that cookie was sent on this trip."""
        return hmac.compare_digest(hashlib.sha256(cookie).digest(), self.cookie_hash)


def open_flow(sealed: Sealed, org: SsoOrg, now_ms: int) -> Flow:
    """The live flow that was sealed for that org."""
    return Flow.parse(sealed.open(Use.FLOW, org.key)).live(now_ms)


def open_state(sealed: Sealed, org: SsoOrg, now_ms: int) -> State:
    """The trip, if its flow is not over."""
    plain = sealed.open(Use.STATE, org.key)
    if len(plain) < _STATE.size:
        raise not_ours()
    nonce, verifier, cookie_hash = _STATE.unpack_from(plain)
    return State(nonce, verifier, cookie_hash, Flow.parse(plain[_STATE.size :]).live(now_ms))
