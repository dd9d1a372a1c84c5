"""`petsem keyring rewrap` and `rotate-data`: long changes, a step at a time.

Guarantees: each step is a change of its own on the node, so an interrupted run loses nothing, and
the last cursor is printed with the way to go on. It ends when the node says that nothing is left;
a node that makes no progress is an error and no endless loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from petsem.cli.api import Api, connect
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, pass_run, remote
from petsem.cli.output import note, show
from petsem.cli.run import Run
from petsem.cli.streams import stderr_is_tty
from petsem.cli.usage import Command
from petsem.counted import counted
from petsem.errors import Code, PetsemError, invalid
from petsem.wire.http import KeyringProgress, KeyringStep

_BATCH = 100
_ADMIN = Scope(("nodes:admin",))
_after = click.option("--after", metavar="CURSOR", help="Go on where an interrupted run stopped.")


@click.command("rewrap", cls=Command)
@_after
@remote
@pass_run
def rewrap_command(run: Run, after: str | None) -> None:
    """Wrap every data key with the primary key of its purpose. Values are not touched."""
    _walk(run, "rewrap", KeyringStep(_BATCH, after=after))


@click.command("rotate-data", cls=Command)
@click.option("-a", "--app", metavar="ORG/APP", help="Of this app.")
@click.option("--all", "everything", is_flag=True, help="Of every app and org.")
@_after
@remote
@pass_run
def rotate_command(run: Run, app: str | None, everything: bool, after: str | None) -> None:
    """Make new data keys and seal every value again: what helps after a key has leaked."""
    if (app is None) != everything:
        raise invalid("say which data to rotate: -a ORG/APP, or --all")
    ref = None if app is None else AppRef.parse(app)
    step = KeyringStep(
        _BATCH,
        org=None if ref is None else ref.org,
        app=None if ref is None else ref.app,
        after=after,
    )
    _walk(run, "rotate-data", step)


def _walk(run: Run, verb: str, step: KeyringStep) -> None:
    done = 0
    cursor = None
    with connect(run) as api, _progress(verb) as advance:
        try:
            while True:
                progress = _step(api, verb, step)
                done += progress.done
                advance(done, progress.remaining)
                if progress.next is None:
                    break
                cursor = progress.next
                step = KeyringStep(step.limit, step.org, step.app, cursor)
        except (PetsemError, KeyboardInterrupt):
            resume = "" if cursor is None else f" with --after {cursor}"
            note(f"stopped after {counted(done, 'row')}; to go on, run the same command{resume}")
            raise
    told = {"done": done, "remaining": progress.remaining, "message": progress.message}
    show(run, told, line=f"{counted(done, 'row')} done: {progress.message}")
    if progress.remaining:
        raise PetsemError(
            Code.CONFLICT, f"left: {counted(progress.remaining, 'row')}; see the message"
        )


def _step(api: Api, verb: str, step: KeyringStep) -> KeyringProgress:
    progress = api.change("POST", f"/v1/keyring/{verb}", KeyringProgress, _ADMIN, body=step)
    if progress.done == 0 and progress.next is not None and progress.next == step.after:
        raise PetsemError(Code.INTERNAL, f"the node makes no progress: {progress.message}")
    return progress


@contextmanager
def _progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    """Something to call with (done, remaining): a bar on a terminal, nothing elsewhere."""
    if not stderr_is_tty():
        yield lambda done, remaining: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, remaining: bar.update(task, completed=done, total=done + remaining)
