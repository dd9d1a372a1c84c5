"""Waiting for the result of a flow, and collecting it.

Guarantees: one address is polled, of those that PETSEM_ADDR names (`places`), at a growing pace and
never sooner than it asks for; the poll secret goes out when the authenticator says that there is a
result, or when the browser has brought its half of it; waiting is bounded. A sign-in that a node
may have forgotten while it was away, as one is that no longer leads, is spoken of once.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Final

from petsem.cli.addresses import Nodes
from petsem.cli.loopback import Loopback
from petsem.cli.output import note
from petsem.cli.places import poll_at
from petsem.cli.run import Run
from petsem.cli.sending import Sender
from petsem.cli.third_party import Discharge, Flow, PollSecret, collect, is_ready
from petsem.errors import Code, PetsemError

_PAUSE_FIRST_S: Final = 1.0
_PAUSE_MAX_S: Final = 5.0
_RETRY_AFTER_MAX_S: Final = 60
_PASSING: Final = frozenset({Code.UNAVAILABLE, Code.LIMIT, Code.INDETERMINATE})


class Waiting:
    """One flow, until its discharge has been collected. `door` is where a browser comes back to."""

    def __init__(
        self,
        run: Run,
        nodes: Nodes,
        asked: str,
        flow: Flow,
        ticket: str,
        secret: PollSecret,
        door: Loopback | None = None,
    ) -> None:
        place = poll_at(nodes, asked, flow.poll_url)
        self._clock = run.clock
        self._nodes = replace(nodes, urls=(place.origin,))
        self._transport = run.transport
        self._path = place.path
        self._flow = flow.flow
        self._ticket = ticket
        self._secret = secret
        self._door = door
        self._release: str | None = None
        self._has_page = flow.user_url is not None
        self._was_away = False

    def end(self, wait_max_s: float) -> Discharge | None:
        """The discharge; None if there was none for so long."""
        sender = Sender(self._nodes, None, self._clock, self._transport)
        try:
            return self._end(sender, wait_max_s)
        finally:
            sender.close()

    def _end(self, sender: Sender, wait_max_s: float) -> Discharge | None:
        began_s = self._clock.boot_s()
        waited_s = 0.0
        pause_s = _PAUSE_FIRST_S
        while waited_s < wait_max_s:
            self._pause(pause_s * random.uniform(1.0, 1.2))  # noqa: S311 - no secret depends on it
            waited_s = max(waited_s + pause_s, self._clock.boot_s() - began_s)
            try:
                if (made := self._collected(sender)) is not None:
                    return made
                asked_s = sender.retry_after_s
                self._remark_on_absence()
            except PetsemError as error:
                if error.code not in _PASSING:
                    raise
                asked_s = error.detail.retry_after_s
                self._was_away |= error.code is not Code.LIMIT
            pause_s = min(pause_s * 1.5, _PAUSE_MAX_S)
            if asked_s is not None:
                pause_s = max(pause_s, min(asked_s, _RETRY_AFTER_MAX_S))
        return None

    def _remark_on_absence(self) -> None:
        """What somebody completed before is lost then, and the page, opened again, is quick."""
        if self._was_away and self._has_page:
            note("the node was away for a moment; if you have signed in, open the page again")
            self._has_page = False

    def _pause(self, seconds: float) -> None:
        if self._door is None or self._release is not None:
            time.sleep(seconds)
        else:
            self._release = self._door.wait(seconds)

    def _collected(self, sender: Sender) -> Discharge | None:
        if self._release is None and not is_ready(sender, self._path, self._flow):
            return None
        return collect(sender, self._path, self._flow, self._ticket, self._secret, self._release)
