"""`petsem secrets list`, `get`, `history` and `diff`.

Guarantees: only `get` prints a value, and on a terminal only with `--reveal`; what goes into a
pipe is the value's bytes and nothing else.
"""

from __future__ import annotations

import base64

import click

from petsem.cli.api import Api, connect
from petsem.cli.batch import value_bytes
from petsem.cli.names import check_typed_name
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, app_option, pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.paging import rows_of
from petsem.cli.patching import STORED_VERSION, VERSION
from petsem.cli.run import Run
from petsem.cli.streams import stdout_is_tty, write_stdout
from petsem.cli.usage import Command
from petsem.errors import Code, PetsemError, invalid, not_found
from petsem.wire.http import (
    Freshness,
    SecretInfo,
    SecretList,
    SecretValues,
    VersionInfo,
    VersionList,
)

_NAMED_MAX = 6


@click.command("list", cls=Command)
@app_option
@remote
@pass_run
def list_command(run: Run, app: AppRef) -> None:
    """Names, versions, digests, and who changed what when. Never a value."""
    with connect(run) as api:
        listed = _list(api, app)
    rows = [
        (each.name, each.version, each.digest, each.updated_at, each.updated_by.subject)
        for each in listed.secrets
    ]
    show(run, listed, Table(("NAME", "VERSION", "DIGEST", "CHANGED", "BY"), rows))
    if not run.is_json:
        note(f"{app} is at version {listed.version}, as {_source(listed.freshness)} knows it")
        if listed.filtered:
            note("this token sees only some of the app's secrets")


@click.command("get", cls=Command)
@click.argument("name", metavar="NAME")
@app_option
@click.option(
    "--version", type=STORED_VERSION, metavar="N", help="As it was at this version of the app."
)
@click.option("--machine", metavar="ID", help="Read on behalf of this machine.")
@click.option("--reveal", is_flag=True, help="Print it although stdout is a terminal.")
@remote
@pass_run
def get_command(
    run: Run, name: str, app: AppRef, version: int | None, machine: str | None, reveal: bool
) -> None:
    """Print one value: its exact bytes, or with -o json text, or base64 if it is not UTF-8."""
    check_typed_name(name)
    if stdout_is_tty() and not reveal:
        raise invalid("the value would stay on the screen; pipe it somewhere, or give --reveal")
    params: dict[str, str | int] = {"names": name}
    if version is not None:
        params["version"] = version
    if machine is not None:
        params["machine"] = machine
    with connect(run) as api:
        found = api.get(
            f"{app.path}/secrets/values",
            SecretValues,
            Scope(("secrets:read",), app.org, app.app),
            params,
        )
    if name not in found.secrets:
        raise not_found(f"{app} has no secret of that name that this token may read")
    value = value_bytes(found.secrets[name])
    if run.is_json:
        show(run, {"name": name, "version": found.version, "value": _json_value(value)})
    else:
        on_screen = stdout_is_tty() and not value.endswith(b"\n")
        write_stdout(value + b"\n" if on_screen else value)


@click.command("history", cls=Command)
@app_option
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many versions, the newest first.",
)
@remote
@pass_run
def history_command(run: Run, app: AppRef, limit: int) -> None:
    """The app's versions: who changed which names when. Never a value."""
    with connect(run) as api:
        versions: list[VersionInfo] = rows_of(
            api,
            f"{app.path}/versions",
            VersionList,
            Scope(("secrets:list",), app.org, app.app),
            lambda page: (page.versions, page.next),
            most=limit,
            cursor="before",
        )
    rows = [
        (each.version, each.created_at, each.updated_by.subject, _change(each)) for each in versions
    ]
    show(run, {"versions": versions}, Table(("VERSION", "MADE", "BY", "CHANGE"), rows))


@click.command("diff", cls=Command)
@click.argument("old", metavar="V1", type=VERSION)
@click.argument("new", metavar="V2", type=VERSION)
@app_option
@remote
@pass_run
def diff_command(run: Run, old: int, new: int, app: AppRef) -> None:
    """Which names differ between two versions of the app, by digest. Never a value.

    Version 0 is the app before anything was set.
    """
    with connect(run) as api:
        before, after = (_names_at(api, app, version) for version in (old, new))
    rows = [
        (name, difference)
        for name in sorted(before.keys() | after.keys())
        if (difference := _difference(before.get(name), after.get(name))) is not None
    ]
    changes = [{"name": name, "change": change} for name, change in rows]
    show(run, {"from": old, "to": new, "changes": changes}, Table(("NAME", "CHANGE"), rows))
    if not rows:
        note(f"versions {old} and {new} hold the same")


def _names_at(api: Api, app: AppRef, version: int) -> dict[str, SecretInfo]:
    # Not asked of the node, for whom 0 is no version and so the current one.
    return {each.name: each for each in _list(api, app, version).secrets} if version else {}


def _list(api: Api, app: AppRef, version: int | None = None) -> SecretList:
    params = None if version is None else {"version": version}
    scope = Scope(("secrets:list",), app.org, app.app)
    listed = api.get(f"{app.path}/secrets", SecretList, scope, params)
    if version is not None and listed.version != version:
        # Comparing two listings of the current version would look like an answer.
        raise PetsemError(Code.INTERNAL, "the node answered for another version; is it older?")
    return listed


def _difference(before: SecretInfo | None, after: SecretInfo | None) -> str | None:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    # A value set again is a new version with the same digest: nothing that reads it changes.
    return None if before.digest == after.digest else "changed"


def _json_value(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def _change(version: VersionInfo) -> str:
    parts = []
    if version.change == "rollback":
        parts.append(f"back to {version.rolled_back_to}")
    if version.change == "destroy":
        parts.append("destroyed values")
    if version.set:
        parts.append("set " + _some(version.set))
    if version.unset:
        parts.append("unset " + _some(version.unset))
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    """The names, or the first of many: an import would fill the screen."""
    if len(names) <= _NAMED_MAX:
        return ", ".join(names)
    shown = ", ".join(names[: _NAMED_MAX - 1])
    return f"{shown} and {len(names) - _NAMED_MAX + 1:,} more"


def _source(freshness: Freshness) -> str:
    return f"{freshness.role} {freshness.node} in {freshness.region}"
