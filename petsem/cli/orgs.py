"""`petsem org`: tenants.

Guarantees: nothing is deleted without its name typed back. Names are checked before anything is
sent, and those that do not fit are not repeated.
"""

from __future__ import annotations

import click

from petsem.cli.api import connect
from petsem.cli.confirm import confirm_name, deletion_options, manner, now_param
from petsem.cli.narrowing import Scope
from petsem.cli.options import org_argument, pass_run, remote
from petsem.cli.org_settings import settings_command
from petsem.cli.output import Table, show
from petsem.cli.paging import rows_of
from petsem.cli.run import Run
from petsem.cli.usage import Group
from petsem.wire.http import (
    CreateOrg,
    Deleted,
    Org,
    OrgList,
)


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


org_group.add_command(settings_command)
