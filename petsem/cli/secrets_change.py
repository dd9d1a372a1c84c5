"""`petsem secrets unset`, `rollback` and `destroy`: what takes values away or brings them back.

Guarantees: each command is one atomic change; only `destroy` is final. It asks first, and so does
the `rollback` that leaves nothing set.
"""

from __future__ import annotations

import click

from petsem.cli.api import connect
from petsem.cli.confirm import confirm_name
from petsem.cli.durability import durability_options
from petsem.cli.names import check_typed_name
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, app_option, pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.patching import (
    STORED_VERSION,
    VERSION,
    if_version_option,
    list_current,
    patch_of,
    send_patch,
    show_patched,
)
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.counted import counted
from petsem.errors import invalid
from petsem.wire.http import Destroy, Destroyed, DurabilityWish, Rollback, SecretsPatched


@click.command("unset", cls=Command)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@app_option
@click.option("--if-exists", is_flag=True, help="Pass over names that are not there.")
@if_version_option
@durability_options
@remote
@pass_run
def unset_command(
    run: Run,
    names: tuple[str, ...],
    app: AppRef,
    if_exists: bool,
    if_version: int | None,
    durability: DurabilityWish | None,
    require: bool,
) -> None:
    """Unset secrets, all in one version. History keeps them: rollback brings them back."""
    unset = _checked_names(names)
    with connect(run) as api:
        if if_exists:
            listed = list_current(api, app)
            there = {secret.name for secret in listed.secrets}
            unset = tuple(name for name in unset if name in there)
            if_version = listed.version if if_version is None else if_version
            if not unset:
                note(f"nothing to unset in {app}; it is at version {listed.version}")
                return
        patched = send_patch(api, app, patch_of((), unset, if_version, durability))
    show_patched(run, app, patched, require=require)


@click.command("rollback", cls=Command)
@click.argument("version", metavar="VERSION", type=VERSION)
@app_option
@click.option("--yes", metavar="ORG/APP", help="To version 0: do not ask; name the app.")
@if_version_option
@durability_options
@remote
@pass_run
def rollback_command(
    run: Run,
    version: int,
    app: AppRef,
    yes: str | None,
    if_version: int | None,
    durability: DurabilityWish | None,
    require: bool,
) -> None:
    """Make a new version with the content of an old one. That of 0 is nothing, so it asks first."""
    if version == 0:
        confirm_name(
            str(app),
            yes,
            f"this unsets every secret of {app}; history keeps them, and a rollback"
            f" to the version before brings them back",
        )
    scope = Scope(("secrets:write",), app.org, app.app)
    with connect(run) as api:
        patched = api.change(
            "POST",
            f"{app.path}/rollback",
            SecretsPatched,
            scope,
            body=Rollback(version, if_version, durability),
        )
    show_patched(run, app, patched, require=require)


@click.command("destroy", cls=Command)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@app_option
@click.option("--version", type=STORED_VERSION, metavar="N", help="Only the value of this version.")
@click.option("--yes", metavar="ORG/APP", help="Do not ask; name the app.")
@remote
@pass_run
def destroy_command(
    run: Run, names: tuple[str, ...], app: AppRef, version: int | None, yes: str | None
) -> None:
    """Remove values from the database at once, out of history too. Nothing brings them back."""
    doomed = _checked_names(names)
    which = "every version of it" if version is None else f"as of version {version}"
    confirm_name(
        str(app),
        yes,
        f"this destroys the value of {counted(len(doomed), 'secret')} of {app}, {which}",
    )
    scope = Scope(("secrets:delete",), app.org, app.app)
    with connect(run) as api:
        gone = api.change(
            "POST",
            f"{app.path}/secrets/destroy",
            Destroyed,
            scope,
            body=Destroy(list(doomed), version),
        )
    rows = [(each.name, ", ".join(map(str, each.versions))) for each in gone.destroyed]
    show(run, gone, Table(("NAME", "VERSIONS DESTROYED"), rows), line=gone.message)


def _checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_typed_name(name)
    if len(set(names)) != len(names):
        raise invalid("a name is given twice")
    return names
