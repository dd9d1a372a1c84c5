"""Becoming the child: `boot exec`'s last step.

Guarantees: the child replaces this process (execve), so its exit code, its death by a signal and
every signal sent to it are its own, with nothing of ours in between to forward, translate or fail;
secrets are in no process but the one that was asked for. The caller sees 128+n where a shell would
show it, because the shell makes that number. It returns only by raising.

A parent that waits would have to pass on every signal, stop and resume with the child, hand over
the terminal, and keep a copy of the secrets for as long as the child lives.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from petsem.cli import exits
from petsem.cli.child_environ import check_size, child_environ
from petsem.cli.output import note
from petsem.errors import invalid

_NOT_FOUND = frozenset({errno.ENOENT, errno.ENOTDIR})


def run_child(
    command: Sequence[str], inherited: Mapping[str, str], variables: Mapping[str, bytes]
) -> NoReturn:
    """Replace this process by `command`, found in the child's PATH."""
    arguments = [os.fsencode(each) for each in command]
    environ = child_environ(
        {os.fsencode(name): os.fsencode(value) for name, value in inherited.items()}, variables
    )
    check_size(arguments, environ, variables, os.sysconf("SC_ARG_MAX"))
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these two, and ignored signals stay ignored over execve: a child such as
    # `yes | head` would never end.
    ignored = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)
    }
    try:
        os.execvpe(arguments[0], arguments, environ)  # noqa: S606 - no shell is what we want
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise invalid("arguments and environment are larger than the system takes") from None
        raise click.exceptions.Exit(_cannot_run(error)) from None
    finally:
        # Only if it could not be run: this process goes on, and must not die of a closed pipe.
        for number, handler in ignored.items():
            signal.signal(number, handler)


def _cannot_run(error: OSError) -> int:
    if error.errno in _NOT_FOUND:
        note("petsem: the command to run was not found; check its name and PATH")
        return exits.EXEC_NOT_FOUND
    why = os.strerror(error.errno) if error.errno else "it is not usable"
    note(f"petsem: the command was found but cannot be run: {why}")
    return exits.EXEC_NOT_RUNNABLE
