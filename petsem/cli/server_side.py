"""`petsem init`, `serve`, `check` and `operator recover`: what runs a node's own code.

Guarantees: these only read the command line; the work is the server's, which is imported when
one of them runs and not before. Where it is not installed, one sentence says what to install.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from petsem.cli import exits
from petsem.cli.extra import server_extra
from petsem.cli.options import common, pass_run
from petsem.cli.output import Table, note, show
from petsem.cli.quiet_grpc import quiet_grpc
from petsem.cli.run import Run
from petsem.cli.usage import Command, Group
from petsem.counted import counted

if TYPE_CHECKING:
    from petsem.server.findings import Report

_DIRECTORY = click.Path(path_type=Path)


@click.command("init", cls=Command)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--region", required=True, metavar="R", help="Where this node stands, such as ams.")
@click.option("--http", metavar="HOST:PORT", help="HTTP address (default: 127.0.0.1:7400).")
@click.option("--grpc", metavar="HOST:PORT", help="gRPC address (default: 127.0.0.1:7401).")
@click.option("--peer", metavar="HOST:PORT", help="Peer address (default: 127.0.0.1:7402).")
@click.option(
    "--keyring",
    metavar="FILE",
    type=_DIRECTORY,
    help="Where to put the new keyring (default: DIR.keyring.json).",
)
@click.option(
    "--operator-token",
    metavar="FILE",
    type=_DIRECTORY,
    help="Where to put the first operator token (default: DIR.operator.token).",
)
@common
@pass_run
def init_command(
    run: Run,
    directory: Path,
    region: str,
    http: str | None,
    grpc: str | None,
    peer: str | None,
    keyring: Path | None,
    operator_token: Path | None,
) -> None:
    """Make a new cluster of one node in the empty place DIR."""
    with server_extra():
        from petsem.server.address import Address
        from petsem.server.init import init_cluster

    made = init_cluster(
        directory,
        region=region,
        http=None if http is None else Address.parse(http),
        grpc=None if grpc is None else Address.parse(grpc),
        peer=None if peer is None else Address.parse(peer),
        keyring_file=keyring,
        operator_token_file=operator_token,
        clock=run.clock,
    )
    told = {
        "cluster": made.cluster_id.hex(),
        "node": made.node_id,
        "directory": str(directory),
        "keyring": str(made.keyring_file),
        "operator_token": str(made.operator_token_file),
    }
    rows = [(key.replace("_", " "), value) for key, value in told.items()]
    show(
        run,
        told,
        Table(("MADE", "WHAT"), rows),
        line="A new cluster is ready. Keep a copy of the keyring elsewhere: without it nothing can "
        "be read. The operator token is good for 24 hours.",
    )


@click.command("serve", cls=Command)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option(
    "--insecure", is_flag=True, help="Serve in clear to other machines too; says so in the log."
)
@common
@pass_run
def serve_command(run: Run, directory: Path, insecure: bool) -> None:
    """Run the node in DIR in the foreground; SIGTERM drains and stops it."""
    with server_extra(), quiet_grpc():
        from petsem.server.main import serve
    raise click.exceptions.Exit(serve(directory, insecure=insecure, environ=run.environ))


@click.command("check", cls=Command)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--all", "everything", is_flag=True, help="Every envelope, not only a sample.")
@click.option(
    "--allow-missing-keys",
    is_flag=True,
    help="For a node that is not to hold every key: exit code 0 if all that can be opened holds.",
)
@common
@pass_run
def check_command(run: Run, directory: Path, everything: bool, allow_missing_keys: bool) -> None:
    """Check DIR: its files, the database, and a sample of the envelopes. A node may be running.

    Works on a copy and repairs nothing. A replica is compared with its leader, if that can be
    reached. Exit code 0 only if everything holds, 8 if something does not, 6 if records could
    not be opened because the keyring lacks their key.
    """
    with server_extra(), quiet_grpc():
        from petsem.server.check import check
        from petsem.server.check_leader import ask_members
    report = check(directory, run.environ, everything=everything, ask=ask_members, clock=run.clock)
    rows = [(each.name, each.result.value, each.message) for each in report.findings]
    code = _check_code(report, allow_missing_keys=allow_missing_keys)
    told = {"ok": code == 0, "keys_missing": report.lacks_keys, "findings": report.findings}
    show(run, told, Table(("CHECK", "RESULT", "DETAIL"), rows), line=_verdict(report))
    skipped = sum(each.result.value == "skipped" for each in report.findings)
    if skipped:
        were = counted(skipped, "check was", "checks were")
        note(f"{were} skipped: what that leaves out is unproven")
    if code:
        raise click.exceptions.Exit(code)


def _check_code(report: Report, *, allow_missing_keys: bool) -> int:
    if not report.ok:
        return exits.CORRUPT
    return exits.UNSEEN if report.lacks_keys and not allow_missing_keys else 0


def _verdict(report: Report) -> str:
    """The report in one sentence."""
    found = "everything that was looked at holds" if report.ok else "something does not hold"
    if not report.lacks_keys:
        return found
    return (
        f"{found}; but keys are missing, so not everything could be looked at: put the keys that "
        "are named below into the keyring, or check where they are"
    )


@click.group("operator", cls=Group)
def operator_group() -> None:
    """What an operator does on the node's own machine."""


@operator_group.command("recover")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option(
    "--operator-token",
    metavar="FILE",
    type=_DIRECTORY,
    help="A new file for the token (default: DIR.operator.token, replaced).",
)
@common
@pass_run
def recover_command(run: Run, directory: Path, operator_token: Path | None) -> None:
    """Make a new operator token with the cluster key. Offline: the node must be stopped."""
    with server_extra():
        from petsem.server.recover import recover
    path = recover(directory, run.environ, operator_token, clock=run.clock)
    told = {"operator_token": str(path)}
    show(run, told, line=f"a new operator token, good for 24 hours, is in {path}")
