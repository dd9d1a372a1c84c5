"""Values that are destroyed, inside a write's transaction.

Guarantees: of a value that is destroyed no envelope is left in any version that had it, while the
versions stay; a current value goes only together with its name, so that no app is left with a name
that has none. The pages that held the envelopes are cleared after the commit, by `Writes.scrub`.
"""

from __future__ import annotations

import msgspec

from petsem.errors import conflict, not_found
from petsem.server.principal import Principal
from petsem.server.service.versions import add_version, next_version, weight
from petsem.server.store import secrets as rows
from petsem.server.store.orgs import AppRow
from petsem.server.writer import Txn
from petsem.wire import http


class Destroyed(msgspec.Struct, frozen=True):
    """What an idempotency record keeps of it: in which versions each name had what is gone."""

    version: int
    destroyed: list[http.DestroyedSecret]


def destroy_all(txn: Txn, principal: Principal, app: AppRow, names: list[str]) -> Destroyed:
    """Every value of these names, now and in the history. Names that are set are unset."""
    version = app.version
    count, size = app.secrets, app.size
    ended = []
    for name in names:
        old = rows.current_one(txn.db, app.id, name)
        if old is not None:
            ended.append(name)
            count, size = count - 1, size - weight(name, old.size)
    if ended:
        version = next_version(app)
        for name in ended:
            rows.close(txn.db, app.id, name, version)
        add_version(txn, app, principal, version, "destroy", count, size)
    destroyed = []
    for name in names:
        stored = rows.stored_values(txn.db, app.id, name)
        if not stored:
            raise not_found(f"no value of {name} is stored, now or in the history")
        since = [
            set_by
            for sealed_at in {sealed_at for _, _, sealed_at in stored}
            for set_by in rows.destroy(txn.db, app.id, name, sealed_at)
        ]
        destroyed.append(http.DestroyedSecret(name=name, versions=sorted(since)))
    return Destroyed(version, destroyed)


def destroy_version(txn: Txn, app: AppRow, names: list[str], version: int) -> Destroyed:
    """The values that these names had in a version, which are not their current ones."""
    if version > app.version:
        raise not_found(f"the app has no version {version} yet")
    then = {row.name: row for row in rows.at_version(txn.db, app.id, version)}
    destroyed = []
    for name in names:
        row = then.get(name)
        if row is None or row.envelope is None:
            raise not_found(f"no value of {name} is stored in version {version}")
        now = rows.current_one(txn.db, app.id, name)
        if now is not None and now.sealed_at == row.sealed_at:
            raise conflict(f"that value of {name} is the current one; set or unset {name} first")
        gone = rows.destroy(txn.db, app.id, name, row.sealed_at)
        destroyed.append(http.DestroyedSecret(name=name, versions=sorted(gone)))
    return Destroyed(app.version, destroyed)
