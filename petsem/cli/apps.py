"""`petsem app`: apps of an org.

Guarantees: nothing is deleted without its name typed back. Names are checked before anything is
sent, and those that do not fit are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from petsem.cli.api import connect
from petsem.cli.confirm import confirm_name, deletion_options, manner, now_param
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, org_argument, pass_run, remote
from petsem.cli.output import Table, show
from petsem.cli.paging import rows_of
from petsem.cli.run import Run
from petsem.cli.usage import Group
from petsem.wire.http import App, AppList, CreateApp, Deleted

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _app_argument(command: Decorated) -> Decorated:
    return click.argument("app", metavar="ORG/APP", callback=_parsed)(command)


def _parsed(context: click.Context, _: click.Parameter, value: str) -> AppRef | None:
    return None if context.resilient_parsing else AppRef.parse(value)


@click.group("app", cls=Group)
def app_group() -> None:
    """Apps of an org: create, list, delete, undelete."""


@app_group.command("create")
@_app_argument
@remote
@pass_run
def app_create(run: Run, app: AppRef) -> None:
    """Make an app in an org."""
    with connect(run) as api:
        made = api.change(
            "POST",
            f"/v1/orgs/{app.org}/apps",
            App,
            Scope(("apps:admin",), app.org, app.app),
            body=CreateApp(app.app),
        )
    show(run, made, line=f"app {app} is made")


@app_group.command("list")
@org_argument
@remote
@pass_run
def app_list(run: Run, org: str) -> None:
    """The apps of an org, deleted ones that can still be brought back included."""
    with connect(run) as api:
        apps: list[App] = rows_of(
            api,
            f"/v1/orgs/{org}/apps",
            AppList,
            Scope(("secrets:list",), org),
            lambda page: (page.apps, page.next),
        )
    rows = [
        (f"{org}/{each.app}", each.version, each.created_at, each.deleted_at, each.purge_at)
        for each in apps
    ]
    show(run, {"apps": apps}, Table(("APP", "VERSION", "MADE", "DELETED", "PURGE"), rows))


@app_group.command("delete")
@_app_argument
@deletion_options
@remote
@pass_run
def app_delete(run: Run, app: AppRef, now: bool, yes: str | None) -> None:
    """Delete an app with all its secrets; for 7 days it can be undeleted."""
    confirm_name(str(app), yes, f"this deletes the app {app} and its secrets{manner(now)}")
    # Purging at once is an operator's right, on top of the app admin's to delete.
    actions = ("apps:admin", "orgs:admin") if now else ("apps:admin",)
    with connect(run) as api:
        gone = api.change(
            "DELETE", app.path, Deleted, Scope(actions, app.org, app.app), params=now_param(now)
        )
    show(run, gone, line=gone.message)


@app_group.command("undelete")
@_app_argument
@remote
@pass_run
def app_undelete(run: Run, app: AppRef) -> None:
    """Bring back an app that was deleted and not yet purged."""
    with connect(run) as api:
        back = api.change(
            "POST", f"{app.path}/undelete", App, Scope(("apps:admin",), app.org, app.app)
        )
    show(run, back, line=f"app {app} is back, at version {back.version}")
