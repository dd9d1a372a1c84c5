"""The last line of a terminal: what is under way, below the log records.

Guarantees: a record is never written into the line or the line into a record, whichever thread
writes it; nothing is left of the line when it is over; where the log goes anywhere but to a
terminal that can erase a line, nothing is written and `console` is None. It knows nothing of what
it shows.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_ERASE: Final = "\r\x1b[2K"


class StatusLine:
    """One line at most, below what is written within `above`."""

    def __init__(self) -> None:
        # Whoever writes a record may be interrupted by a warning, which is one too.
        self._lock = threading.RLock()
        self._stream: TextIO | None = None
        self._text = ""
        self.console: Console | None = None
        """What to render the line for."""

    def attach(self, stream: TextIO | None) -> None:
        """From now on the line is on `stream`, if that is a terminal; None: there is none."""
        with self._lock:
            self._stream, self._text, self.console = None, "", None
            if stream is None or not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
                return
            from rich.console import Console

            self._stream, self.console = stream, Console(file=stream)

    def show(self, text: str) -> None:
        """Let the line be `text`, which fits and ends without a line's end; empty: no line."""
        with self._lock:
            if self._stream is not None and (text or self._text):
                self._text = text
                self._write(_ERASE + text)

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Around whole lines that are written to the same terminal."""
        with self._lock:
            if not self._text:
                yield
                return
            self._write(_ERASE)
            try:
                yield
            finally:
                self._write(self._text)

    def _write(self, text: str) -> None:
        assert self._stream is not None
        # A terminal that went away is the log's to notice.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


LINE: Final = StatusLine()
"""That of this process, which has one log."""
