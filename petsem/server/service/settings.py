"""An org's settings: what may be set, the defaults, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import apsw
import msgspec

from petsem.errors import invalid
from petsem.server.keys import Keys
from petsem.server.service.shared_keys import make_once
from petsem.server.service.sso_settings import SSO, read_sso, write_sso
from petsem.server.service.two_key import TWO_KEY
from petsem.server.store import orgs
from petsem.server.store.orgs import OrgRow
from petsem.wire import http

BOOT_MAX_STALENESS_DEFAULT_S: Final = 24 * 3600
BOOT_MAX_STALENESS_MAX_S: Final = 30 * 24 * 3600


def boot_max_staleness_s(db: apsw.Connection, org_id: int) -> int:
    """How long an org's boot reads are served without word from the leader."""
    return _staleness_s(orgs.read_settings(db, org_id))


def effective(db: apsw.Connection, org_id: int) -> http.Settings:
    """The settings in force, defaults filled in."""
    stored = orgs.read_settings(db, org_id)
    return http.Settings(
        durability=durability_setting(stored.get("durability")),
        boot_max_staleness_s=_staleness_s(stored),
        sso=read_sso(stored.get(SSO)),
        two_key=TWO_KEY in stored,
    )


def _staleness_s(stored: Mapping[str, str]) -> int:
    seconds = stored.get("boot_max_staleness_s")
    return BOOT_MAX_STALENESS_DEFAULT_S if seconds is None else int(seconds)


def durability_setting(stored: str | None) -> http.DurabilityWish:
    """The durability that a stored setting, or none, asks for."""
    return "local" if stored is None else msgspec.json.decode(stored, type=http.DurabilityWish)


def write(
    db: apsw.Connection, keys: Keys, org: OrgRow, patch: http.SettingsPatch, now_ms: int
) -> None:
    """Change the keys that the patch names; null puts one back to its default."""
    if not isinstance(patch.durability, msgspec.UnsetType):
        wish = patch.durability
        if isinstance(wish, http.ReplicatedDurability) and wish.replicated < 1:
            raise invalid("durability replicated must be at least 1")
        text = None if wish is None else msgspec.json.encode(wish).decode()
        orgs.write_setting(db, org.id, "durability", text)
    if not isinstance(patch.boot_max_staleness_s, msgspec.UnsetType):
        seconds = patch.boot_max_staleness_s
        if seconds is not None and not 0 <= seconds <= BOOT_MAX_STALENESS_MAX_S:
            raise invalid(
                f"boot_max_staleness_s is between 0 and {BOOT_MAX_STALENESS_MAX_S} seconds"
            )
        text = None if seconds is None else str(seconds)
        orgs.write_setting(db, org.id, "boot_max_staleness_s", text)
    if not isinstance(patch.sso, msgspec.UnsetType):
        write_sso(db, keys, org, patch.sso, now_ms)
    if not isinstance(patch.two_key, msgspec.UnsetType):
        if patch.two_key:
            make_once(db, keys, org, "boot", now_ms)
        orgs.write_setting(db, org.id, TWO_KEY, "true" if patch.two_key else None)
