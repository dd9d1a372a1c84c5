"""XChaCha20-Poly1305 (IETF construction), and the only source of random bytes.

Guarantees: a nonce is drawn here, fresh for each encryption, and no caller can pass one in; a
failure of any sort is an `AeadError` that says nothing more. It does not commit to the key (a
ciphertext can be made that opens under two keys); `petsem.crypto.envelope` does. Source:
draft-irtf-cfrg-xchacha-03, through libsodium.
"""

from __future__ import annotations

import os
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16


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
    try:
        return nonce, crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated, nonce, key)
    except CryptoError:
        raise AeadError from None


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The plaintext; `AeadError` for a wrong key, length, tag or associated data alike."""
    # The binding would ask for a buffer of a negative size; all else that it refuses is one of its
    # own exceptions, and they are all CryptoErrors.
    if len(ciphertext) < TAG_BYTES:
        raise AeadError
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, associated, nonce, key)
    except CryptoError:
        raise AeadError from None
