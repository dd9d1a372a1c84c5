"""`petsem logout`: the end of a sign-in, here and at the nodes.

Guarantees: the sign-in is forgotten whatever the nodes say. Its token is sent whole, because only
whole may a token end itself; once, in one request, to an address that the person signed in at, and
in clear to this machine only, as every token. If it was not revoked and could still be used, one
sentence says so and until when, and the exit code is that of what stood in the way.

It does not end the person's session at the org's provider.
"""

from __future__ import annotations

from typing import Final

import click

from petsem.cli.api import connect
from petsem.cli.caller import Caller
from petsem.cli.credentials import Held
from petsem.cli.durability import settle
from petsem.cli.failure import sentence_of
from petsem.cli.login import org_argument
from petsem.cli.logins import Login, Logins
from petsem.cli.narrowing import Scope
from petsem.cli.options import pass_run, remote
from petsem.cli.output import note, show
from petsem.cli.renewal import NotRenewed, nodes_of
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError, invalid, not_found
from petsem.tokens.reasons import Reason
from petsem.wire.http import Revoked

_REVOKE: Final = "tokens:revoke"


@click.command("logout", cls=Command)
@org_argument
@remote
@pass_run
def logout_command(run: Run, org: str | None) -> None:
    """Revoke the token of the sign-in to ORG (without ORG: the only one), and forget it."""
    logins = Logins.of_environ(run.environ)
    org = org or _only(logins)
    if org not in logins.orgs():
        raise not_found(f"nobody is signed in to {org} here")
    login, done, problem = None, None, None
    try:
        login = logins.load(org)
        if login is not None and not login.token_life.is_over(run.clock.unix_ms()):
            done = _revoke(run, login)
            # It may have been renewed for that.
            login = logins.load(org) or login
    except PetsemError as error:
        problem = error
    with logins.locked():
        logins.forget(org)
    # Whoever ended it before did what was wanted.
    revoked = done is not None or (problem is not None and problem.detail.reason == Reason.REVOKED)
    show(run, {"org": org, "revoked": revoked}, line=f"the sign-in to {org} is forgotten")
    if revoked:
        note("its token is revoked")
    elif problem is not None:
        _say_unrevoked(login, problem)
    if done is not None:
        settle(done.durability, require=False)


def _revoke(run: Run, login: Login) -> Revoked:
    caller = Caller(run, Held.of_login(login))
    with connect(run, nodes=nodes_of(run, login), caller=caller) as api:
        path = f"/v1/orgs/{login.org}/tokens/{login.token_id}"
        return api.change_whole("DELETE", path, Revoked, Scope((_REVOKE,), login.org))


def _say_unrevoked(login: Login | None, problem: PetsemError) -> None:
    why = sentence_of(problem)
    if isinstance(problem, NotRenewed):
        if problem.code is Code.UNAUTHENTICATED:
            note("its token was not revoked, and opens nothing any more without a new sign-in")
            return
        why = "no node that you signed in at could renew the sign-in for that"
    sentence = f"its token was not revoked: {why}"
    if login is not None:
        until = rfc3339(login.until_ms)
        sentence += f"; without a new sign-in it opens nothing after {until}"
    raise PetsemError(problem.code, sentence, problem.detail)


def _only(logins: Logins) -> str:
    orgs = logins.orgs()
    if not orgs:
        raise not_found("nobody is signed in here")
    if len(orgs) > 1:
        raise invalid("there are several sign-ins; name one: petsem logout ORG (see: petsem login)")
    return orgs[0]
