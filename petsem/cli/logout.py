"""`petsem logout`: the end of a sign-in, here and at the nodes.

Guarantees: a sign-in that can be read is forgotten whatever the nodes say; one that cannot be read
is left, since nothing else could end its token. The token ends as `ending` says. If it was not
revoked and could still be used, one sentence says so and until when, and the exit code is that of
what stood in the way; so does one if the sign-in could not be forgotten.
"""

from __future__ import annotations

import contextlib

import click

from petsem.cli.durability import settle
from petsem.cli.ending import WITH_IT, end, is_spent, unrevoked, was_revoked
from petsem.cli.login import org_argument
from petsem.cli.logins import Login, Logins
from petsem.cli.options import pass_run, remote
from petsem.cli.output import note, show
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.clock import rfc3339
from petsem.errors import PetsemError, invalid, not_found
from petsem.wire.http import Revoked


@click.command("logout", cls=Command)
@org_argument
@remote
@pass_run
def logout_command(run: Run, org: str | None) -> None:
    """Revoke the token of the sign-in to ORG (without ORG: the only one), and forget it.

    With it end the service tokens and boot grants that came of it.
    """
    logins = Logins.of_environ(run.environ)
    login = _loaded(logins, org or _only(logins))
    over = login.token_life.is_over(run.clock.unix_ms())
    done, problem = (None, None) if over else _ended(run, login)
    # It may have been renewed for that, or have lost its session.
    login = _newest(logins, login)
    left = _forgotten(logins, login.org)
    revoked = done is not None or (problem is not None and was_revoked(problem))
    line = f"the sign-in to {login.org} is forgotten" if left is None else None
    show(run, {"org": login.org, "revoked": revoked, "forgotten": left is None}, line=line)
    if over:
        ended = rfc3339(login.token_until_ms)
        note(f"its token ended at {ended} by this machine's clock, and was not revoked")
    elif revoked:
        note(f"its token {WITH_IT}")
    elif problem is not None:
        _say_unrevoked(login, problem, left)
    if left is not None:
        raise PetsemError(left.code, f"the sign-in is not forgotten: {left.message}")
    if done is not None:
        settle(done.durability, require=False)


def _loaded(logins: Logins, org: str) -> Login:
    try:
        login = logins.load(org)
    except PetsemError as error:
        raise PetsemError(
            error.code, f"nothing was revoked, and nothing forgotten: {error.message}"
        ) from error
    if login is None:
        raise not_found(f"nobody is signed in to {org} here")
    return login


def _ended(run: Run, login: Login) -> tuple[Revoked | None, PetsemError | None]:
    try:
        return end(run, login), None
    except PetsemError as error:
        return None, error


def _newest(logins: Logins, login: Login) -> Login:
    with contextlib.suppress(PetsemError):
        found = logins.load(login.org)
        if found is not None and found.token_id == login.token_id:
            return found
    return login


def _forgotten(logins: Logins, org: str) -> PetsemError | None:
    """Forget the sign-in; what stood in the way if that did not work."""
    try:
        with logins.locked():
            logins.forget(org)
    except PetsemError as error:
        return error
    return None


def _say_unrevoked(login: Login, problem: PetsemError, left: PetsemError | None) -> None:
    sentence = f"its token {unrevoked(login, problem)}"
    if left is not None:
        sentence += f"; and the sign-in is not forgotten: {left.message}"
    elif is_spent(login, problem):
        note(sentence)
        return
    raise PetsemError(problem.code, sentence, problem.detail)


def _only(logins: Logins) -> str:
    orgs = logins.orgs()
    if not orgs:
        raise not_found("nobody is signed in here")
    if len(orgs) > 1:
        raise invalid("there are several sign-ins; name one: petsem logout ORG (see: petsem login)")
    return orgs[0]
