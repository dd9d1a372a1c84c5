"""Becoming another program, and going on where that fails."""

from __future__ import annotations

import signal

import click
import pytest

from petsem.cli import exits
from petsem.cli.child_exec import run_child


def test_a_program_that_is_not_there_leaves_the_signals_as_they_were() -> None:
    """They are set back for a child only: this process goes on, and a closed pipe is an error to
    it, not its end."""
    before = signal.getsignal(signal.SIGPIPE)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with pytest.raises(click.exceptions.Exit) as ended:
            run_child(["there-is-no-such-program"], {"PATH": "/nonexistent"}, {})
        assert ended.value.exit_code == exits.EXEC_NOT_FOUND
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGPIPE, before)
