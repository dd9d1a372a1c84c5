"""`petsem init`, `serve`, `check` and `operator recover`: what runs a node's own code.

Guarantees: these only read the command line; the work is the server's, which is imported when
one of them runs and not before. Where it is not installed, one sentence says what to install.
"""

from __future__ import annotations

from pathlib import Path

import click

from petsem.cli import exits
from petsem.cli.extra import server_extra
from petsem.cli.options import common, pass_run
from petsem.cli.output import Table, note, show
from petsem.cli.quiet_grpc import quiet_grpc
from petsem.cli.run import Run
from petsem.cli.usage import Command, Group

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
        from petsem.server.config_keys import Address
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
@common
@pass_run
def check_command(run: Run, directory: Path, everything: bool) -> None:
    """Check DIR: its files, the database, and a sample of the envelopes. A node may be running.

    Works on a copy and repairs nothing. Exit code 0 only if everything holds, else 8.
    """
    with server_extra():
        from petsem.server.check import check
    report = check(directory, run.environ, everything=everything, clock=run.clock)
    rows = [(each.name, each.result.value, each.message) for each in report.findings]
    told = {"ok": report.ok, "findings": report.findings}
    show(run, told, Table(("CHECK", "RESULT", "DETAIL"), rows))
    skipped = sum(each.result.value == "skipped" for each in report.findings)
    if skipped:
        note(
            f"{skipped} checks were skipped because a key is not here: what they cover is unproven"
        )
    if not report.ok:
        raise click.exceptions.Exit(exits.CORRUPT)


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
