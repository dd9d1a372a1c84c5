"""The envelope and its cipher once more, written from the byte tables and the draft alone.

Slow and plain on purpose: it shares no code with `petsem.crypto` and takes nothing from libsodium
(ChaCha20 itself comes from OpenSSL), so where the two agree, the tables say what the code does.
Sources: draft-irtf-cfrg-xchacha-03 section 2.2, RFC 8439 sections 2.5 and 2.8.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

VECTORS = Path(__file__).parents[2] / "vectors" / "crypto"
DOCS = Path(__file__).parents[3] / "docs" / "formats" / "envelope.md"
P = 2**130 - 5
_QUARTERS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def vectors(name: str) -> list[dict[str, Any]]:
    """The cases of `tests/vectors/crypto/NAME.json`."""
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["tests"]
    return cases


def hchacha20(key: bytes, block: bytes) -> bytes:
    """The 32-byte subkey for 16 bytes of nonce."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + block))
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = (state[x] + state[y]) & 0xFFFFFFFF
                mixed = state[z] ^ state[x]
                state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF
    return struct.pack("<8I", *state[:4], *state[12:])


def keystream(key: bytes, nonce: bytes, length: int) -> tuple[bytes, bytes]:
    """The 32-byte Poly1305 key (from block 0), and `length` bytes of stream from block 1 on."""
    counter_and_nonce = bytes(8) + nonce[16:]
    cipher = Cipher(
        algorithms.ChaCha20(hchacha20(key, nonce[:16]), counter_and_nonce), mode=None
    ).encryptor()
    stream = cipher.update(bytes(64 + length))
    return stream[:32], stream[64:]


def mac_input(associated: bytes, ciphertext: bytes) -> bytes:
    """What the tag is computed over."""
    padded = b"".join(part + bytes(-len(part) % 16) for part in (associated, ciphertext))
    return padded + struct.pack("<QQ", len(associated), len(ciphertext))


def poly1305(key: bytes, message: bytes) -> bytes:
    """The 16-byte tag."""
    r, pad = _poly1305_key(key)
    return ((_poly1305_sum(r, message) + pad) % 2**128).to_bytes(16, "little")


def _poly1305_key(key: bytes) -> tuple[int, int]:
    clamp = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    return int.from_bytes(key[:16], "little") & clamp, int.from_bytes(key[16:], "little")


def _poly1305_sum(r: int, message: bytes) -> int:
    total = 0
    for at in range(0, len(message), 16):
        total = (total + int.from_bytes(message[at : at + 16] + b"\1", "little")) * r % P
    return total


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag."""
    tag_key, stream = keystream(key, nonce, len(plaintext))
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream, strict=True))
    return ciphertext + poly1305(tag_key, mac_input(associated, ciphertext))


def key_id(raw: bytes, person: bytes) -> bytes:
    """The id of a key, by the personalisation of its kind."""
    return hashlib.blake2b(raw, digest_size=32, person=person).digest()


def associated_data(place: dict[str, Any], identifier: bytes) -> bytes:
    """The associated data of a place as the vectors spell it."""
    fields = (
        b"petsem",
        b"\x01",
        bytes((place["record"],)),
        place["purpose"].encode(),
        identifier,
        bytes.fromhex(place["org_id"]),
        bytes.fromhex(place["incarnation"]),
        bytes.fromhex(place["name"]),
        place["version"].to_bytes(8, "big"),
    )
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def envelope(
    raw: bytes, identifier: bytes, nonce: bytes, place: dict[str, Any], plaintext: bytes
) -> bytes:
    """The whole stored form."""
    head = b"petsem\x01" + bytes((place["record"],)) + identifier + nonce
    return head + encrypt(raw, nonce, plaintext, associated_data(place, identifier))


def subkey(raw: bytes, person: bytes) -> bytes:
    """A key derived from a data key."""
    return hashlib.blake2b(key=raw, digest_size=32, person=person).digest()


def secret_digest(raw: bytes, incarnation: bytes, name: bytes, value: bytes) -> bytes:
    """The digest shown beside a name."""
    message = b"".join(len(f).to_bytes(4, "big") + f for f in (incarnation, name, value))
    key = subkey(raw, b"petsem-dgst-k-v1")
    return hashlib.blake2b(message, key=key, digest_size=16).digest()


def body_mac(raw: bytes, body: bytes) -> bytes:
    """The MAC of an idempotent request's body."""
    return hmac.new(subkey(raw, b"petsem-body-k-v1"), body, "sha256").digest()


def etag(raw: bytes, incarnation: bytes, body: bytes) -> bytes:
    """The etag of a fetch."""
    message = len(incarnation).to_bytes(4, "big") + incarnation + body
    key = subkey(raw, b"petsem-etag-k-v2")
    return hashlib.blake2b(message, key=key, digest_size=16).digest()


def two_key_ciphertext(sides: list[tuple[bytes, bytes]], nonce: bytes) -> bytes:
    """A ciphertext and tag that are right for both (key, associated data) of `sides`.

    Poly1305 is a polynomial in a secret r of each key. For somebody who knows both keys, one free
    block of ciphertext is one linear equation that makes the two tags equal; its solution fits
    into a block for about one prefix in four.
    """
    tag_keys = [keystream(key, nonce, 0)[0] for key, _ in sides]
    (r1, pad1), (r2, pad2) = (_poly1305_key(tag_key) for tag_key in tag_keys)
    for attempt in range(256):
        prefix = attempt.to_bytes(16, "big")
        # With the free block 0, the tags are sum + pad; a block x adds x * r^2 to the sum, since
        # one block (the lengths) comes after it.
        sum1, sum2 = (
            _poly1305_sum(r, mac_input(associated, prefix + bytes(16)))
            for r, (_, associated) in zip((r1, r2), sides, strict=True)
        )
        for multiple in range(-4, 5):
            wanted = sum2 + pad2 - sum1 - pad1 + multiple * 2**128
            block = wanted * pow(r1 * r1 - r2 * r2, -1, P) % P
            if block >= 2**128:
                continue
            ciphertext = prefix + block.to_bytes(16, "little")
            tags = {
                poly1305(tag_key, mac_input(associated, ciphertext))
                for tag_key, (_, associated) in zip(tag_keys, sides, strict=True)
            }
            if len(tags) == 1:
                return ciphertext + tags.pop()
    raise AssertionError("no prefix had a solution")
