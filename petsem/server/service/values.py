"""Reading values over HTTP: the boot read for people and programs that want JSON.

Guarantees: an answer is one consistent version, complete but for what the token's caveats leave
out, or an error; never a part. It reads the rows and not the boot bundle, so that it also finds
what is damaged in them. Its position was read in the same transaction as the values.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from petsem.errors import PetsemError, not_found
from petsem.model import Freshness, Position, Role, check_secret_name
from petsem.server.bundles import Bundles
from petsem.server.changes import POSITION, Changes
from petsem.server.database import ReadPool, read_position
from petsem.server.freshness import FreshnessSource, to_http
from petsem.server.keys import Keys
from petsem.server.principal import Principal
from petsem.server.service.staleness import check_boot
from petsem.server.service.waiting import check_durable, check_fence, until_fresh
from petsem.server.stale import stale_version
from petsem.server.store import orgs
from petsem.server.store import secrets as rows
from petsem.server.store.orgs import AppRow
from petsem.server.store.secrets import SecretRow
from petsem.wire import http


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. `names` empty: all; `version` 0: the current one."""

    org: str
    app: str
    version: int = 0
    names: tuple[str, ...] = ()
    min_version: int = 0
    min_position: Position | None = None
    durable: bool = False


async def values(
    wanted: Wanted,
    authorize: Callable[[apsw.Connection], Principal],
    *,
    pool: ReadPool,
    keys: Keys,
    changes: Changes,
    freshness: FreshnessSource,
) -> http.SecretValues:
    """The values, once this node has reached what was asked for; else `stale`.

    `authorize` runs in the transaction of the read, before anyone looks whether the app exists.
    """
    bundles = Bundles(keys)

    def read() -> http.SecretValues:
        with pool.snapshot() as db:
            principal = authorize(db)
            fresh = freshness.at(read_position(db))
            if wanted.min_position is not None:
                check_fence(db, fresh.position, wanted.min_position, freshness.view.logged)
            try:
                org_row, app_row = orgs.get_app(db, wanted.org, wanted.app)
            except PetsemError:
                # On a replica the app may be about to come.
                least = max(wanted.min_version, wanted.version)
                if least and fresh.role is not Role.LEADER:
                    raise stale_version(0, least) from None
                raise
            check_boot(db, freshness, org_row.id, fresh.position)
            _check_fences(wanted, app_row, fresh)
            owner = app_row.owner(org_row.uid)
            chosen = _choose(db, wanted, app_row, principal)
            found = {row.name: _as_json(bundles.value(db, owner, row)) for row in chosen}
        return http.SecretValues(
            version=wanted.version or app_row.version,
            secrets=found,
            filtered=principal.filter is not None,
            freshness=to_http(fresh),
        )

    return await until_fresh(changes, POSITION, read)


def _check_fences(wanted: Wanted, app: AppRow, fresh: Freshness) -> None:
    if wanted.durable:
        check_durable(fresh)
    if wanted.min_version > app.version:
        raise stale_version(app.version, wanted.min_version)
    if wanted.version > app.version:
        if fresh.role is Role.LEADER:
            raise not_found(f"{wanted.org}/{wanted.app} has no version {wanted.version} yet")
        raise stale_version(app.version, wanted.version)


def _choose(
    db: apsw.Connection, wanted: Wanted, app: AppRow, principal: Principal
) -> list[SecretRow]:
    """The rows of the version, by name, that were asked for and that the token may see."""
    version = wanted.version or app.version
    current = version == app.version
    stored = rows.current(db, app.id) if current else rows.at_version(db, app.id, version)
    seen = [row for row in stored if _admits(principal, row.name)]
    if not wanted.names:
        return seen
    by_name = {row.name: row for row in seen}
    for name in wanted.names:
        # A name that the token may not see is left out, whether there is such a secret or not.
        if check_secret_name(name) not in by_name and _admits(principal, name):
            raise not_found(f"there is no secret {name} in {wanted.org}/{wanted.app}")
    asked = frozenset(wanted.names)
    return [row for row in seen if row.name in asked]


def _admits(principal: Principal, name: str) -> bool:
    return principal.filter is None or principal.filter.admits(name)


def _as_json(value: bytes) -> http.Value:
    """Text where the bytes are text, else base64."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return http.Base64Value(base64=base64.b64encode(value).decode("ascii"))
