"""`petsem node list`, `invite`, `remove`, `promote` and `accept-loss`, and `petsem status`.

Guarantees: shows what one node knows of all of them, problems included; `--watch` goes on through
failures, since that is when it is looked at. A join token goes to stdout or into a new private file
and nowhere else, and no node is removed without its name typed back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from petsem.cli.api import Api, connect
from petsem.cli.confirm import confirm_name
from petsem.cli.failure import sentence_of
from petsem.cli.narrowing import Scope
from petsem.cli.options import pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.run import Run
from petsem.cli.streams import stdout_is_tty
from petsem.cli.usage import Command
from petsem.errors import PetsemError
from petsem.model import Position, check_node
from petsem.server.files import write_new
from petsem.wire.http import (
    NodeInvitation,
    NodeInvited,
    NodeList,
    NodeLossAccepted,
    NodePromoted,
    NodePromotion,
    NodeRemoved,
    NodeStatus,
    Status,
)

_TENTHS_BELOW_S = 10
_READ = Scope(("nodes:read",))
_ADMIN = Scope(("nodes:admin",))


def _checked(context: click.Context, _: click.Parameter, value: str) -> str | None:
    return None if context.resilient_parsing else check_node(value)


@click.command("list", cls=Command)
@remote
@pass_run
def list_command(run: Run) -> None:
    """The cluster's nodes and their addresses."""
    with connect(run) as api:
        listed = api.get("/v1/nodes", NodeList, _READ)
    rows = [
        (
            each.node,
            each.region,
            "yes" if each.voter else "no",
            each.http,
            each.grpc,
            each.peer,
            each.joined_at,
        )
        for each in listed.nodes
    ]
    columns = ("NODE", "REGION", "VOTER", "HTTP", "GRPC", "PEER", "JOINED")
    show(run, listed, Table(columns, rows))


@click.command("invite", cls=Command)
@click.option("--region", required=True, metavar="R", help="Where the new node stands.")
@click.option("--out", metavar="FILE", help="Write it to a new file of mode 0600, not to stdout.")
@remote
@pass_run
def invite_command(run: Run, region: str, out: str | None) -> None:
    """Make a join token, good once and for 15 minutes, for a new node. It is a secret."""
    with connect(run) as api:
        invited = api.change(
            "POST", "/v1/nodes/invite", NodeInvited, _ADMIN, body=NodeInvitation(region)
        )
    until = f"good until {invited.expires_at}, once"
    join = f"petsem join DIR --region {region}"
    if out is not None:
        write_new(Path(out), f"{invited.join_token}\n".encode("ascii"))
        told = {"expires_at": invited.expires_at, "file": out}
        show(run, told, line=f"the join token, {until}, is in {out}")
        note(f"bring it to the new machine and run: {join} --join-token-file FILE")
        return
    show(run, invited, line=invited.join_token)
    note(
        f"{until}; on the new machine put it into PETSEM_JOIN_TOKEN or a file that nobody else "
        f"can read, and run: {join}"
    )


@click.command("remove", cls=Command)
@click.argument("node", metavar="NODE", callback=_checked)
@click.option("--yes", metavar="NAME", help="Do not ask; name what is to be removed.")
@remote
@pass_run
def remove_command(run: Run, node: str, yes: str | None) -> None:
    """End a node's membership: the others refuse it from then on."""
    confirm_name(node, yes, f"this removes the node {node}; it can come back only by joining anew")
    with connect(run) as api:
        gone = api.change("DELETE", f"/v1/nodes/{node}", NodeRemoved, _ADMIN)
    show(run, gone, line=gone.message)


@click.command("promote", cls=Command)
@click.argument("node", metavar="NODE", callback=_checked)
@click.option(
    "--force", is_flag=True, help="Without asking the others: the old leader is gone for good."
)
@remote
@pass_run
def promote_command(run: Run, node: str, force: bool) -> None:
    """Make the replica NODE the leader. Ask NODE itself: point PETSEM_ADDR at it.

    What only the old leader had is lost to the cluster; the answer says what that may be.
    """
    with connect(run) as api:
        path = f"/v1/nodes/{node}/promote"
        done = api.change("POST", path, NodePromoted, _ADMIN, body=NodePromotion(force))
    show(run, done, line=done.message)


@click.command("accept-loss", cls=Command)
@click.argument("node", metavar="NODE", callback=_checked)
@remote
@pass_run
def accept_loss_command(run: Run, node: str) -> None:
    """Let NODE give up what only it has, as it asked to be told. Ask NODE itself.

    It saves those transactions under lost/ in its data directory, and follows the leader.
    """
    with connect(run) as api:
        done = api.change("POST", f"/v1/nodes/{node}/accept-loss", NodeLossAccepted, _ADMIN)
    show(run, done, line=done.message)


@click.command("status", cls=Command)
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.IntRange(1, 3600),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="The pause with --watch.",
)
@remote
@pass_run
def status_command(run: Run, watch: bool, interval: int) -> None:
    """Every node: region, role, epoch, position, lag, version, problems and last error."""
    with connect(run) as api:
        if not watch:
            _show(run, _status(api))
            return
        try:
            _watch(run, api, lambda: time.sleep(interval))
        except KeyboardInterrupt:
            return


def _watch(run: Run, api: Api, pause: Callable[[], None]) -> None:
    while True:
        try:
            status = _status(api)
        except PetsemError as error:
            note(f"petsem: {sentence_of(error)}")
        else:
            if stdout_is_tty() and not run.is_json:
                click.clear()
            _show(run, status)
        pause()


def _status(api: Api) -> Status:
    return api.get("/v1/status", Status, _READ)


def _show(run: Run, status: Status) -> None:
    columns = ("NODE", "REGION", "ROLE", "READY", "EPOCH", "POSITION", "LAG", "VERSION")
    rows = [_row(each) for each in status.nodes]
    problems = [f"{each.node}: {what}" for each in status.nodes for what in _problems(each)]
    show(run, status, Table(columns, rows, problems))


def _row(node: NodeStatus) -> tuple[str | None, ...]:
    """What fits a line of 80; where a node gets its data from is in the JSON."""
    return (
        node.node,
        node.region,
        node.role,
        "yes" if node.ready else "no",
        None if node.epoch is None else str(node.epoch),
        None if node.position is None else _short(node.position),
        _lag(node),
        node.version,
    )


def _short(position: str) -> str:
    """Epoch and TXID without leading zeros. Checksums are for programs."""
    at = Position.parse(position)
    return f"{at.epoch:x}-{at.txid:x}"


def _problems(node: NodeStatus) -> list[str]:
    return [*node.warnings, *([node.last_error] if node.last_error else [])]


def _lag(node: NodeStatus) -> str | None:
    """Lag in transactions and seconds; what is unknown is left out."""
    parts = []
    if node.lag_transactions is not None:
        parts.append(f"{node.lag_transactions:,} tx")
    if node.lag_ms is not None:
        seconds = node.lag_ms / 1000
        parts.append(f"{seconds:.1f} s" if seconds < _TENTHS_BELOW_S else f"{seconds:.0f} s")
    return ", ".join(parts) or None
