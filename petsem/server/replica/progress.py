"""How far a snapshot has come: a bar below the log on a terminal, else lines in the log.

Guarantees: whoever watches sees percent, size and speed, at least every few seconds while pages
come; a bar is gone when its snapshot is, also one that broke off. It counts what has arrived: what
is unpacked and applied after the last page takes as long as it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from petsem.clock import Clock
from petsem.replication.image import PAGE_SIZE
from petsem.server.status_line import LINE, StatusLine

if TYPE_CHECKING:
    from rich.console import Console

log = structlog.get_logger(__name__)

EVERY_S: Final = 5.0
DRAWN_EVERY_S: Final = 0.1
_MIB: Final = 1024 * 1024


class Progress:
    """One snapshot of `pages` pages, from `first_page` on. Close it."""

    def __init__(
        self, clock: Clock, pages: int, first_page: int, *, line: StatusLine = LINE
    ) -> None:
        self._clock = clock
        self._pages = pages
        self._first_page = first_page
        self._began_s = self._said_s = clock.boot_s()
        log.info("snapshot_begins", mib=pages * PAGE_SIZE // _MIB, resumed=first_page > 1)
        console = line.console
        self._bar = None if console is None else _Bar(clock, line, console, pages, first_page)

    def reached(self, next_page: int) -> None:
        """Every page before this one is here."""
        now_s = self._clock.boot_s()
        is_last = next_page > self._pages
        if self._bar is not None:
            if is_last or now_s - self._said_s >= DRAWN_EVERY_S:
                self._said_s = now_s
                self._bar.reached(next_page, self._rate(next_page, now_s))
        elif now_s - self._said_s >= EVERY_S:
            self._said_s = now_s
            done = next_page - 1
            log.info(
                "snapshot_comes",
                percent=100 * done // self._pages,
                mib=done * PAGE_SIZE // _MIB,
                of_mib=self._pages * PAGE_SIZE // _MIB,
                mib_per_s=self._rate(next_page, now_s),
            )

    def done(self) -> None:
        """It is in place."""
        now_s = self._clock.boot_s()
        self.close()
        log.info(
            "snapshot_applied",
            mib=self._pages * PAGE_SIZE // _MIB,
            mib_per_s=self._rate(self._pages + 1, now_s),
        )

    def close(self) -> None:
        """It is over, or broke off."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _rate(self, next_page: int, now_s: float) -> int:
        seconds = max(now_s - self._began_s, 0.001)
        return round((next_page - self._first_page) * PAGE_SIZE / _MIB / seconds)


class _Bar:
    """The same on a line of a terminal. It is drawn by whoever tells it something, on no thread."""

    def __init__(
        self, clock: Clock, line: StatusLine, console: Console, pages: int, first_page: int
    ) -> None:
        from rich import progress

        self._line = line
        self._console = console
        self._bar = progress.Progress(
            "snapshot",
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TextColumn("{task.fields[mib_per_s]} MiB/s"),
            progress.TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            expand=True,
            get_time=clock.boot_s,
        )
        done = (first_page - 1) * PAGE_SIZE
        self._task = self._bar.add_task("", total=pages * PAGE_SIZE, completed=done, mib_per_s=0)
        self._draw()

    def reached(self, next_page: int, mib_per_s: int) -> None:
        done = (next_page - 1) * PAGE_SIZE
        self._bar.update(self._task, completed=done, mib_per_s=mib_per_s)
        self._draw()

    def close(self) -> None:
        self._line.show("")

    def _draw(self) -> None:
        with self._console.capture() as drawn:
            # One column less than there are: the last one would move some terminals' cursors on.
            self._console.print(self._bar.get_renderable(), width=self._console.width - 1)
        self._line.show(drawn.get().partition("\n")[0])
