"""Unpadded base64url (RFC 4648, section 5): how tokens, tickets, cursors and sealed text are spelt.

Guarantees: bytes have one spelling. Padding, spare bits, the other alphabet and white space are no
second one, so that whoever compares, hashes or logs the text speaks of the bytes. It knows no size;
callers hold a text to their own before they come here.
"""

from __future__ import annotations

import binascii

_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


def encode(raw: bytes) -> str:
    """The one spelling of `raw`."""
    return _spell(raw).decode("ascii")


def decode(text: str) -> bytes | None:
    """The bytes that `text` is the one spelling of; None for anything else."""
    if not text.isascii():
        return None
    data = text.encode("ascii")
    try:
        raw = binascii.a2b_base64(data.translate(_FROM_URLSAFE) + b"=" * (-len(data) % 4))
    except binascii.Error:
        return None
    # The decoder skips what it does not know and ignores spare bits; writing it again does neither.
    return raw if _spell(raw) == data else None


def _spell(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URLSAFE).rstrip(b"=")
