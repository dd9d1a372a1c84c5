"""The line below the log on a terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from petsem.server.config import LogConfig
from petsem.server.logs import configure_logging
from petsem.server.status_line import LINE, StatusLine
from tests.unit.server.test_logs import Terminal, ours, restored

__all__ = ["restored"]


def on_screen(written: str) -> list[str]:
    """The lines that a terminal shows after that."""
    lines = [""]
    for part in written.replace("\r\x1b[2K", "\0").replace("\n", "\n\1").split("\1"):
        shown = part.rpartition("\0")[2]
        lines[-1] = shown.removesuffix("\n") if "\0" in part else lines[-1] + shown.rstrip("\n")
        if part.endswith("\n"):
            lines.append("")
    return lines


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    yield Terminal()
    LINE.attach(None)


def test_records_go_above_the_line(terminal: Terminal) -> None:
    """Whole, in their order, and the line is the last; a new text replaces the old one."""
    configure_logging(LogConfig("info", "auto", 1024, 168, 64), terminal)
    ours().info("first")
    LINE.show("10 %")
    ours().info("second")
    LINE.show("20 %")
    logging.getLogger("petsem.other").warning("third")
    *lines, last = on_screen(terminal.getvalue())
    assert [("first" in a, "second" in b, "third" in c) for a, b, c in [lines]] == [(True,) * 3]
    assert last == "20 %"
    LINE.show("")
    assert on_screen(terminal.getvalue()) == [*lines, ""]


def test_the_line_comes_back_after_a_record_that_fails(terminal: Terminal) -> None:
    """Whoever writes within `above` may raise."""
    line = StatusLine()
    line.attach(terminal)
    line.show("10 %")
    with pytest.raises(ValueError, match="x"), line.above():
        raise ValueError("x")
    assert on_screen(terminal.getvalue()) == ["10 %"]


@pytest.mark.parametrize(
    ("stream", "term", "form"),
    [
        (io.StringIO(), "xterm", "auto"),
        (io.StringIO(), "xterm", "pretty"),
        (Terminal(), "xterm", "json"),
        (Terminal(), "dumb", "auto"),
        (Terminal(), None, "auto"),
    ],
)
def test_no_line_elsewhere(
    stream: io.StringIO, term: str | None, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, JSON for a machine, a terminal that cannot erase: records and nothing else."""
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    configure_logging(LogConfig("info", form, 1024, 168, 64), stream)  # type: ignore[arg-type]
    LINE.show("10 %")
    ours().info("event")
    LINE.show("")
    assert LINE.console is None
    assert "%" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_terminal_that_went_away(terminal: Terminal) -> None:
    """Is no reason for whoever makes progress to stop."""
    line = StatusLine()
    line.attach(terminal)
    terminal.close()
    line.show("10 %")
    line.show("")
