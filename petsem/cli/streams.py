"""The process's own streams as bytes, and whether a person is at the other end.

Guarantees: a read is bounded; bytes go through as they are. It looks the streams up at each call,
so that whoever replaces them (a test) is heard.
"""

from __future__ import annotations

import sys
from typing import Any

from petsem.errors import invalid


def read_stdin(max_bytes: int) -> bytes:
    """At most `max_bytes` of stdin. `invalid` if there is none."""
    if sys.stdin is None:
        raise invalid("stdin is closed; pipe something in, or name a file")
    return sys.stdin.buffer.read(max_bytes)


def write_stdout(data: bytes) -> None:
    """Put exactly `data` on stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def stdin_is_tty() -> bool:
    """Whether somebody can be asked."""
    return _is_tty(sys.stdin)


def stdout_is_tty() -> bool:
    """Whether what is printed would be seen, and kept in a terminal's scrollback."""
    return _is_tty(sys.stdout)


def stderr_is_tty() -> bool:
    """Whether a progress bar has a reader."""
    return _is_tty(sys.stderr)


def _is_tty(stream: Any) -> bool:
    return stream is not None and not stream.closed and bool(stream.isatty())
