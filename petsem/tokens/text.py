"""The text form of a token: `petsem_` BODY `.` CHECK, parts joined by commas.

Guarantees: limits are checked before anything is decoded; each part has one spelling; a paste that
lost its end is told apart (TRUNCATED) from text that was never a token (MALFORMED).

Does not verify: CHECK finds accidents, not attacks, and anybody can compute it.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from petsem.errors import invalid
from petsem.limits import CAVEATS_MAX, DISCHARGES_MAX, TOKEN_MAX_BYTES
from petsem.tokens.macaroon import Macaroon, encode, parse
from petsem.tokens.reasons import Reason, TokenRefused, malformed

PREFIX: Final = "petsem_"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(high + low for high in _BASE62 for low in _BASE62)
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A root macaroon and the discharges sent with it, as a stranger wrote them."""

    root: Macaroon
    discharges: tuple[Macaroon, ...] = ()


def parse_token(text: str) -> UnverifiedToken:
    """The token that `text` spells; TokenRefused MALFORMED or TRUNCATED for anything else."""
    if len(text) > TOKEN_MAX_BYTES:
        raise malformed(f"a token is at most {TOKEN_MAX_BYTES} characters long")
    if not text.isascii():
        raise malformed("a token is ASCII text")
    if "," not in text:
        return UnverifiedToken(_parse_part(text))
    if text.endswith(","):
        raise TokenRefused(Reason.TRUNCATED)
    parts = text.split(",")
    if len(parts) > DISCHARGES_MAX + 1:
        raise malformed(f"a token comes with at most {DISCHARGES_MAX} discharges")
    root, *discharges = [_parse_part(part) for part in parts]
    if len(root.caveats) + sum(len(each.caveats) for each in discharges) > CAVEATS_MAX:
        raise malformed(f"a token has at most {CAVEATS_MAX} caveats, its discharges' included")
    return UnverifiedToken(root, tuple(discharges))


def _parse_part(part: str) -> Macaroon:
    # No bare part starts like the prefix, since its first byte is 2 and its first letter `A`.
    if not part.startswith("p"):
        if not part:
            raise malformed("the token, or one of its parts, is empty")
        return parse(decode_body(part))
    head, dot, check = part.rpartition(".")
    if not part.startswith(PREFIX[: len(part)]):
        raise malformed("the token does not start like one")
    if not dot or check != check_of(head):
        raise TokenRefused(Reason.TRUNCATED)
    return parse(decode_body(head[len(PREFIX) :]))


def decode_body(body: str) -> bytes:
    """The bytes of unpadded base64url, which must be the one spelling of them."""
    data = body.encode("ascii")
    try:
        raw = binascii.a2b_base64(data.translate(_FROM_URLSAFE) + b"=" * (-len(data) % 4))
    except binascii.Error:
        raise malformed("the token is not unpadded base64url") from None
    # The decoder skips what it does not know and ignores spare bits; writing it again does neither.
    if encode_body(raw) != data:
        raise malformed("the token is not unpadded base64url in its one form")
    return raw


def encode_body(raw: bytes) -> bytes:
    """Unpadded base64url."""
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URLSAFE).rstrip(b"=")


def check_of(head: str, before: int = 0) -> str:
    """CHECK for the text before the dot: its CRC-32 as six base62 digits, the highest first.
    `before`: the CRC-32 of what comes before `head`, if that is not the beginning."""
    rest, low = divmod(crc32(head.encode("ascii"), before), 3844)
    high, middle = divmod(rest, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def encode_part(macaroon: Macaroon) -> str:
    """One macaroon as text, prefix and check included."""
    head = PREFIX + encode_body(encode(macaroon)).decode("ascii")
    return f"{head}.{check_of(head)}"


def encode_token(root: Macaroon, discharges: Iterable[Macaroon] = ()) -> str:
    """A root and its bound discharges as text; `invalid` if they are over the limits."""
    parts = [root, *discharges]
    if len(parts) > DISCHARGES_MAX + 1:
        raise invalid(f"a token comes with at most {DISCHARGES_MAX} discharges")
    if sum(len(part.caveats) for part in parts) > CAVEATS_MAX:
        raise invalid(f"a token has at most {CAVEATS_MAX} caveats, its discharges' included")
    text = ",".join(encode_part(part) for part in parts)
    if len(text) > TOKEN_MAX_BYTES:
        raise invalid(f"a token is at most {TOKEN_MAX_BYTES} characters long; use fewer caveats")
    return text
