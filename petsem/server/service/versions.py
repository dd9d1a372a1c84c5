"""An app's next version, inside a write's transaction: its number, its bounds and its record.

Guarantees: versions follow each other without a gap; the record and the app's own counts change
together, and whoever waits for the app is told. It does not write a version's values.
"""

from __future__ import annotations

from typing import Literal

from petsem import limits
from petsem.errors import Code, Detail, PetsemError, conflict, invalid
from petsem.server.principal import Principal
from petsem.server.store import secrets as rows
from petsem.server.store.orgs import AppRow
from petsem.server.store.secrets import VersionRow
from petsem.server.writer import Txn


def require_version(app: AppRow, wanted: int | None) -> None:
    """Refuse a change of another version than the caller has seen, if he says which that is."""
    if wanted is not None and wanted != app.version:
        raise PetsemError(
            Code.CONFLICT,
            f"the app is at version {app.version}, not {wanted}; read it again, then decide",
            Detail(have_version=app.version, need_version=wanted),
        )


def next_version(app: AppRow) -> int:
    """The number of the version that is made; `conflict` if there can be none."""
    if app.version >= limits.VERSION_MAX:
        raise conflict("the app has reached the last version there can be; make a new app")
    return app.version + 1


def require_room(count: int, size: int) -> None:
    """Refuse what an app would not have room for."""
    if count > limits.APP_MAX_SECRETS:
        raise invalid(f"an app has at most {limits.APP_MAX_SECRETS} secrets", reason="TOO_LARGE")
    if size > limits.APP_MAX_BYTES:
        raise invalid(
            f"names and values of an app are at most {limits.APP_MAX_BYTES} bytes together",
            reason="TOO_LARGE",
        )


def weight(name: str, size: int) -> int:
    """What a secret takes of the app's room."""
    return len(name) + size


def add_version(
    txn: Txn,
    app: AppRow,
    principal: Principal,
    version: int,
    change: Literal["set", "rollback", "destroy"],
    count: int,
    size: int,
    *,
    back_to: int | None = None,
) -> None:
    """Record a version: the app has `count` secrets now, which weigh `size` together."""
    token = principal.token
    row = VersionRow(version, txn.now_ms, token.subject, token.nonce, change, back_to)
    rows.add_version(txn.db, app, row, count, size)
    txn.changed[app.id] = None
