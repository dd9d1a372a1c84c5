"""Tokens whose signatures were found good, so that the next request need not compute them again.

A signature that is good under a root key stays good. What can change (the issued row, revocations)
holds for one position of the database, which is asked for at each verification; time is looked at
each time.

Guarantees: bounded, and holds no token: an entry is found by a hash of the whole text under a key
of this process, so neither memory nor timing gives a token away. Only verified ones are added.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

import msgspec

from petsem import limits
from petsem.crypto.keys import random_id
from petsem.server.principal import Verified
from petsem.tokens.identifier import Identifier

_MAX: Final = 8_192


class Seen(msgspec.Struct):
    """What parsing and walking a token gave. `org_uid` is whose root key it was verified under,
    None for the cluster's; a root key's id is never given to another key.

    `ends_ms` is when the first of its `time <` caveats ends it, Unix milliseconds, or a moment that
    never comes. `verified` is what the database said of it last, and `at` the (epoch, TXID) it was
    at before: it holds for as long as the database is there.
    """

    identifier: Identifier
    org_uid: bytes | None
    caveats: tuple[bytes, ...]
    tickets: tuple[bytes, ...]
    discharges: tuple[bytes, ...]
    ends_ms: int
    at: tuple[int, int] | None = None
    verified: Verified | None = None
    noted_ms: int = 0
    """When it was last noted that the token is in use."""


class SeenTokens:
    """The last tokens that were verified, least recently used first."""

    def __init__(self) -> None:
        self._secret = random_id()
        self._entries: OrderedDict[bytes, Seen] = OrderedDict()

    def find(self, text: str) -> Seen | None:
        """What is known of exactly this text."""
        if len(text) > limits.TOKEN_MAX_BYTES:
            return None
        key = self._hash(text)
        seen = self._entries.get(key)
        if seen is not None:
            self._entries.move_to_end(key)
        return seen

    def add(self, text: str, seen: Seen) -> None:
        """Remember a token that was just verified."""
        if len(self._entries) >= _MAX:
            self._entries.popitem(last=False)
        self._entries[self._hash(text)] = seen

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._secret
        ).digest()
