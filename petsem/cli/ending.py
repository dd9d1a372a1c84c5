"""The end of a sign-in's token at the nodes: it ends itself.

Guarantees: the token is sent whole, because only whole may it end itself; once, in one request, to
an address that the person signed in at, and in clear to this machine only, as every token. With it
ends all that was minted or exchanged, and every boot that was allowed, on its authority.

It forgets nothing, and does not end the person's session at the org's provider.
"""

from __future__ import annotations

from typing import Final

from petsem.cli.api import Api, connect
from petsem.cli.caller import Caller
from petsem.cli.credentials import Held
from petsem.cli.durability import settle
from petsem.cli.failure import sentence_of
from petsem.cli.logins import Login
from petsem.cli.narrowing import Scope
from petsem.cli.output import note, warn
from petsem.cli.renewal import NotRenewed, nodes_of, renewed_apart
from petsem.cli.run import Run
from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.tokens.reasons import Reason
from petsem.wire.http import Revoked

WITH_IT: Final = "is revoked, and with it any service token and boot grant that came of it"
_BEFORE: Final = "the token of the sign-in before this one"
_REVOKE: Final = ("tokens:revoke",)


class _AsItIs:
    """The token of a sign-in that is not kept any more: nothing renews it within a call."""

    def __init__(self, login: Login) -> None:
        self._text = login.text

    def token(self, _: str | None) -> str:
        return self._text

    def renew(self, error: PetsemError) -> None:
        raise error


def end(run: Run, login: Login) -> Revoked:
    """End the token of a sign-in that is kept, which is renewed for that if it has to be."""
    caller = Caller(run, Held.of_login(login))
    with connect(run, nodes=nodes_of(run, login), caller=caller) as api:
        return _end(api, login)


def end_replaced(run: Run, login: Login) -> None:
    """End the token of a sign-in that another has taken the place of; say what came of it."""
    if login.token_life.is_over(run.clock.unix_ms()):
        return
    try:
        done = _end_apart(run, login)
    except PetsemError as problem:
        if was_revoked(problem):
            return
        say = note if is_spent(login, problem) else warn
        say(f"{_BEFORE} {unrevoked(login, problem)}")
    else:
        note(f"{_BEFORE} {WITH_IT}")
        settle(done.durability, require=False)


def was_revoked(problem: PetsemError) -> bool:
    """Whether it is that somebody ended the token before, which is what was wanted."""
    return problem.detail.reason == Reason.REVOKED


def is_spent(login: Login, problem: PetsemError) -> bool:
    """Whether `problem` is that nobody has a use for the token any more but who signs in."""
    spent = isinstance(problem, NotRenewed) and problem.code is Code.UNAUTHENTICATED
    return spent and login.session is None


def unrevoked(login: Login, problem: PetsemError) -> str:
    """What to say of a token that could not be ended: why, and until when it can be used."""
    ends = rfc3339(login.token_until_ms)
    later = f"and any service token that came of it nothing after {ends}"
    if is_spent(login, problem):
        return f"was not revoked; it opens nothing any more without a new sign-in, {later}"
    renewal = isinstance(problem, NotRenewed)
    why = "the sign-in could not be renewed for that" if renewal else sentence_of(problem)
    if login.session is not None or login.until_ms == login.token_until_ms:
        return f"was not revoked: {why}; it opens nothing after {ends}"
    until = rfc3339(login.until_ms)
    return f"was not revoked: {why}; without a new sign-in it opens nothing after {until}, {later}"


def _end_apart(run: Run, login: Login) -> Revoked:
    # Imported late, as everything that loads httpx.
    from petsem.cli.sending import Sender

    if login.discharge_life.is_over(run.clock.unix_ms()):
        login = renewed_apart(run, login)
    nodes = nodes_of(run, login)
    sender = Sender(nodes, _AsItIs(login), run.clock, run.transport)
    try:
        return _end(Api(sender, nodes), login)
    finally:
        sender.close()


def _end(api: Api, login: Login) -> Revoked:
    path = f"/v1/orgs/{login.org}/tokens/{login.token_id}"
    return api.change_whole("DELETE", path, Revoked, Scope(_REVOKE, login.org))
