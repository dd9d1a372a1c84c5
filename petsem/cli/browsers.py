"""Whether a browser can be opened on the machine where the person sits, and opening it.

Guarantees: over SSH, without a screen, or when nobody reads the output, no browser is opened; one
that would run in the terminal is not taken for one, since it would hold up the sign-in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from petsem.cli.streams import stdout_is_tty

if TYPE_CHECKING:
    import webbrowser


def local_browser(environ: Mapping[str, str]) -> webbrowser.BaseBrowser | None:
    """The browser of the person at this machine, if there is one."""
    if environ.get("SSH_CONNECTION") or environ.get("SSH_TTY") or not stdout_is_tty():
        return None
    screen = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    if sys.platform != "darwin" and not screen:
        return None
    # Imported late: only a sign-in needs it.
    import webbrowser

    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return None
    in_terminal = isinstance(found, webbrowser.GenericBrowser | webbrowser.Elinks)
    background = isinstance(found, webbrowser.BackgroundBrowser)
    return None if in_terminal and not background else found
