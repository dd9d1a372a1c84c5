"""`petsem secrets set` and `import`: new values.

Guarantees: no value is printed, logged or taken from argv unasked; each command is one atomic
change. What a batch may hold is checked in `batch`, where values come from in `setting` and
`importing`.
"""

from __future__ import annotations

import click

from petsem.cli.api import Api, connect
from petsem.cli.batch import Entry, check_entries
from petsem.cli.durability import durability_options
from petsem.cli.importing import FORMATS, read_entries
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, app_option, pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.patching import (
    if_version_option,
    list_current,
    patch_of,
    send_patch,
    show_patched,
)
from petsem.cli.run import Run
from petsem.cli.setting import read_settings
from petsem.cli.usage import Command
from petsem.wire.http import DurabilityWish, SecretList, SecretsDiff, SecretsPatch


@click.command("set", cls=Command)
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@app_option
@if_version_option
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
        patched = send_patch(api, app, patch_of(entries, (), if_version, durability))
    show_patched(run, app, patched, require=require)


@click.command("import", cls=Command)
@click.argument("file", metavar="[FILE|-]", default="-")
@app_option
@click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="Default: by suffix, else dotenv."
)
@click.option("--prune", is_flag=True, help="Also unset every secret that the file does not name.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@if_version_option
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
            listed = list_current(api, app)
            absent = _absent(listed, entries)
            # What is unset was decided from this version, so it must still be the current one.
            if_version = listed.version if if_version is None else if_version
        patch = patch_of(entries, absent, if_version, durability)
        if dry_run:
            _show_diff(run, _diff(api, app, patch))
            return
        patched = send_patch(api, app, patch)
    show_patched(run, app, patched, require=require)


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
