"""The tokens that nodes have allowed something, kept to answer for them again; and, for a moment,
those that they know nothing good of.

Guarantees: bounded in entries and bytes, the refused apart from the allowed, so that garbage pushes
out nothing good. An entry is found by a hash of its text under a key of this process, or as the
parent of a narrower copy. `evict` leaves nothing of a token's nonce.

Does not decide what may be kept, for how long, or what a token allows.
"""

from __future__ import annotations

import hashlib
import secrets
from bisect import insort
from collections import OrderedDict
from typing import Final, NamedTuple

from petsem.limits import TOKEN_MAX_BYTES
from petsem_client.known_tokens import KnownToken, claimed_family, family_of

ENTRIES_MAX: Final = 16_384
ENTRY_BASE_BYTES: Final = 2_048
PARENTS_MAX: Final = 8
"""Of one nonce, how many tokens are tried as the parent of a narrower copy: the widest."""
REFUSED_MAX: Final = 4_096
REFUSED_S: Final = 2.0


class Refused(NamedTuple):
    """A refusal that holds whatever the token is used for."""

    reason: str
    message: str
    until_s: float


class _Family:
    """What is kept of one nonce. `confirmed_s`: when a node said last that it counts; for all
    entries together, since what can change belongs to the nonce."""

    __slots__ = ("confirmed_s", "keys", "parents")

    def __init__(self) -> None:
        self.confirmed_s = 0.0
        self.keys: set[bytes] = set()
        self.parents: list[KnownToken] = []


class VerifiedCache:
    """Entries by text and by nonce, the least recently used first."""

    def __init__(self, bytes_max: int) -> None:
        self._secret = secrets.token_bytes(16)
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: OrderedDict[bytes, KnownToken] = OrderedDict()
        self._families: dict[str, _Family] = {}
        self._refused: OrderedDict[bytes, Refused] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, text: str) -> bytes:
        """What a text is found by."""
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._secret
        ).digest()

    def get(self, key: bytes) -> KnownToken | None:
        """The entry of exactly this text."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def parent(self, text: str) -> tuple[KnownToken, tuple[bytes, ...], tuple[bytes, ...]] | None:
        """An entry that `text` was narrowed from, all of its caveats, and the new ones."""
        if len(text) > TOKEN_MAX_BYTES or not text.isascii():
            return None
        family = self._families.get(claimed_family(text))
        if family is None:
            return None
        parts = text.split(",")
        for entry in family.parents:
            caveats = entry.narrowed(parts)
            if caveats is not None:
                return entry, *caveats
        return None

    def confirmed_s(self, entry: KnownToken) -> float:
        """When a node said last that this entry's nonce counts."""
        return self._families[entry.family].confirmed_s

    def add(self, entry: KnownToken, now_s: float) -> None:
        """Keep an entry that was confirmed now, in the place of what was known of the same text."""
        key = entry.key
        self.remove(key)
        self._entries[key] = entry
        self._bytes += entry.size
        family = self._families.setdefault(entry.family, _Family())
        family.confirmed_s = now_s
        family.keys.add(key)
        if entry.root is not None:
            insort(family.parents, entry, key=_width)
            del family.parents[PARENTS_MAX:]
        while len(self._entries) > ENTRIES_MAX or self._bytes > self._bytes_max:
            self.remove(next(iter(self._entries)))

    def remove(self, key: bytes) -> None:
        """Forget one entry, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.size
        family = self._families[entry.family]
        family.keys.discard(key)
        if entry in family.parents:
            family.parents.remove(entry)
        if not family.keys:
            del self._families[entry.family]

    def evict(self, nonce: bytes) -> int:
        """Forget a nonce; how many entries it had."""
        family = self._families.get(family_of(nonce))
        keys = () if family is None else tuple(family.keys)
        for key in keys:
            self.remove(key)
        return len(keys)

    def drop(self) -> int:
        """Forget everything; how many entries that were."""
        count = len(self._entries)
        self._entries.clear()
        self._families.clear()
        self._refused.clear()
        self._bytes = 0
        return count

    def refused(self, key: bytes, now_s: float) -> Refused | None:
        """The refusal of exactly this text, while it may be repeated."""
        found = self._refused.get(key)
        if found is None or now_s >= found.until_s:
            return None
        return found

    def refuse(self, key: bytes, reason: str, message: str, now_s: float) -> None:
        """Repeat a refusal for a moment."""
        self._refused.pop(key, None)
        self._refused[key] = Refused(reason, message, now_s + REFUSED_S)
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)

    def forget_refusals(self) -> None:
        """What is known only since was not in them."""
        self._refused.clear()


def _width(entry: KnownToken) -> int:
    return entry.total
