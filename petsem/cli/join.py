"""`petsem join`: this machine becomes a node of a cluster that invited it.

Guarantees: the join token comes from the environment, a private file or stdin, never from argv,
and is not repeated; what the operator has to do next is said. The work is the server's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from petsem.cli.credentials import token_in_file
from petsem.cli.extra import server_extra
from petsem.cli.options import common, pass_run
from petsem.cli.output import Table, note, show, warn
from petsem.cli.quiet_grpc import quiet_grpc
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.counted import counted
from petsem.errors import invalid

if TYPE_CHECKING:
    from petsem.server.join import Joined

_DIRECTORY = click.Path(path_type=Path)


@click.command("join", cls=Command)
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--region", required=True, metavar="R", help="The region of the join token.")
@click.option(
    "--join-token-file",
    metavar="FILE",
    help="The join token's file, - for stdin (default: PETSEM_JOIN_TOKEN).",
)
@click.option("--http", metavar="HOST:PORT", help="HTTP address (default: 127.0.0.1:7400).")
@click.option("--grpc", metavar="HOST:PORT", help="gRPC address (default: 127.0.0.1:7401).")
@click.option("--peer", metavar="HOST:PORT", help="Peer address (default: 127.0.0.1:7402).")
@click.option(
    "--leader", metavar="HOST:PORT", help="The leader's peer address (default: the token's)."
)
@click.option(
    "--keyring",
    metavar="FILE",
    type=_DIRECTORY,
    help="Where this node's keyring is or will be (default: DIR.keyring.json).",
)
@common
@pass_run
def join_command(
    run: Run,
    directory: Path,
    region: str,
    join_token_file: str | None,
    http: str | None,
    grpc: str | None,
    peer: str | None,
    leader: str | None,
    keyring: Path | None,
) -> None:
    """Make a new replica in the empty place DIR, with a token from `petsem node invite`.

    Broken off, it may be run again.
    """
    token = _join_token(run.environ, join_token_file)
    with server_extra(), quiet_grpc():
        from petsem.server.address import Address
        from petsem.server.join import join_cluster

    def address(text: str | None) -> Address | None:
        return None if text is None else Address.parse(text)

    joined = join_cluster(
        directory,
        token,
        region=region,
        http=address(http),
        grpc=address(grpc),
        peer=address(peer),
        leader=address(leader),
        keyring_file=keyring,
        environ=run.environ,
        clock=run.clock,
    )
    _tell(run, directory, joined)


def _join_token(environ: Mapping[str, str], file: str | None) -> str:
    if file is not None:
        return token_in_file(file, "--join-token-file")
    if text := environ.get("PETSEM_JOIN_TOKEN", "").strip():
        return text
    raise invalid("there is no join token; set PETSEM_JOIN_TOKEN or give --join-token-file")


def _tell(run: Run, directory: Path, joined: Joined) -> None:
    keks = [
        {"purpose": each.purpose.value, "id": each.id.hex(), "held": each.held}
        for each in joined.keks
    ]
    told = {
        "cluster": joined.cluster_id.hex(),
        "node": joined.node_id,
        "directory": str(directory),
        "upstream": str(joined.upstream),
        "keyring": joined.keyring,
        "keys": keks,
    }
    rows = [(each["purpose"], each["id"], "yes" if each["held"] else "no") for each in keks]
    show(
        run,
        told,
        Table(("PURPOSE", "KEY", "HELD"), rows),
        line=f"{joined.node_id} is a node of the cluster; the leader is at {joined.upstream}. "
        "The cluster's keys:",
    )
    missing = [each for each in joined.keks if not each.held]
    if missing:
        which = counted(len(missing), "of these keys is", "of these keys are")
        warn(
            f"{which} not in {joined.keyring}, and what it protects cannot be read here; copy "
            "what this node should hold from another node's keyring"
        )
    note(f"next: petsem serve {shlex.quote(str(directory))}")
