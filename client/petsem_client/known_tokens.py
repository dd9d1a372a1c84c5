"""A verified token as it is kept, and telling whether another one was narrowed from it.

A narrower copy has the same bytes up to the end of its parent's caveats, so only what follows is
decoded and signed, from the parent's signature on.

Guarantees: what is taken for a narrower copy is a text that `parse_token` takes, whose signatures
all follow from those that a node verified, and which adds first-party caveats only. Anything else,
other spellings of the same token among it, is simply not recognised, and a node is asked.

Does not clear caveats, and does not know whether the token was revoked since.
"""

from __future__ import annotations

import hmac
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import crc32

from petsem import base64url
from petsem.errors import PetsemError
from petsem.limits import CAVEATS_MAX
from petsem.model import Kind
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import (
    SIGNATURE_BYTES,
    Macaroon,
    bind_signature,
    encode,
    half_of_binding,
    join_binding,
    parse_rest,
)
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import PREFIX, UnverifiedToken, check_of

_FAMILY_BYTES: Final = 15
_FAMILY_CHARS: Final = slice(60, 80)
"""Of a part's BODY, what spells all of its nonce but a byte. Our binary form has 11 bytes up to the
identifier, and that has 34 before the nonce: 45, which are 60 letters."""
_PREFIX_CHARS: Final = len(PREFIX)
_CHECK_CHARS: Final = 7
"""The dot and the six digits after it."""
_END_BYTES: Final = 1 + 2 + SIGNATURE_BYTES
"""The end of the caveats, and the signature with its tag and length."""

_CAVEAT_BYTES: Final = 40
"""What a caveat takes of memory beside its text."""

Narrowing = tuple[tuple[bytes, ...], bytes]
"""First-party caveats added, and the signature that the part was sent with."""


class KnownPart:
    """A root or a discharge that was verified; `signature` is the one before it was bound."""

    __slots__ = ("_body", "_carry", "_crc", "caveats", "signature", "to_bind")

    def __init__(self, macaroon: Macaroon, signature: bytes) -> None:
        head = encode(macaroon)[:-_END_BYTES]
        # Three bytes are four letters, so up to there the narrower copy's text is the same too.
        whole = len(head) // 3 * 3
        self._body = base64url.encode(head[:whole])
        self._carry = head[whole:]
        self._crc = crc32((PREFIX + self._body).encode("ascii"))
        self.caveats = len(macaroon.caveats)
        self.signature = signature
        self.to_bind = half_of_binding(signature)

    def narrowing(self, text: str) -> Narrowing | None:
        """What a part adds to this one; None if it does not begin like it."""
        body = self._body
        if text.startswith(PREFIX):
            if not text.startswith(body, _PREFIX_CHARS) or text[-_CHECK_CHARS:][:1] != ".":
                return None
            tail = text[_PREFIX_CHARS + len(body) : -_CHECK_CHARS]
            if text[1 - _CHECK_CHARS :] != check_of(tail, self._crc):
                return None
        elif text.startswith(body):
            tail = text[len(body) :]
        else:
            return None
        data = base64url.decode(tail)
        if data is None or not data.startswith(self._carry):
            return None
        try:
            added, signature = parse_rest(data, len(self._carry), self.caveats)
        except TokenRefused:
            return None
        cids: tuple[bytes, ...] = ()
        for caveat in added:
            if caveat.vid is not None:
                return None
            cids += (caveat.cid,)
        return cids, signature


class Known(NamedTuple):
    """What a node said of a token, and what it says itself: all that decides about it. `org` is
    None for a token of the cluster's key."""

    token_id: str
    kind: Kind
    subject: str
    org: str | None
    caveats: tuple[bytes, ...]
    ends_ms: int


