"""Keyed digests: of a value for people, of a request's body, of what a fetch returned.

Guarantees: without the data key a digest tells nothing about the value, not even whether a guess
is right, and equal values under two names or in two apps have different digests. It does not
hide from those who see it that a secret was set to the value it had before.

Each digest has its own key, derived from the data key by keyed BLAKE2b (a PRF) with its own
personalisation, so that no digest can be taken for another, nor a key serve two algorithms.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from petsem.crypto.keys import Key

DIGEST_BYTES: Final = 16

_DIGEST_PERSON: Final = b"petsem-dgst-k-v1"
_BODY_PERSON: Final = b"petsem-body-k-v1"
_ETAG_PERSON: Final = b"petsem-etag-k-v2"

_U32: Final = struct.Struct(">I").pack


def secret_digest(data_key: Key, incarnation: bytes, name: str, value: bytes) -> bytes:
    """16 bytes shown beside a secret's name, so that people can compare without seeing.

    128 bits are enough: a collision between two values of one name that somebody searched for
    needs the key, and then the values are open to him anyway.
    """
    mac = hashlib.blake2b(key=_derive(data_key, _DIGEST_PERSON), digest_size=DIGEST_BYTES)
    for field in (incarnation, name.encode(), value):
        mac.update(_U32(len(field)) + field)
    return mac.digest()


def body_mac(data_key: Key, body: bytes) -> bytes:
    """32 bytes of HMAC-SHA256 that tell whether an idempotent request came with the same body.

    Keyed, because a body holds secrets and its record is replicated: a bare hash would let
    anyone with the database test guesses.
    """
    return hmac.digest(_derive(data_key, _BODY_PERSON), body, "sha256")


def etag(data_key: Key, incarnation: bytes, body: bytes) -> bytes:
    """16 bytes that change when what a fetch returns does. `body` says all of it: the version, and
    each name with its value and the version that set it."""
    mac = hashlib.blake2b(key=_derive(data_key, _ETAG_PERSON), digest_size=DIGEST_BYTES)
    mac.update(_U32(len(incarnation)) + incarnation)
    mac.update(body)
    return mac.digest()


def _derive(data_key: Key, person: bytes) -> bytes:
    return hashlib.blake2b(key=data_key.secret.reveal(), person=person, digest_size=32).digest()
