"""The command line's entry point: all commands, one way in and one way out.

Guarantees: only this module hands the process's argv and environment on; every failure leaves as
one sentence on stderr and a documented exit code, whichever command it came from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import petsem
from petsem.cli import (
    apps,
    boot,
    completion,
    exchange,
    join,
    keyring,
    log_commands,
    login,
    logout,
    nodes,
    orgs,
    rotation,
    secrets_change,
    secrets_read,
    secrets_set,
    server_side,
    tokens,
    tokens_discharge,
    tokens_offline,
    tokens_revoke,
    tokens_verify,
)
from petsem.cli.failure import report
from petsem.cli.options import common
from petsem.cli.run import Run
from petsem.cli.usage import Group


class Root(Group):
    """The top group, with our way out instead of click's."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line `args` (default: the process's) and exit with its code."""
        run = extra.setdefault("obj", Run.of_process())
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name or "petsem", **extra)
            sys.stdout.flush()
        except Exception as error:
            code = report(error, run)
        _settle_streams()
        # Commands return None; only an `Exit` leaves a number.
        sys.exit(code if isinstance(code, int) else 0)


def _settle_streams() -> None:
    """Give up on a closed pipe now: at exit, the interpreter would complain about it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            stream.close()


@click.group("petsem", cls=Root)
@click.version_option(petsem.__version__, prog_name="petsem", message="%(prog)s %(version)s")
@common
def cli() -> None:
    """Secrets and tokens for machines in many regions.

    The nodes are named by PETSEM_ADDR (HTTP) and PETSEM_GRPC, the token by PETSEM_TOKEN_FILE,
    PETSEM_TOKEN or a sign-in (petsem login), the app by PETSEM_APP, and TLS files by PETSEM_CA,
    PETSEM_CERT and PETSEM_KEY.
    """


def _group(name: str, about: str, *commands: click.Command) -> Group:
    return Group(name, commands=list(commands), help=about)


for _command in (
    orgs.org_group,
    apps.app_group,
    _group(
        "secrets",
        "Set, list, read and undo an app's secrets.",
        secrets_set.set_command,
        secrets_set.import_command,
        secrets_change.unset_command,
        secrets_change.rollback_command,
        secrets_change.destroy_command,
        secrets_read.list_command,
        secrets_read.get_command,
        secrets_read.history_command,
        secrets_read.diff_command,
    ),
    boot.boot_group,
    login.login_command,
    logout.logout_command,
    _group(
        "token",
        "Mint, narrow, check and revoke tokens.",
        tokens.create_command,
        exchange.exchange_command,
        tokens.list_command,
        tokens_revoke.revoke_command,
        tokens.rotate_key_command,
        tokens_offline.attenuate_command,
        tokens_offline.inspect_command,
        tokens_verify.verify_command,
        tokens_verify.can_command,
        tokens_discharge.discharge_command,
    ),
    _group(
        "keyring",
        "The keys that wrap data keys: make, promote, retire, rotate.",
        keyring.generate_command,
        keyring.list_command,
        keyring.promote_command,
        keyring.retire_command,
        rotation.rewrap_command,
        rotation.rotate_command,
    ),
    _group(
        "node",
        "The cluster's nodes: list, invite, remove, promote, accept-loss.",
        nodes.list_command,
        nodes.invite_command,
        nodes.remove_command,
        nodes.promote_command,
        nodes.accept_loss_command,
    ),
    nodes.status_command,
    server_side.init_command,
    join.join_command,
    server_side.serve_command,
    server_side.check_command,
    log_commands.log_group,
    server_side.operator_group,
    completion.completion_command,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """The `petsem` program."""
    cli.main()
