"""How far a snapshot has come."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from petsem.clock import ManualClock
from petsem.server.replica.progress import Progress
from petsem.server.status_line import StatusLine
from tests.unit.server.test_logs import Terminal

PAGES = 65_536
"""256 MiB."""


def without(logged: list[Any], *names: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k not in (*names, "log_level")} for each in logged]


def test_lines_at_intervals() -> None:
    """Elsewhere than on a terminal: percent, MiB and MiB/s, every five seconds at most."""
    clock = ManualClock()
    with capture_logs() as logged:
        progress = Progress(clock, PAGES, 1, line=StatusLine())
        for step in range(1, 5):
            clock.advance(2.5)
            progress.reached(1 + step * 8_192)
        progress.done()
    assert without(logged) == [
        {"event": "snapshot_begins", "mib": 256, "resumed": False},
        {"event": "snapshot_comes", "percent": 25, "mib": 64, "of_mib": 256, "mib_per_s": 13},
        {"event": "snapshot_comes", "percent": 50, "mib": 128, "of_mib": 256, "mib_per_s": 13},
        {"event": "snapshot_applied", "mib": 256, "mib_per_s": 26},
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, StatusLine]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    terminal, line = Terminal(), StatusLine()
    line.attach(terminal)
    return terminal, line


def lines(terminal: Terminal) -> list[str]:
    """Every state of the line."""
    first, *found = terminal.getvalue().split("\r\x1b[2K")
    assert first == ""
    return found


def test_a_bar_on_a_terminal(drawn: tuple[Terminal, StatusLine]) -> None:
    """At once, then ten times a second at most, and whole at the last page; then it is gone. The
    log has the beginning and the end."""
    terminal, line = drawn
    clock = ManualClock()
    with capture_logs() as logged:
        progress = Progress(clock, PAGES, 1, line=line)
        for step in range(1, 65):
            clock.advance(0.0625)
            progress.reached(1 + step * 1_024)
        *bars, last = lines(terminal)
        assert len(bars) == 32
        progress.done()
    assert [each["event"] for each in logged] == ["snapshot_begins", "snapshot_applied"]
    assert bars[0].startswith("snapshot ")
    assert "  0% 0.0/256.0 MiB 0 MiB/s" in bars[0]
    assert " 50% 128.0/256.0 MiB 64 MiB/s 00:02" in bars[16]
    assert "100% 256.0/256.0 MiB 64 MiB/s" in last
    assert {len(each) for each in [*bars, last]} == {99}
    assert lines(terminal)[-1] == ""


def test_one_that_goes_on(drawn: tuple[Terminal, StatusLine]) -> None:
    """A resumed snapshot begins where it was; the speed is of what comes now."""
    terminal, line = drawn
    clock = ManualClock()
    progress = Progress(clock, PAGES, PAGES // 2 + 1, line=line)
    clock.advance(1)
    progress.reached(PAGES * 3 // 4 + 1)
    assert " 50% 128.0/256.0 MiB 0 MiB/s" in lines(terminal)[0]
    assert " 75% 192.0/256.0 MiB 64 MiB/s" in lines(terminal)[1]


def test_one_that_breaks_off(drawn: tuple[Terminal, StatusLine]) -> None:
    """Leaves nothing, also if it is closed twice."""
    terminal, line = drawn
    progress = Progress(ManualClock(), PAGES, 1, line=line)
    progress.close()
    progress.close()
    assert [each != "" for each in lines(terminal)] == [True, False]
