"""A discharge for a person: asking, sending the person to a page, waiting.

Guarantees: the poll secret is drawn here, for this one flow; with a browser on this machine the
person comes back here, and without one types a code that only this terminal shows, so that a link
sent to somebody else discharges nothing for the sender. Waiting ends after ten minutes. What is
shown on stderr could not collect the discharge.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from petsem.cli.addresses import Nodes
from petsem.cli.loopback import Loopback
from petsem.cli.output import note
from petsem.cli.places import page_at
from petsem.cli.run import Run
from petsem.cli.sending import Sender
from petsem.cli.third_party import Discharge, PollSecret, ask
from petsem.cli.waiting import Waiting
from petsem.errors import Code, PetsemError

if TYPE_CHECKING:
    import webbrowser

WAIT_MAX_S: Final = 600.0


def sign_in(
    run: Run, nodes: Nodes, ticket: str, browser: webbrowser.BaseBrowser | None
) -> Discharge:
    """The discharge of `ticket`, for the person who signs in; in `browser` if there is one."""
    secret = PollSecret()
    with contextlib.ExitStack() as stack:
        door = None if browser is None else stack.enter_context(Loopback())
        sender = Sender(nodes, None, run.clock, run.transport)
        stack.callback(sender.close)
        answer = ask(sender, ticket, secret, redirect_port=None if door is None else door.port)
        if isinstance(answer, Discharge):
            return answer
        asked = sender.answered_by
        waiting = Waiting(run, nodes, asked, answer, ticket, secret, door)
        if answer.user_url is not None:
            _send_person(page_at(nodes, asked, answer.user_url), answer.code, browser)
        made = waiting.end(WAIT_MAX_S)
    if made is None:
        hint = "" if browser is None else ", with --no-browser if the browser is elsewhere"
        raise PetsemError(
            Code.UNAUTHENTICATED,
            f"nobody signed in for {WAIT_MAX_S / 60:.0f} minutes; begin again{hint}",
        )
    return made


def _send_person(page: str, code: str | None, browser: webbrowser.BaseBrowser | None) -> None:
    if browser is None:
        note("open this page in a browser, and sign in there:")
    elif browser.open(page):
        note("sign in with the browser that has opened; if none has, open this page in one here:")
    else:
        note("open this page in a browser on this machine, and sign in there:")
    note(page)
    if code is not None:
        note(f"the page asks for a code, which is {code}")
