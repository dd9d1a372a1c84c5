"""`petsem boot env`, `exec` and `files`: an app's secrets on the machine that needs them, and
`allow`, for orgs where somebody has to ask for it first.

Guarantees: secrets come from the nearest node that has them, over gRPC, with a token narrowed to
this app and a minute; they go to stdout (never to a terminal unasked), into the environment of a
command, or into files of mode 0400, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

import click

from petsem.cli.boot_options import BootWish, fetch, fetch_options, variable_options, variables_of
from petsem.cli.child_exec import run_child
from petsem.cli.environ_text import to_dotenv, to_json, to_shell
from petsem.cli.exchange import allow_command
from petsem.cli.exits import EXEC_FAILED
from petsem.cli.options import pass_run
from petsem.cli.output import Table, show
from petsem.cli.run import Run
from petsem.cli.streams import stdout_is_tty, write_stdout
from petsem.cli.usage import Command, Group
from petsem.errors import invalid
from petsem.server.files import make_directory, write_atomic


@click.group("boot", cls=Group)
def boot_group() -> None:
    """Hand an app its secrets when it starts."""


boot_group.add_command(allow_command)


@boot_group.command("env")
@variable_options
@click.option(
    "--format",
    "format_name",
    type=click.Choice(("dotenv", "shell", "json")),
    help="Default: dotenv; -o json is --format json.",
)
@click.option("--base64", "as_base64", is_flag=True, help="In JSON, encode every value.")
@click.option("--reveal", is_flag=True, help="Print them although stdout is a terminal.")
@pass_run
def env_command(
    run: Run, wish: BootWish, format_name: str | None, as_base64: bool, reveal: bool
) -> None:
    """Print the secrets as dotenv, as shell exports, or as one flat JSON object."""
    if stdout_is_tty() and not reveal:
        raise invalid("the values would stay on the screen; pipe them somewhere, or give --reveal")
    chosen = format_name or ("json" if run.is_json else "dotenv")
    if as_base64 and chosen != "json":
        raise invalid("--base64 is for JSON; add --format json")
    secrets = fetch(run, wish)
    if chosen == "json":
        renamed = {wish.renames.get(name, name): secrets[name] for name in sorted(secrets)}
        write_stdout(to_json(renamed, as_base64=as_base64))
        return
    variables = variables_of(secrets, wish)
    write_stdout(to_shell(variables) if chosen == "shell" else to_dotenv(variables))


class _Exec(Command):
    """A command whose own failures all end in 125, since other codes are the child's."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        run = None if parent is None else parent.find_object(Run)
        if run is not None:
            run.failure_code = EXEC_FAILED
        return super().make_context(info_name, args, parent, **extra)


@boot_group.command(
    "exec",
    cls=_Exec,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
)
@variable_options
@click.argument("command", metavar="CMD [ARG]…", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_run
def exec_command(run: Run, wish: BootWish, command: tuple[str, ...]) -> None:
    """Run CMD in place of this process, with the secrets in its environment.

    CMD's exit code is the exit code, and signals reach it. It gets no PETSEM_* variable. Failures
    before CMD runs: 125; CMD cannot be run: 126; there is no CMD: 127.
    """
    run_child(command, run.environ, variables_of(fetch(run, wish), wish))


@boot_group.command("files")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@fetch_options
@pass_run
def files_command(run: Run, wish: BootWish, directory: Path) -> None:
    """Write each secret into a file of its name in DIR, mode 0400, each replaced as a whole.

    DIR is made with mode 0700. Files of other names in it are left alone.
    """
    secrets = fetch(run, wish)
    make_directory(directory)
    for name in sorted(secrets):
        write_atomic(directory / name, secrets[name], 0o400)
    rows = [(name, len(secrets[name])) for name in sorted(secrets)]
    told = {
        "app": str(wish.app),
        "version": secrets.version,
        "directory": str(directory),
        "files": [{"name": name, "bytes": size} for name, size in rows],
    }
    line = f"{wish.app} version {secrets.version} is in {directory}"
    show(run, told, Table(("FILE", "BYTES"), rows), line=line)
