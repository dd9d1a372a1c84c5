"""The end of a run that failed: one sentence on stderr and an exit code.

Guarantees: nothing that was typed, and nothing that a foreign library said, is printed; with
`--debug` the frames and the types of the exceptions follow, but not their messages, since parsers
quote their input. A `PetsemError`'s own message is safe by definition and is printed.
"""

from __future__ import annotations

import errno
import os
import traceback

import click

from petsem.cli import exits
from petsem.cli.output import note
from petsem.cli.printable import printable
from petsem.cli.run import Run
from petsem.cli.usage import usage_sentence
from petsem.errors import PetsemError
from petsem.tokens.reasons import TokenRefused


def report(error: BaseException, run: Run) -> int:
    """Say what went wrong and return the exit code."""
    code, sentence = _describe(error)
    if sentence is not None:
        note(f"petsem: {sentence}")
    # A usage error's traceback shows click's frames only; its message holds what was typed.
    if run.debug and not isinstance(error, click.ClickException):
        _print_traceback(error)
    return code if run.failure_code is None or code == exits.INTERRUPTED else run.failure_code


def _describe(error: BaseException) -> tuple[int, str | None]:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help(), err=True)
        return exits.USAGE, None
    if isinstance(error, click.ClickException):
        return exits.USAGE, usage_sentence(error)
    if isinstance(error, TokenRefused):
        error = error.as_error()
    if isinstance(error, PetsemError):
        return exits.EXIT_CODES[error.code], sentence_of(error)
    if isinstance(error, click.Abort | KeyboardInterrupt | EOFError):
        return exits.INTERRUPTED, "interrupted"
    if isinstance(error, OSError) and error.errno is not None:
        # A broken pipe is the reader's way to say that it has seen enough.
        if error.errno == errno.EPIPE:
            return exits.INTERNAL, None
        return exits.INTERNAL, f"the system refused: {os.strerror(error.errno)}"
    return exits.INTERNAL, (
        "internal error; run it again with --debug and report what is printed (no values are)"
    )


def sentence_of(error: PetsemError) -> str:
    """The error for people: its message, and the caveat that failed if there was one."""
    if error.detail.caveat is not None and error.detail.caveat not in error.message:
        return f"{error.message} (caveat: {error.detail.caveat})"
    return error.message


def _print_traceback(error: BaseException) -> None:
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    for each in reversed(chain):
        click.echo("".join(traceback.format_tb(each.__traceback__)), err=True, nl=False)
        kind = f"{type(each).__module__}.{type(each).__qualname__}"
        said = f": {printable(each.message)}" if isinstance(each, PetsemError) else ""
        click.echo(f"{kind}{said}", err=True)
