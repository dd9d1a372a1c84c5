"""A session: what lets the CLI have a new discharge while nobody sits before it.

    org 16 | provider 32 | ticket 32 | signed in at 8 (ms)
    | length 2, subject | length 1, email | the provider's refresh token

`provider` and `ticket` are hashes: SHA-256 of issuer, a zero byte and client id; of the ticket.

Guarantees: it is of use for one ticket and with the provider that made it only, as long as the org
lets sessions live from the moment at which the person signed in. By itself it lets nobody in: the
provider is asked each time.

Byte table and vectors: `docs/formats/ticket.md`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Final

from petsem.sso.orgs import SsoOrg
from petsem.sso.sealing import Sealed, Use, not_ours, seal

REFRESH_TOKEN_MAX_BYTES: Final = 8 * 1024
SUBJECT_MAX_BYTES: Final = 255
"""OpenID Connect Core 1.0, section 2."""
TEXT_MAX_CHARS: Final = 12 * 1024

_FIXED: Final = struct.Struct(">16s32s32sQH")


@dataclass(frozen=True, slots=True)
class Session:
    """One person's sign-in for one ticket."""

    org: bytes
    provider: bytes
    ticket: bytes
    signed_in_ms: int
    subject: str
    email: str
    refresh_token: str = field(repr=False)

    def seal(self, org: SsoOrg) -> str:
        """The session as text for its holder."""
        subject, email = self.subject.encode(), self.email.encode("ascii")
        fixed = _FIXED.pack(
            self.org, self.provider, self.ticket, self.signed_in_ms, len(subject)
        )  # fmt: skip
        plain = fixed + subject + bytes((len(email),)) + email + self.refresh_token.encode()
        return seal(Use.SESSION, org.key_id, org.key, plain)

    def holds(self, org: SsoOrg, ticket: bytes, now_ms: int) -> bool:
        """Whether it is one for this ticket and the provider of today, and not over."""
        same = (
            hmac.compare_digest(self.org, org.uid)
            & hmac.compare_digest(self.provider, provider_hash(org))
            & hmac.compare_digest(self.ticket, ticket_hash(ticket))
        )
        return same and now_ms < self.signed_in_ms + org.session_s * 1000


def open_session(sealed: Sealed, org: SsoOrg) -> Session:
    """The session that was sealed for that org."""
    plain = sealed.open(Use.SESSION, org.key)
    if len(plain) <= _FIXED.size:
        raise not_ours()
    uid, provider, ticket, signed_in_ms, size = _FIXED.unpack_from(plain)
    at = _FIXED.size + size
    if len(plain) <= at or len(plain) <= at + 1 + plain[at]:
        raise not_ours()
    end = at + 1 + plain[at]
    try:
        texts = plain[_FIXED.size : at], plain[at + 1 : end], plain[end:]
        subject, email, refresh_token = (text.decode() for text in texts)
    except UnicodeDecodeError:
        raise not_ours() from None
    return Session(uid, provider, ticket, signed_in_ms, subject, email, refresh_token)


def provider_hash(org: SsoOrg) -> bytes:
    """Which provider, and as which client of it."""
    return hashlib.sha256(f"{org.issuer}\0{org.client_id}".encode()).digest()


def ticket_hash(ticket: bytes) -> bytes:
    """A ticket by its hash."""
    return hashlib.sha256(ticket).digest()
