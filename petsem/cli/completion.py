"""`petsem completion`: the script that makes a shell complete our command lines.

Guarantees: prints click's own script and changes nothing; completing asks no node and reads no
token, so pressing Tab never touches the network.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from petsem.cli.options import common, pass_run
from petsem.cli.output import show
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import Code, PetsemError

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_PETSEM_COMPLETE"


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(_SHELLS))
@common
@pass_run
def completion_command(run: Run, shell: str) -> None:
    """Print the completion script of a shell; load it with: eval "$(petsem completion bash)"."""
    script_class = get_completion_class(shell)
    if script_class is None:
        raise PetsemError(Code.INTERNAL, "this version of click has no script for that shell")
    root = click.get_current_context().find_root().command
    # ShellComplete.source, past BashComplete's: that one starts a bash to look at its version.
    complete = script_class(root, {}, "petsem", _VARIABLE)
    script = complete.source_template % complete.source_vars()
    show(run, {"shell": shell, "script": script}, line=None)
    if not run.is_json:
        click.echo(script)
