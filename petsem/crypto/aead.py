"""XChaCha20-Poly1305 (IETF construction), and the only source of random bytes.

Guarantees: a nonce is drawn here, fresh for each encryption, and no caller can pass one in; a
failure of any sort is an `AeadError` that says nothing more. It does not commit to the key (a
ciphertext can be made that opens under two keys); `petsem.crypto.envelope` does. Source:
draft-irtf-cfrg-xchacha-03, through libsodium.

libsodium's two functions are called where PyNaCl binds them, below `nacl.bindings`: each boot opens
one envelope, and that layer's checks, which are made here once more cheaply, and its buffers take
as long again as the cipher does on two kilobytes.
"""

from __future__ import annotations

import os
from typing import Final

from nacl._sodium import ffi, lib

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16

_NULL: Final = ffi.NULL
_new: Final = ffi.new
_buffer: Final = ffi.buffer
_encrypt: Final = lib.crypto_aead_xchacha20poly1305_ietf_encrypt
_decrypt: Final = lib.crypto_aead_xchacha20poly1305_ietf_decrypt
# Before the first use, so that it picks the implementations for this processor.
assert lib.sodium_init() >= 0


class AeadError(Exception):
    """The only failure. One sentence for all causes, so that it cannot serve as an oracle."""

    def __init__(self) -> None:
        super().__init__("authenticated encryption failed")


def random_bytes(count: int) -> bytes:
    """`count` bytes from the kernel, the only source of keys, nonces and ids.

    The kernel and not a generator of the process: a fork, or a virtual machine restored twice
    from one snapshot, would repeat the state of a generator in memory, and with it a nonce.
    """
    return os.urandom(count)


def encrypt(key: bytes, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
    """The nonce drawn for this call, and the ciphertext followed by its 16-byte tag.

    192-bit nonces are why this cipher was chosen: drawn at random, 2^48 of them under one key
    collide with probability 2^-97, so nothing has to count messages. A counter would have to
    survive crashes, restores and a second leader, and the one time it does not, two plaintexts
    and the authentication key leak.
    """
    nonce = random_bytes(NONCE_BYTES)
    if not (type(key) is type(plaintext) is type(associated) is bytes and len(key) == KEY_BYTES):
        raise AeadError
    size = len(plaintext)
    out = _new("unsigned char[]", size + TAG_BYTES)
    if _encrypt(
        out, _NULL, plaintext, size, associated, len(associated), _NULL, nonce, key
    ):  # fmt: skip
        raise AeadError
    return nonce, _buffer(out)[:]


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The plaintext; `AeadError` for a wrong key, length, tag or associated data alike."""
    # Everything that libsodium reads by a length of its own must have that length.
    if not (
        type(key) is type(nonce) is type(ciphertext) is type(associated) is bytes
        and len(key) == KEY_BYTES
        and len(nonce) == NONCE_BYTES
        and len(ciphertext) >= TAG_BYTES
    ):
        raise AeadError
    size = len(ciphertext)
    out = _new("unsigned char[]", size - TAG_BYTES)
    if _decrypt(
        out, _NULL, _NULL, ciphertext, size, associated, len(associated), nonce, key
    ):  # fmt: skip
        raise AeadError
    plaintext: bytes = _buffer(out)[:]
    return plaintext
