"""`petsem secrets set`, `import`, `unset`, `rollback` and `destroy`.

Guarantees: no value is printed, logged or taken from argv unasked; each command is one atomic
change. What a batch may hold is checked in `batch`, where values come from in `setting`.
"""

from __future__ import annotations

import click

from petsem.cli.api import Api, connect
from petsem.cli.batch import Entry, check_entries, wire_value
from petsem.cli.confirm import confirm_name
from petsem.cli.durability import durability_options, settle, where
from petsem.cli.importing import FORMATS, read_entries
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, app_option, pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.run import Run
from petsem.cli.setting import read_settings
from petsem.cli.usage import Command
from petsem.errors import invalid
from petsem.limits import VERSION_MAX
from petsem.model import check_secret_name
from petsem.wire.http import (
    Destroy,
    Destroyed,
    DurabilityWish,
    Rollback,
    SecretList,
    SecretsDiff,
    SecretsPatch,
    SecretsPatched,
)

_VERSION = click.IntRange(0, VERSION_MAX)
_if_version = click.option(
    "--if-version", type=_VERSION, metavar="N", help="Only if the app is at this version."
)


@click.command("set", cls=Command)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@app_option
@_if_version
@durability_options
@click.option("--exact", is_flag=True, help="Keep the final newline of what is piped in.")
@click.option(
    "--allow-argv",
    is_flag=True,
    help="Take NAME=VALUE although the value can be seen by others and stays in the history.",
)
@remote
@pass_run
def set_command(
    run: Run,
    names: tuple[str, ...],
    app: AppRef,
    if_version: int | None,
    durability: DurabilityWish | None,
    require: bool,
    exact: bool,
    allow_argv: bool,
) -> None:
    """Set secrets, all in one version.

    NAME asks for the value on a terminal, twice, or takes it from a pipe. NAME=- reads stdin,
    NAME=@FILE a file. From stdin exactly one final newline is dropped; a file is taken as it is.
    """
    entries = check_entries(read_settings(names, allow_argv=allow_argv, exact=exact))
    with connect(run) as api:
        patched = _patch(api, app, _patch_of(entries, (), if_version, durability))
    _show_patched(run, app, patched, require=require)


@click.command("import", cls=Command)
@click.argument("file", metavar="[FILE|-]", default="-")
@app_option
@click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="Default: by suffix, else dotenv."
)
@click.option("--prune", is_flag=True, help="Also unset every secret that the file does not name.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@_if_version
@durability_options
@remote
@pass_run
def import_command(
    run: Run,
    file: str,
    app: AppRef,
    format_name: str | None,
    prune: bool,
    dry_run: bool,
    if_version: int | None,
    durability: DurabilityWish | None,
    require: bool,
) -> None:
    """Set all the secrets of a dotenv, JSON or YAML file, in one version."""
    entries = read_entries(file, format_name)
    with connect(run) as api:
        absent: tuple[str, ...] = ()
        if prune:
            listed = _list(api, app)
            absent = _absent(listed, entries)
            # What is unset was decided from this version, so it must still be the current one.
            if_version = listed.version if if_version is None else if_version
        patch = _patch_of(entries, absent, if_version, durability)
        if dry_run:
            _show_diff(run, _diff(api, app, patch))
            return
        patched = _patch(api, app, patch)
    _show_patched(run, app, patched, require=require)


@click.command("unset", cls=Command)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@app_option
@click.option("--if-exists", is_flag=True, help="Pass over names that are not there.")
@_if_version
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
            listed = _list(api, app)
            there = {secret.name for secret in listed.secrets}
            unset = tuple(name for name in unset if name in there)
            if_version = listed.version if if_version is None else if_version
            if not unset:
                note(f"nothing to unset in {app}; it is at version {listed.version}")
                return
        patched = _patch(api, app, _patch_of((), unset, if_version, durability))
    _show_patched(run, app, patched, require=require)


@click.command("rollback", cls=Command)
@click.argument("version", metavar="VERSION", type=_VERSION)
@app_option
@_if_version
@durability_options
@remote
@pass_run
def rollback_command(
    run: Run,
    version: int,
    app: AppRef,
    if_version: int | None,
    durability: DurabilityWish | None,
    require: bool,
) -> None:
    """Make a new version with the content of an old one."""
    scope = Scope(("secrets:write",), app.org, app.app)
    with connect(run) as api:
        patched = api.change(
            "POST",
            f"{app.path}/rollback",
            SecretsPatched,
            scope,
            body=Rollback(version, if_version, durability),
        )
    _show_patched(run, app, patched, require=require)


@click.command("destroy", cls=Command)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@app_option
@click.option("--version", type=_VERSION, metavar="N", help="Only the value of this version.")
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
        str(app), yes, f"this destroys the value of {len(doomed)} secret(s) of {app}, {which}"
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
        check_secret_name(name)
    if len(set(names)) != len(names):
        raise invalid("a name is given twice")
    return names


def _patch_of(
    entries: tuple[Entry, ...],
    unset: tuple[str, ...],
    if_version: int | None,
    durability: DurabilityWish | None,
) -> SecretsPatch:
    values = {entry.name: wire_value(entry.value) for entry in entries}
    return SecretsPatch(values, list(unset), if_version, durability)


def _patch(api: Api, app: AppRef, patch: SecretsPatch) -> SecretsPatched:
    scope = Scope(("secrets:write",), app.org, app.app)
    return api.change("PATCH", f"{app.path}/secrets", SecretsPatched, scope, body=patch)


def _list(api: Api, app: AppRef) -> SecretList:
    listed = api.get(f"{app.path}/secrets", SecretList, Scope(("secrets:list",), app.org, app.app))
    if listed.filtered:
        note("this token sees only some of the app's secrets; the others are left alone")
    return listed


def _absent(listed: SecretList, entries: tuple[Entry, ...]) -> tuple[str, ...]:
    kept = {entry.name for entry in entries}
    return tuple(secret.name for secret in listed.secrets if secret.name not in kept)


def _diff(api: Api, app: AppRef, patch: SecretsPatch) -> SecretsDiff:
    # With reading allowed the answer tells equal values from changed ones; a caveat on actions
    # names both, and the token decides which it has.
    scope = Scope(("secrets:write", "secrets:read"), app.org, app.app)
    return api.ask(f"{app.path}/secrets/diff", SecretsDiff, scope, patch)


def _show_diff(run: Run, diff: SecretsDiff) -> None:
    kinds = ("added", "removed", "changed", "same", "present")
    rows = [
        (name, kind)
        for kind in kinds
        if isinstance(names := getattr(diff, kind), list)
        for name in names
    ]
    show(run, diff, Table(("NAME", "WOULD BE"), sorted(rows)), line=None)
    if not rows:
        note("nothing would change")


def _show_patched(run: Run, app: AppRef, patched: SecretsPatched, *, require: bool) -> None:
    rows = [(each.name, "set", each.digest) for each in patched.set]
    rows += [(name, "unset", "") for name in patched.unset]
    show(
        run,
        patched,
        Table(("NAME", "CHANGE", "DIGEST"), rows),
        line=f"{app} is at version {patched.version}, {where(patched.durability)}",
    )
    settle(patched.durability, require=require)
