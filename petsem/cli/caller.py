"""Who a command calls as: one token, chosen at the first call and kept fresh.

Guarantees: the token is chosen once a command, for the org that its first call names; a sign-in is
renewed before the call if it is near its end, and once more if a node refuses it for its age; a
word on a token that is near its end is said once, at the end. Without a sign-in nothing is ever
renewed.
"""

from __future__ import annotations

from typing import Final

from petsem.cli.ageing import remark_on_age
from petsem.cli.credentials import Held, held_token
from petsem.cli.renewal import kept_fresh, renewed_after, revoked
from petsem.cli.run import Run
from petsem.errors import PetsemError
from petsem.tokens.reasons import Reason

RENEWABLE: Final = frozenset({Reason.EXPIRED, Reason.DISCHARGE_MISSING, Reason.DISCHARGE_INVALID})
"""Refusals after which a newer discharge may be accepted."""


class Caller:
    """The token of one command's calls; `held` where the command has it already."""

    def __init__(self, run: Run, held: Held | None = None) -> None:
        self._run = run
        self._given = held
        self._used: Held | None = None

    def token(self, org: str | None) -> str:
        """The token for calls about `org`; raises if there is none, or its sign-in is over."""
        if self._used is None:
            held = self._given or held_token(self._run.environ, org)
            if held.login is not None:
                held = Held.of_login(kept_fresh(self._run, held.login))
            self._used = held
        return self._used.text

    def remark(self) -> None:
        """Say it if the token that was used is near its end: after what was asked for was done, so
        that an error stays the one sentence that it is."""
        if self._used is not None:
            remark_on_age(self._run, self._used)

    def renew(self, error: PetsemError) -> None:
        """Get a newer token after a node refused this one with `error`; raises if there is none."""
        assert self._used is not None, "a token that was refused was chosen"
        if self._used.login is None:
            raise error
        if error.detail.reason == Reason.REVOKED:
            raise revoked(self._used.login, error)
        if error.detail.reason not in RENEWABLE:
            raise error
        self._used = Held.of_login(renewed_after(self._run, self._used.login, error))
