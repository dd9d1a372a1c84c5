"""The envelope: how every secret byte is stored.

    magic "petsem" | format 1 | record type 1 | key id 32 | nonce 24 | ciphertext | tag 16

Guarantees: what opens was sealed by a holder of the key for exactly this place, and every
failure, whatever its cause, is the same `DamagedEnvelope`. It does not hide the length of the
plaintext, and it does not show that an envelope is the newest of its place (an older one of the
same place and version opens too): the database's rows say which is current.

Byte tables and vectors: `docs/formats/envelope.md`.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from petsem import limits
from petsem.crypto import aead
from petsem.crypto.keys import KEY_ID_BYTES, Key, Purpose, data_key
from petsem.errors import invalid

MAGIC: Final = b"petsem"
FORMAT: Final = 1
_ID_AT: Final = len(MAGIC) + 2
_NONCE_AT: Final = _ID_AT + KEY_ID_BYTES
_BODY_AT: Final = _NONCE_AT + aead.NONCE_BYTES
OVERHEAD_BYTES: Final = _BODY_AT + aead.TAG_BYTES
"""How much longer an envelope is than its plaintext."""


class Record(enum.IntEnum):
    """What an envelope holds; the numbers are stored."""

    VALUE = 1
    BUNDLE = 2
    DATA_KEY = 3
    ROOT_KEY = 4
    IDEMPOTENCY = 5
    CA_KEY = 6


class Place(NamedTuple):
    """Where an envelope belongs, all of it authenticated.

    `org_id` is empty for what is the cluster's, `incarnation` where there is no app. `name` is a
    secret's name in UTF-8, a data key's or root key's id, or an idempotency record's scope;
    `version` the one it was sealed at. Byte fields are at most 65,535 bytes, `version` 64 bits.
    """

    record: Record
    purpose: Purpose
    org_id: bytes
    incarnation: bytes
    name: bytes
    version: int


class DamagedEnvelope(Exception):  # noqa: N818 (the name says what is wrong)
    """Malformed, altered, moved, or under another key: which of them is not told.

    Whoever may place ciphertexts in the database learns nothing from the refusal about which
    part of his forgery was right.
    """

    def __init__(self) -> None:
        super().__init__("a sealed record is damaged, was moved, or is under another key")


def seal(key: Key, place: Place, plaintext: bytes) -> bytes:
    """The envelope of `plaintext` for `place`; `invalid` if it would be over its limit."""
    if len(plaintext) > limits.ENVELOPE_MAX_BYTES - OVERHEAD_BYTES:
        raise invalid("that is too large to be sealed", reason="TOO_LARGE")
    nonce, ciphertext = aead.encrypt(key.secret.reveal(), plaintext, _associated(key, place))
    return b"".join((_HEADERS[place.record], key.id, nonce, ciphertext))


def open_sealed(key: Key, place: Place, envelope: bytes) -> bytes:
    """The plaintext that was sealed under `key` for `place`; else `DamagedEnvelope`."""
    # The whole header is compared at once, and with it the key's id: this is the commitment to
    # the key (see `petsem.crypto.keys`). `key.id` was computed from the key's bytes when the key
    # was made, so it need not be hashed again here. No part of the header is secret, so the
    # comparison may stop early.
    if not OVERHEAD_BYTES <= len(envelope) <= limits.ENVELOPE_MAX_BYTES or (
        envelope[:_NONCE_AT] != _HEADERS[place.record] + key.id
    ):
        raise DamagedEnvelope
    try:
        return aead.decrypt(
            key.secret.reveal(),
            envelope[_NONCE_AT:_BODY_AT],
            envelope[_BODY_AT:],
            _associated(key, place),
        )
    except aead.AeadError:
        raise DamagedEnvelope from None


def key_id_of(envelope: bytes) -> bytes:
    """The id of the key that an envelope says it is under, to find the key by.

    A claim until the envelope has been opened.
    """
    if (
        not OVERHEAD_BYTES <= len(envelope) <= limits.ENVELOPE_MAX_BYTES
        or envelope[:_ID_AT] not in _HEADERS.values()
    ):
        raise DamagedEnvelope
    return envelope[_ID_AT:_NONCE_AT]


def wrap_data_key(kek: Key, place: Place, key: Key) -> bytes:
    """`key` sealed under `kek` for its row, whose name is the key's own id."""
    assert place.record is Record.DATA_KEY
    assert place.name == key.id
    return seal(kek, place, key.secret.reveal())


def unwrap_data_key(kek: Key, place: Place, wrapped: bytes) -> Key:
    """The data key of the row `place`; `DamagedEnvelope` if it is not the one the row names."""
    assert place.record is Record.DATA_KEY
    raw = open_sealed(kek, place, wrapped)
    # The id is computed anew from what came out. The associated data holds the row's name
    # already; this binds the name to the key itself, so even a holder of the KEK cannot put
    # another key under a row's id.
    if len(raw) != aead.KEY_BYTES or (key := data_key(raw)).id != place.name:
        raise DamagedEnvelope
    return key


# Associated data. Each field is preceded by its length (2 bytes, big-endian), so that no two
# places have the same bytes: ("ab", "c") and ("a", "bc") differ, and an empty field is not an
# absent one. The magic and format are in it although they are constant, so that no other use of
# these keys, now or in a later format, can yield an envelope of this one.
#
# What does not change from call to call (magic, format, record type, purpose, and the lengths of
# the key id and of the version) is encoded once, here: a boot read opens one envelope, a listing
# a thousand.

_HEADERS: Final = {record: MAGIC + bytes((FORMAT, record)) for record in Record}


def _fields(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(field)) + field for field in fields)


_FRONTS: Final = {
    record: {
        purpose: _fields(MAGIC, bytes((FORMAT,)), bytes((record,)), purpose.encode())
        + struct.pack(">H", KEY_ID_BYTES)
        for purpose in Purpose
    }
    for record in Record
}
_LENGTH: Final = struct.Struct(">H").pack
_TAIL: Final = struct.Struct(">HQ").pack


def _associated(key: Key, place: Place) -> bytes:
    org_id, incarnation, name = place.org_id, place.incarnation, place.name
    try:
        return b"".join(
            (
                _FRONTS[place.record][place.purpose],
                key.id,
                _LENGTH(len(org_id)),
                org_id,
                _LENGTH(len(incarnation)),
                incarnation,
                _LENGTH(len(name)),
                name,
                _TAIL(8, place.version),
            )
        )
    except struct.error:
        raise ValueError("a field of the place is out of its bounds") from None
