"""What the authenticator hands out and takes back: sealed text that only it can read.

    format 1 | id of the key 16 | nonce 24 | ciphertext | tag 16, as unpadded base64url

Guarantees: text opens under the key and for the use that it was sealed for and for no other, only
whole, and in one spelling. It does not say how old the text is; whoever opens it looks.

Byte tables and vectors: `docs/formats/ticket.md`.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Final

from petsem import base64url
from petsem.crypto import aead
from petsem.errors import PetsemError, invalid

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(f">B16s{aead.NONCE_BYTES}s")


class Use(enum.Enum):
    """What a key is derived for; the value is BLAKE2b's personalisation."""

    FLOW = b"petsem-sso-flow1"
    STATE = b"petsem-sso-state"
    SESSION = b"petsem-sso-sess1"
    CODE = b"petsem-sso-code1"


@dataclass(frozen=True, slots=True)
class Sealed:
    """Text that was taken apart and not opened yet: `key_id` is a claim until it has been."""

    key_id: bytes
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    def open(self, use: Use, key: bytes) -> bytes:
        """What was sealed; `invalid` if it was not, for this use and under this key."""
        try:
            return aead.decrypt(
                derive(use, key), self.nonce, self.ciphertext, use.value + self.key_id
            )
        except aead.AeadError:
            raise not_ours() from None


def derive(use: Use, key: bytes) -> bytes:
    """The key for one use. The org's key itself never seals anything."""
    return hashlib.blake2b(key=key, person=use.value, digest_size=aead.KEY_BYTES).digest()


def seal(use: Use, key_id: bytes, key: bytes, plain: bytes) -> str:
    """`plain` as text for the holder of `key`."""
    nonce, ciphertext = aead.encrypt(derive(use, key), plain, use.value + key_id)
    return base64url.encode(_HEAD.pack(_FORMAT, key_id, nonce) + ciphertext)


def parse(text: str, most_chars: int) -> Sealed:
    """The parts of sealed text of at most that length; `invalid` for anything else."""
    if len(text) > most_chars:
        raise not_ours()
    data = base64url.decode(text)
    if data is None or len(data) < _HEAD.size + aead.TAG_BYTES or data[0] != _FORMAT:
        raise not_ours()
    _, key_id, nonce = _HEAD.unpack_from(data)
    return Sealed(key_id, nonce, data[_HEAD.size :])


def not_ours() -> PetsemError:
    """The answer to everything that cannot be opened, so that it tells nothing of why."""
    return invalid("this is no sign-in that was begun here; begin it again")
