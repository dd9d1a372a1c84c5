"""When a browser may be opened: where a person sits before this very machine, and only there."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping

import pytest

from petsem.cli import browsers
from petsem.cli.browsers import local_browser

SCREEN = {"DISPLAY": ":0"}
GRAPHICAL = webbrowser.BackgroundBrowser("firefox")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on Linux, with a browser installed."""
    monkeypatch.setattr(browsers, "stdout_is_tty", lambda: True)
    monkeypatch.setattr(browsers.sys, "platform", "linux")
    monkeypatch.setattr(webbrowser, "get", lambda: GRAPHICAL)


@pytest.mark.parametrize("environ", [SCREEN, {"WAYLAND_DISPLAY": "wayland-0"}])
def test_a_screen(environ: Mapping[str, str]) -> None:
    """X11 or Wayland."""
    assert local_browser(environ) is GRAPHICAL


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"DISPLAY": ""},
        {**SCREEN, "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"},
        {**SCREEN, "SSH_TTY": "/dev/pts/1"},
    ],
)
def test_the_person_is_elsewhere(environ: Mapping[str, str]) -> None:
    """Without a screen, or over SSH with one that is forwarded: a page and a code."""
    assert local_browser(environ) is None


def test_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script has no person before it."""
    monkeypatch.setattr(browsers, "stdout_is_tty", lambda: False)
    assert local_browser(SCREEN) is None


def test_a_mac_needs_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its screen is not in the environment."""
    monkeypatch.setattr(browsers.sys, "platform", "darwin")
    assert local_browser({}) is GRAPHICAL


@pytest.mark.parametrize("found", [webbrowser.GenericBrowser("w3m"), webbrowser.Elinks("elinks")])
def test_a_browser_in_the_terminal(
    found: webbrowser.BaseBrowser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold up the sign-in until it is closed."""
    monkeypatch.setattr(webbrowser, "get", lambda: found)
    assert local_browser(SCREEN) is None


def test_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is installed."""

    def none() -> webbrowser.BaseBrowser:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    assert local_browser(SCREEN) is None
