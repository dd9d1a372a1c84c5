"""The keys that tokens are signed under, derived once from the root keys in the database.

Guarantees: a key is never used for a row of another org than the one it was opened for; bounded in
number, the oldest goes first. It does not ask whether a key still stands: the row does, which the
caller has read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import apsw

from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.store.tokens import IssuedRow
from petsem.tokens.macaroon import derive_key

_MAX: Final = 16_384


class RootKeys:
    """Derived keys by the root key's id, in this process's memory."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        # With whose the key is: that binds it to its row for as long as it is kept here, too.
        self._derived: OrderedDict[bytes, tuple[bytes | None, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._derived)

    def derived(self, db: apsw.Connection, key_id: bytes, row: IssuedRow) -> bytes:
        """The key that the token of `row` is signed under; `corrupt` if it cannot be opened."""
        known = self._derived.get(key_id)
        if known is not None and known[0] == row.org_uid:
            return known[1]
        return self._derive(db, key_id, row)

    def _derive(self, db: apsw.Connection, key_id: bytes, row: IssuedRow) -> bytes:
        owner = CLUSTER if row.org is None else Owner(Purpose.TOKENS, row.org, row.org_uid or b"")
        place = owner.place(Record.ROOT_KEY, key_id)
        try:
            derived = derive_key(self._keys.open(db, owner, place, row.envelope))
        except DamagedEnvelope:
            raise PetsemError(
                Code.CORRUPT, f"the root key {key_id.hex()} is damaged; run 'petsem check' here"
            ) from None
        if len(self._derived) >= _MAX:
            self._derived.popitem(last=False)
        self._derived[key_id] = (row.org_uid, derived)
        return derived