@dataclass(slots=True, eq=False)
class KnownToken:
    """A token that a node allowed something, and what it said of it.

    `key` is what its text is found by, `family` what all of its nonce are. `orgs`: those for which
    it was asked; one, for a token of an org's key. `root` is None where the node did not say what
    tells narrower copies.
    """

    key: bytes
    family: str
    known: Known
    orgs: frozenset[str]
    size: int
    root: KnownPart | None = field(default=None, repr=False)
    discharges: tuple[KnownPart, ...] = field(default=(), repr=False)
    own_caveats: tuple[bytes, ...] = ()
    """The root's, and those of each discharge by the places in `order`."""
    discharge_caveats: tuple[tuple[bytes, ...], ...] = ()
    order: tuple[int, ...] = ()
    total: int = 0

    def narrowed(self, parts: list[str]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]] | None:
        """All caveats of a token that was narrowed from this one, in the order of the walk, and
        those among them that are new; None if it was not."""
        root = self.root
        if root is None or len(parts) != len(self.discharges) + 1:
            return None
        found = root.narrowing(parts[0])
        if found is None:
            return None
        added, signature = found
        if not hmac.compare_digest(_signed(root.signature, added), signature):
            return None
        caveats = self.own_caveats + added
        if self.discharges:
            half = half_of_binding(signature)
            more: list[tuple[bytes, ...]] = []
            for number, discharge in enumerate(self.discharges, 1):
                found = discharge.narrowing(parts[number])
                if found is None:
                    return None
                new, sent = found
                other = discharge.to_bind
                if new:
                    other = half_of_binding(_signed(discharge.signature, new))
                if not hmac.compare_digest(join_binding(half, other), sent):
                    return None
                more.append(new)
                added += new
            for at in self.order:
                caveats += self.discharge_caveats[at] + more[at]
        return (caveats, added) if self.total + len(added) <= CAVEATS_MAX else None


def family_of(nonce: bytes) -> str:
    """What the entries of a nonce are found by."""
    return base64url.encode(nonce[:_FAMILY_BYTES])


def claimed_family(part: str) -> str:
    """The same of a part in our own spelling, without parsing it: a claim of the sender's, and
    anything at all in another spelling."""
    body = part[_PREFIX_CHARS:] if part.startswith(PREFIX) else part
    return body[_FAMILY_CHARS]


def known_token(
    token: UnverifiedToken,
    identifier: Identifier,
    *,
    key: bytes,
    subject: str,
    org: str,
    ends_ms: int,
    signatures: tuple[bytes, ...],
    size: int,
) -> KnownToken | None:
    """What to keep of a token that a node has verified; None if its discharges do not fit, as no
    verified token's do. `signatures`: of its discharges before they were bound, if the node said.
    `size`: of memory, but for what grows with the number of caveats.
    """
    order = _order(token)
    if order is None:
        return None
    own = tuple(c.cid for c in token.root.caveats if c.vid is None)
    others = tuple(tuple(c.cid for c in d.caveats if c.vid is None) for d in token.discharges)
    caveats = own + tuple(cid for at in order for cid in others[at])
    # Only the cluster's key signs operators' tokens, and it signs no others.
    whose = None if identifier.kind is Kind.OPERATOR else org
    total = len(token.root.caveats) + sum(len(d.caveats) for d in token.discharges)
    made = KnownToken(
        key,
        family_of(identifier.nonce),
        Known(identifier.token_id, identifier.kind, subject, whose, caveats, ends_ms),
        frozenset((org,)),
        size + _CAVEAT_BYTES * total,
        own_caveats=own,
        discharge_caveats=others,
        order=order,
        total=total,
    )
    if len(signatures) == len(token.discharges):
        try:
            made.root = KnownPart(token.root, token.root.signature)
            pairs = zip(token.discharges, signatures, strict=True)
            made.discharges = tuple(KnownPart(part, signature) for part, signature in pairs)
        except PetsemError:
            # Written with our location, it would be longer than a token may be.
            made.root, made.discharges = None, ()
    return made


def bound_as_sent(token: UnverifiedToken, signatures: tuple[bytes, ...]) -> bool:
    """Whether these are the signatures that the token's discharges had before they were bound."""
    root = token.root.signature
    return len(signatures) == len(token.discharges) and all(
        hmac.compare_digest(bind_signature(root, signature), part.signature)
        for part, signature in zip(token.discharges, signatures, strict=True)
    )


def _signed(signature: bytes, cids: tuple[bytes, ...]) -> bytes:
    for cid in cids:
        signature = hmac.digest(signature, cid, "sha256")
    return signature


def _order(token: UnverifiedToken) -> tuple[int, ...] | None:
    """The places of the discharges in the order in which the walk comes to them."""
    places = {part.identifier: at for at, part in enumerate(token.discharges)}
    wanted = deque(c.cid for c in token.root.caveats if c.vid is not None)
    order: list[int] = []
    while wanted:
        at = places.pop(wanted.popleft(), None)
        if at is None:
            return None
        order.append(at)
        wanted.extend(c.cid for c in token.discharges[at].caveats if c.vid is not None)
    return None if places else tuple(order)
