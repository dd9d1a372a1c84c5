"""The text form of a token: `petsem_` BODY `.` CHECK, parts joined by commas.

Guarantees: limits are checked before anything is decoded; each part has one spelling; a paste that
lost its end is told apart (TRUNCATED) from text that was never a token (MALFORMED).

Does not verify: CHECK finds accidents, not attacks, and anybody can compute it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from petsem import base64url
from petsem.errors import invalid
from petsem.limits import CAVEATS_MAX, DISCHARGES_MAX, TOKEN_MAX_BYTES
from petsem.tokens.macaroon import Macaroon, encode, parse
from petsem.tokens.reasons import Reason, TokenRefused, malformed

PREFIX: Final = "petsem_"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(high + low for high in _BASE62 for low in _BASE62)


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
        return parse(_decode(part))
    head, dot, check = part.rpartition(".")
    if not part.startswith(PREFIX[: len(part)]):
        raise malformed("the token does not start like one")
    if not dot or check != check_of(head):
        raise TokenRefused(Reason.TRUNCATED)
    return parse(_decode(head[len(PREFIX) :]))


def _decode(body: str) -> bytes:
    raw = base64url.decode(body)
    if raw is None:
        raise malformed("the token is not unpadded base64url in its one form")
    return raw


def check_of(head: str, before: int = 0) -> str:
    """CHECK for the text before the dot: its CRC-32 as six base62 digits, the highest first.
    `before`: the CRC-32 of what comes before `head`, if that is not the beginning."""
    rest, low = divmod(crc32(head.encode("ascii"), before), 3844)
    high, middle = divmod(rest, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def encode_part(macaroon: Macaroon) -> str:
    """One macaroon as text, prefix and check included."""
    head = PREFIX + base64url.encode(encode(macaroon))
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
