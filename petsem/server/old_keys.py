"""Data keys that seal nothing new: which of them nothing stored needs any longer, and what keeps
the others.

Guarantees: a key is called unneeded only if every envelope of its owner names a data key of that
owner, and none names this one. A damaged record thus keeps the key that it names, and one whose
header is damaged keeps all of its owner's. Only a primary key seals, and an old key never becomes
primary again, so an answer read from any snapshot stays true. It reads whole tables: call it on a
thread of its own, not on the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import apsw

from petsem.server.rewrapping import data_keys
from petsem.server.store import keyring as rows
from petsem.server.store import sealed
from petsem.server.store.keyring import DataKeyRow

_NAMED_MAX: Final = 10
_LOOKED_AT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Looked:
    """A page of old keys: which may go, how many were looked at, and the last one's id if there
    may be more."""

    unneeded: tuple[bytes, ...]
    seen: int
    last: bytes | None


def look(db: apsw.Connection, only: int | None, after: bytes, limit: int) -> Looked:
    """Which of the next old keys, of one app or of all owners, are needed no more."""
    page = rows.old_data_keys(db, only, after, limit)
    claims = _Claims(db)
    unneeded = tuple(row.id for row in page if not claims.need(row))
    return Looked(unneeded, len(page), page[-1].id if len(page) == limit else None)


def explain(db: apsw.Connection, only: int | None) -> str:
    """Why there still are old keys, for people; empty if there are none."""
    values: list[str] = []
    damaged = waiting = 0
    claims = _Claims(db)
    apps: set[int] = set()
    for row in rows.old_data_keys(db, only, b"", _LOOKED_AT_MAX):
        owner = row.owner
        if owner.app is None:
            if claims.need_for_root_keys(row):
                damaged += 1
            else:
                waiting += 1
        elif owner.app not in apps:
            apps.add(owner.app)
            primary = rows.primary_data_key(db, owner)
            for name, version in sealed.values_not_under(db, owner.app, primary, _NAMED_MAX):
                values.append(f"{row.owner_name}/{name} (version {version})")
    parts = []
    if values:
        more = " and others" if len(values) > _NAMED_MAX else ""
        parts.append(
            f"left as they are, because they cannot be opened: {', '.join(values[:_NAMED_MAX])}"
            f"{more}; destroy those versions, a current one after it was set again, and their old "
            "data keys go by themselves"
        )
    if damaged:
        parts.append(f"kept for root keys or a CA key that are damaged: {data_keys(damaged)}")
    if waiting:
        parts.append(
            f"kept for up to 24 hours, for requests that came with an Idempotency-Key: "
            f"{data_keys(waiting)} (rewrap wraps such keys anew like any other)"
        )
    return "; ".join(parts)


@dataclass(slots=True)
class _Claims:
    """What stored records name, read once and only if it is asked for."""

    db: apsw.Connection
    _apps: dict[int, set[bytes]] = field(default_factory=dict)
    _orgs: dict[int | None, set[bytes]] | None = None
    _idempotency: set[bytes] | None = None

    def need(self, row: DataKeyRow) -> bool:
        """Whether anything stored may need this key."""
        app = row.owner.app
        if app is None:
            return self.need_for_root_keys(row) or row.id in self._by_idempotency()
        claimed = self._apps.get(app)
        if claimed is None:
            claimed = self._apps[app] = sealed.claimed_in_app(self.db, app)
        return self._held_by(claimed, row)

    def need_for_root_keys(self, row: DataKeyRow) -> bool:
        """Whether a root key or the CA key may need this key of an org or the cluster."""
        if self._orgs is None:
            self._orgs = {}
            for org, claim in sealed.claimed_by_root_keys(self.db):
                self._orgs.setdefault(org, set()).add(claim)
        return self._held_by(self._orgs.get(row.owner.org, set()), row)

    def _held_by(self, claimed: set[bytes], row: DataKeyRow) -> bool:
        return row.id in claimed or not claimed <= rows.ids_of(self.db, row.owner)

    def _by_idempotency(self) -> set[bytes]:
        if self._idempotency is None:
            self._idempotency = sealed.claimed_by_idempotency(self.db)
        return self._idempotency
