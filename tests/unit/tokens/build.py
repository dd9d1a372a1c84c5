"""Macaroons written by hand, bytes and signatures, so that tests do not lean on what they test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from nacl.secret import SecretBox

from petsem.model import Kind
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Caveat, Macaroon
from petsem.tokens.reasons import Reason, TokenRefused

VECTORS = Path(__file__).parents[2] / "vectors"
SECRET = bytes(range(32))
NOW_S = 1_800_000_000
ZERO_NONCE = bytes(24)
IDENTIFIER = Identifier(
    cluster_id=bytes(range(16)),
    kind=Kind.HOST,
    root_key_id=bytes(range(16, 32)),
    nonce=bytes(range(32, 48)),
    epoch=3,
    txid=99,
)


def vectors(name: str) -> dict[str, Any]:
    """One file of vectors."""
    found: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return found


def mac(key: bytes, *messages: bytes) -> bytes:
    """HMAC-SHA256 of one message, or of the HMACs of two."""
    if len(messages) == 1:
        return hmac.new(key, messages[0], hashlib.sha256).digest()
    return mac(key, b"".join(mac(key, message) for message in messages))


def derived(secret: bytes) -> bytes:
    """A root secret's HMAC key."""
    return mac(b"macaroons-key-generator", secret)


def made(secret: bytes, identifier: bytes, cids: Iterable[bytes] = ()) -> Macaroon:
    """A macaroon with first-party caveats of any text."""
    macaroon = Macaroon(b"petsem", identifier, (), mac(derived(secret), identifier))
    for cid in cids:
        macaroon = added(macaroon, cid)
    return macaroon


def added(macaroon: Macaroon, cid: bytes) -> Macaroon:
    """One first-party caveat more, whatever its text."""
    return Macaroon(
        macaroon.location,
        macaroon.identifier,
        (*macaroon.caveats, Caveat(cid)),
        mac(macaroon.signature, cid),
    )


def required(macaroon: Macaroon, caveat_key: bytes, ticket: bytes) -> Macaroon:
    """One third-party caveat more, sealed with a zero nonce."""
    vid = bytes(SecretBox(macaroon.signature).encrypt(derived(caveat_key), ZERO_NONCE))
    return Macaroon(
        macaroon.location,
        macaroon.identifier,
        (*macaroon.caveats, Caveat(ticket, vid, b"https://auth.example")),
        mac(macaroon.signature, vid, ticket),
    )


def bound(root: Macaroon, discharge: Macaroon) -> Macaroon:
    """A discharge bound to a root."""
    signature = mac(bytes(32), root.signature, discharge.signature)
    return Macaroon(discharge.location, discharge.identifier, discharge.caveats, signature)


def varint(number: int) -> bytes:
    """Minimal LEB128."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def packet(tag: int, value: bytes) -> bytes:
    """A V2 field."""
    return bytes((tag,)) + varint(len(value)) + value


def binary(macaroon: Macaroon, location: bytes | None = b"petsem") -> bytes:
    """The V2 bytes, with any location or none."""
    out = b"\x02" + (b"" if location is None else packet(1, location))
    out += packet(2, macaroon.identifier) + b"\x00"
    for caveat in macaroon.caveats:
        if caveat.location is not None:
            out += packet(1, caveat.location)
        out += packet(2, caveat.cid)
        if caveat.vid is not None:
            out += packet(4, caveat.vid)
        out += b"\x00"
    return out + b"\x00" + packet(6, macaroon.signature)


def bare(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def unbare(text: str) -> bytes:
    """What unpadded base64url spells."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def prefixed(body: str) -> str:
    """`petsem_` BODY `.` CHECK around any body."""
    head = f"petsem_{body}"
    return f"{head}.{check(head.encode())}"


def check(head: bytes) -> str:
    """The check of any head."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = zlib.crc32(head)
    return "".join(digits[number // 62**place % 62] for place in range(5, -1, -1))


def ids(cases: Sequence[dict[str, Any]], key: str = "note") -> list[str]:
    """Names of cases for pytest."""
    return [str(case.get(key) or case.get("text") or case.get("hex"))[:60] for case in cases]


class refused:  # noqa: N801 - reads like pytest.raises
    """`with refused(Reason.X)`: a TokenRefused with that reason, whose message shows no input."""

    def __init__(self, reason: Reason) -> None:
        self._reason = reason
        self._raises = pytest.raises(TokenRefused)

    def __enter__(self) -> pytest.ExceptionInfo[TokenRefused]:
        self._info = self._raises.__enter__()
        return self._info

    def __exit__(self, *error: Any) -> bool:
        caught = bool(self._raises.__exit__(*error))
        assert self._info.value.reason is self._reason, self._info.value.message
        return caught
