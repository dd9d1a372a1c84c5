"""A batch on its way: what the commands that change an app's secrets share.

Guarantees: one batch is one PATCH, and what came of it is printed the same way by all of them:
names, digests, the app's new version, and which disks hold it. Never a value.
"""

from __future__ import annotations

import click

from petsem.cli.api import Api
from petsem.cli.batch import Entry, wire_value
from petsem.cli.durability import settle, where
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef
from petsem.cli.output import Table, note, show
from petsem.cli.run import Run
from petsem.limits import VERSION_MAX
from petsem.wire.http import DurabilityWish, SecretList, SecretsPatch, SecretsPatched

VERSION = click.IntRange(0, VERSION_MAX)
"""Where an app was, or should be; at 0 it is new and empty."""
STORED_VERSION = click.IntRange(1, VERSION_MAX)
"""A version in which something may be stored."""
if_version_option = click.option(
    "--if-version", type=VERSION, metavar="N", help="Only if the app is at this version."
)


def patch_of(
    entries: tuple[Entry, ...],
    unset: tuple[str, ...],
    if_version: int | None,
    durability: DurabilityWish | None,
) -> SecretsPatch:
    """The body of a batch that sets `entries` and takes `unset` away."""
    values = {entry.name: wire_value(entry.value) for entry in entries}
    return SecretsPatch(values, list(unset), if_version, durability)


def send_patch(api: Api, app: AppRef, patch: SecretsPatch) -> SecretsPatched:
    """Apply a batch."""
    scope = Scope(("secrets:write",), app.org, app.app)
    return api.change("PATCH", f"{app.path}/secrets", SecretsPatched, scope, body=patch)


def list_current(api: Api, app: AppRef) -> SecretList:
    """The app's current names and version; says so if the token hides some."""
    listed = api.get(f"{app.path}/secrets", SecretList, Scope(("secrets:list",), app.org, app.app))
    if listed.filtered:
        note("this token sees only some of the app's secrets; the others are left alone")
    return listed


def show_patched(run: Run, app: AppRef, patched: SecretsPatched, *, require: bool) -> None:
    """Print what a batch did, and end with 6 if its durability was required and not reached."""
    rows = [(each.name, "set", each.digest) for each in patched.set]
    rows += [(name, "unset", "") for name in patched.unset]
    show(
        run,
        patched,
        Table(("NAME", "CHANGE", "DIGEST"), rows),
        line=f"{app} is at version {patched.version}, {where(patched.durability)}",
    )
    settle(patched.durability, require=require)
