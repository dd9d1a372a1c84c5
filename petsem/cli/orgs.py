"""`petsem org`: tenants and their settings.

Guarantees: nothing is deleted without its name typed back. Names are checked before anything is
sent, and those that do not fit are not repeated.
"""

from __future__ import annotations

import re
from typing import Any

import click
from msgspec import UNSET

from petsem.cli.api import connect
from petsem.cli.confirm import confirm_name, deletion_options, manner, now_param
from petsem.cli.durability import parse_durability, spell
from petsem.cli.narrowing import Scope
from petsem.cli.options import org_argument, pass_run, remote
from petsem.cli.output import Cell, Table, show
from petsem.cli.paging import rows_of
from petsem.cli.run import Run
from petsem.cli.usage import Group
from petsem.errors import invalid
from petsem.wire.http import (
    CreateOrg,
    Deleted,
    Org,
    OrgList,
    Settings,
    SettingsPatch,
)

_SETTINGS = "the settings are durability=local|replicated=K and boot_max_staleness_s=SECONDS"
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)


@click.group("org", cls=Group)
def org_group() -> None:
    """Orgs: create, list, delete, undelete, settings."""


@org_group.command("create")
@org_argument
@remote
@pass_run
def org_create(run: Run, org: str) -> None:
    """Make an org."""
    with connect(run) as api:
        made = api.change("POST", "/v1/orgs", Org, Scope(("orgs:admin",), org), body=CreateOrg(org))
    show(run, made, line=f"org {made.org} is made")


@org_group.command("list")
@remote
@pass_run
def org_list(run: Run) -> None:
    """All orgs, deleted ones that can still be brought back included."""
    with connect(run) as api:
        orgs: list[Org] = rows_of(
            api,
            "/v1/orgs",
            OrgList,
            Scope(("orgs:admin",)),
            lambda page: (page.orgs, page.next),
        )
    rows = [(each.org, each.created_at, each.deleted_at, each.purge_at) for each in orgs]
    show(run, {"orgs": orgs}, Table(("ORG", "MADE", "DELETED", "PURGE"), rows))


@org_group.command("delete")
@org_argument
@deletion_options
@remote
@pass_run
def org_delete(run: Run, org: str, now: bool, yes: str | None) -> None:
    """Delete an org with all its apps, secrets and tokens; for 7 days it can be undeleted."""
    confirm_name(org, yes, f"this deletes the org {org} and everything in it{manner(now)}")
    with connect(run) as api:
        gone = api.change(
            "DELETE", f"/v1/orgs/{org}", Deleted, Scope(("orgs:admin",), org), params=now_param(now)
        )
    show(run, gone, line=gone.message)


@org_group.command("undelete")
@org_argument
@remote
@pass_run
def org_undelete(run: Run, org: str) -> None:
    """Bring back an org that was deleted and not yet purged."""
    with connect(run) as api:
        back = api.change("POST", f"/v1/orgs/{org}/undelete", Org, Scope(("orgs:admin",), org))
    show(run, back, line=f"org {back.org} is back")


@org_group.command("settings")
@org_argument
@click.argument("pairs", metavar="[KEY=VALUE]…", nargs=-1)
@remote
@pass_run
def org_settings(run: Run, org: str, pairs: tuple[str, ...]) -> None:
    """Show an org's settings, or change some; KEY=default takes a change back."""
    patch = _settings_patch(pairs)
    scope = Scope(("orgs:admin",), org)
    path = f"/v1/orgs/{org}/settings"
    with connect(run) as api:
        if patch is None:
            settings = api.get(path, Settings, scope)
        else:
            settings = api.change("PATCH", path, Settings, scope, body=patch)
    rows: list[tuple[Cell, ...]] = [
        ("durability", spell(settings.durability)),
        ("boot_max_staleness_s", settings.boot_max_staleness_s),
    ]
    show(run, settings, Table(("SETTING", "VALUE"), rows))


def _settings_patch(pairs: tuple[str, ...]) -> SettingsPatch | None:
    if not pairs:
        return None
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in ("durability", "boot_max_staleness_s") or key in given:
            raise invalid(f"each setting is given once, as KEY=VALUE; {_SETTINGS}")
        if value == "default":
            given[key] = None
        elif key == "durability":
            given[key] = parse_durability(value)
        elif _WHOLE.fullmatch(value):
            given[key] = int(value)
        else:
            raise invalid("boot_max_staleness_s is a whole number of seconds, or 'default'")
    return SettingsPatch(
        durability=given.get("durability", UNSET),
        boot_max_staleness_s=given.get("boot_max_staleness_s", UNSET),
    )
