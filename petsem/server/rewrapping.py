"""Data keys wrapped again, by the primary KEK of their purpose.

Guarantees: data keys stay the same, so nothing that they seal is touched, and what has been done
is never done again: a walk that was cut short just starts anew. A data key that is damaged, or
whose KEK this node lacks, is left as it is and reported.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import apsw
import msgspec

from petsem.crypto.envelope import DamagedEnvelope, Record, unwrap_data_key, wrap_data_key
from petsem.crypto.keys import Key, Purpose
from petsem.errors import invalid
from petsem.server.keys import Keys
from petsem.server.store import keyring as rows
from petsem.server.store.keyring import DataKeyRow
from petsem.server.writer import Txn

_NAMED_MAX: Final = 10
_LOOKED_AT_MAX: Final = 1_000


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last data key that was looked at, by purpose, KEK and id; `left` is for people."""

    left: int
    purpose: Purpose = next(iter(Purpose))
    kek: str = ""
    id: str = ""

    @property
    def after(self) -> tuple[bytes, bytes]:
        """(KEK, id) as they are stored."""
        try:
            return bytes.fromhex(self.kek), bytes.fromhex(self.id)
        except ValueError:
            raise invalid(
                "that is not where this work stopped; start it again without it"
            ) from None


def begin(db: apsw.Connection) -> Cursor:
    """The start of a walk. May take long."""
    return Cursor(remaining(db))


def advance(txn: Txn, keys: Keys, cursor: Cursor, limit: int) -> tuple[Cursor | None, int]:
    """Go on by at most `limit` data keys: (the new cursor or None at the end, how many looked at).

    `unavailable` if this node lacks the primary KEK of a purpose that has something to wrap.
    """
    purposes = list(Purpose)
    left, after, done = cursor.left, cursor.after, 0
    for purpose in purposes[purposes.index(cursor.purpose) :]:
        page = rows.wrapped_otherwise(
            txn.db, purpose, rows.primary_kek(txn.db, purpose), after, limit - done
        )
        if page:
            kek = keys.primary_kek(txn.db, purpose)
            for row in page:
                _rewrap(txn.db, keys, kek, row)
            after = page[-1].kek, page[-1].id
            done += len(page)
        if done == limit:
            return Cursor(max(left - done, 1), purpose, after[0].hex(), after[1].hex()), done
        after = b"", b""
    return None, done


def remaining(db: apsw.Connection) -> int:
    """How many data keys are not wrapped by the primary KEK of their purpose."""
    return sum(
        rows.count_wrapped_otherwise(db, purpose, rows.primary_kek(db, purpose))
        for purpose in Purpose
    )


def explain(db: apsw.Connection, keys: Keys) -> str:
    """Why some are left after a walk, for people; empty if none are."""
    damaged: list[str] = []
    lacking: Counter[tuple[Purpose, bytes]] = Counter()
    for purpose in Purpose:
        primary = rows.primary_kek(db, purpose)
        for row in rows.wrapped_otherwise(db, purpose, primary, (b"", b""), _LOOKED_AT_MAX):
            if keys.keyring.get(purpose, row.kek) is None:
                lacking[purpose, row.kek] += 1
            else:
                damaged.append(row.label)
    parts = [
        f"the {purpose} key {kek.hex()}, which this node lacks, wraps {data_keys(count)}"
        for (purpose, kek), count in lacking.items()
    ]
    if damaged:
        more = " and others" if len(damaged) > _NAMED_MAX else ""
        parts.append(f"damaged and left as they are: {', '.join(damaged[:_NAMED_MAX])}{more}")
    return "; ".join(parts)


def data_keys(count: int) -> str:
    """`1 data key`, `2 data keys`."""
    return "1 data key" if count == 1 else f"{count:,} data keys"


def _rewrap(db: apsw.Connection, keys: Keys, kek: Key, row: DataKeyRow) -> None:
    old = keys.keyring.get(row.owner.purpose, row.kek)
    if old is None:
        return
    place = row.owner.place(Record.DATA_KEY, row.id)
    try:
        data_key = unwrap_data_key(old, place, row.wrapped)
    except DamagedEnvelope:
        return
    rows.rewrap(db, row.id, kek.id, wrap_data_key(kek, place, data_key))
