"""Keys and their ids.

Guarantees: a `Key` made by `kek`, `data_key` or the two generators has the id that its bytes
hash to, and shows no more than a prefix of that id. It does not remember what it may be used
for: purposes are bound by the keyring and by the associated data of each envelope.

An id commits to its key. XChaCha20-Poly1305 alone does not: whoever knows two keys can make one
ciphertext that opens under both, to different plaintexts. BLAKE2b-256 is collision resistant, so
an envelope whose id was compared with the key's own opens under that key and no other. The id
is public; that is safe because a key is 256 random bits and never made from a passphrase.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Final

from petsem.crypto import aead
from petsem.errors import invalid
from petsem.secretbytes import SecretBytes

KEY_ID_BYTES: Final = 32
ROW_ID_BYTES: Final = 16

# BLAKE2's personalisation field, 16 bytes: the same 32 bytes used as a KEK and as a data key have
# two ids, so an envelope of one layer never names a key of the other.
_KEK_PERSON: Final = b"petsem-kek-id-v1"
_DATA_KEY_PERSON: Final = b"petsem-dek-id-v1"


class Purpose(enum.StrEnum):
    """What a KEK's data keys are for; a node may hold the KEK of one purpose and not another."""

    SECRETS = "secrets"
    TOKENS = "tokens"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """32 secret bytes and their 32-byte id. Made by the functions below, never directly.

    Equality is that of the ids: two keys of one kind with one id are the same key.
    """

    id: bytes
    secret: SecretBytes = field(compare=False)

    def __repr__(self) -> str:
        return f"Key({self.id[:4].hex()}…)"


def kek(raw: bytes) -> Key:
    """The key-encryption key of these 32 bytes; `invalid` for any other length."""
    return _key(raw, _KEK_PERSON)


def data_key(raw: bytes) -> Key:
    """The data key of these 32 bytes; `invalid` for any other length."""
    return _key(raw, _DATA_KEY_PERSON)


def generate_kek() -> Key:
    """A new random key-encryption key."""
    return kek(aead.random_bytes(aead.KEY_BYTES))


def generate_data_key() -> Key:
    """A new random data key."""
    return data_key(aead.random_bytes(aead.KEY_BYTES))


def random_id() -> bytes:
    """16 random bytes: an id of a row, an app's incarnation, a token's nonce."""
    return aead.random_bytes(ROW_ID_BYTES)


def _key(raw: bytes, person: bytes) -> Key:
    if len(raw) != aead.KEY_BYTES:
        raise invalid(f"a key is exactly {aead.KEY_BYTES} bytes")
    digest = hashlib.blake2b(raw, digest_size=KEY_ID_BYTES, person=person)
    return Key(digest.digest(), SecretBytes(raw))
