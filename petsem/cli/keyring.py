"""`petsem keyring generate`, `list`, `promote` and `retire`.

Guarantees: a new key goes into a file of mode 0600 and is never printed or sent: KEKs do not
travel. Which key is waiting, primary or retired, the leader decides and every node learns.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from petsem.cli.api import connect
from petsem.cli.extra import server_extra
from petsem.cli.narrowing import Scope
from petsem.cli.options import common, pass_run, remote
from petsem.cli.output import Table, show, warn
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import invalid
from petsem.limits import KEYRING_MAX_BYTES
from petsem.server.files import present, read_bounded, write_atomic, write_new
from petsem.wire.http import KekInfo, KekPromotion, KekRetirement, KeyringList

_PURPOSES = ("secrets", "tokens", "cluster")
_ADMIN = Scope(("nodes:admin",))
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


def _checked_id(context: click.Context, _: click.Parameter, value: str) -> str:
    if not context.resilient_parsing and not _ID.fullmatch(value):
        raise invalid("a key's id is 64 hexadecimal digits; see: petsem keyring list")
    return value


_id_argument = click.argument("key_id", metavar="ID", callback=_checked_id)


@click.command("generate", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--purpose", type=click.Choice(_PURPOSES), required=True, help="What it will wrap.")
@common
@pass_run
def generate_command(run: Run, file: Path, purpose: str) -> None:
    """Add a new key to a keyring file, or make the file. Offline; the key itself is not shown.

    Place the file where every node that needs the key finds it, then promote the key.
    """
    with server_extra():
        from petsem.crypto.keyring import Keyring
        from petsem.crypto.keys import Purpose, generate_kek
    key = generate_kek()
    there = present(file)
    held = read_bounded(file, KEYRING_MAX_BYTES, private=True) if there else None
    keyring = Keyring() if held is None else Keyring.parse(held)
    data = keyring.with_key(Purpose(purpose), key).encode()
    if there:
        write_atomic(file, data)
    else:
        write_new(file, data)
    made = {"id": key.id.hex(), "purpose": purpose, "file": str(file)}
    show(run, made, line=f"{purpose} key {key.id.hex()} is in {file}")


@click.command("list", cls=Command)
@remote
@pass_run
def list_command(run: Run) -> None:
    """The keys that the cluster knows, by purpose, with their state and use. Never a key."""
    with connect(run) as api:
        listed = api.get("/v1/keyring", KeyringList, _ADMIN)
    rows = [
        (each.purpose, each.id, each.state, "yes" if each.held else "no", each.wraps)
        for each in listed.keys
    ]
    show(run, listed, Table(("PURPOSE", "ID", "STATE", "HELD", "WRAPS"), rows))


@click.command("promote", cls=Command)
@_id_argument
@click.option("--force", is_flag=True, help="Even if a live node does not hold the key.")
@remote
@pass_run
def promote_command(run: Run, key_id: str, force: bool) -> None:
    """Wrap with this key from now on. Then run rewrap, for what older keys wrap."""
    with connect(run) as api:
        promoted = api.change(
            "POST", f"/v1/keyring/{key_id}/promote", KekInfo, _ADMIN, body=KekPromotion(force)
        )
    show(run, promoted, line=f"{promoted.purpose} key {promoted.id} is {promoted.state}")
    if promoted.lacking:
        warn(
            "these nodes lack the key, and cannot open what is wrapped with it: "
            + ", ".join(promoted.lacking)
        )
    if promoted.unknown:
        warn(
            "these nodes are not heard, so it is not known whether they hold the key: "
            + ", ".join(promoted.unknown)
        )


@click.command("retire", cls=Command)
@_id_argument
@click.option(
    "--force",
    is_flag=True,
    help="Even if what is kept under lost/ may need it, or a node that is not heard.",
)
@remote
@pass_run
def retire_command(run: Run, key_id: str, force: bool) -> None:
    """Mark a key as needed no more; refused while anything still needs it."""
    with connect(run) as api:
        retired = api.change(
            "POST", f"/v1/keyring/{key_id}/retire", KekInfo, _ADMIN, body=KekRetirement(force)
        )
    show(run, retired, line=f"{retired.purpose} key {retired.id} is {retired.state}")
    if retired.lost:
        warn(
            "these nodes keep transactions under lost/ that may need the key; keep it with them: "
            + ", ".join(retired.lost)
        )
    if retired.unknown:
        warn(
            "these nodes are not heard and may still need the key; keep it for them until they "
            "have caught up or are removed: " + ", ".join(retired.unknown)
        )
