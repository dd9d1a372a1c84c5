"""Silent renewal: a new discharge for a sign-in, with its session and without the person.

Guarantees: the session goes only to the nodes that the person signed in at, once, under a lock
that all of this user's commands share, so that none uses it a second time; what comes back is
kept before it is used. A renewal that does not work costs nothing while the old discharge is good,
and one that answers for another person is none.

Does not ask the person anything, and cannot prolong the permission token itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from petsem.cli.addresses import Nodes
from petsem.cli.logins import Login, Logins
from petsem.cli.output import warn
from petsem.cli.run import Run
from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError, unavailable

if TYPE_CHECKING:
    from petsem.cli.third_party import Discharge

_WAIT_S: Final = 20.0
_PASSING: Final = frozenset({Code.UNAVAILABLE, Code.LIMIT, Code.INDETERMINATE})


class NotRenewed(PetsemError):  # noqa: N818 - a state, not a fault
    """The sign-in needed a renewal and got none. Not tried again within a command: the session may
    be used up by the first time."""


def kept_fresh(run: Run, login: Login) -> Login:
    """`login`, or a renewed one if its discharge is near its end. Raises if it is over and cannot
    be renewed."""
    now_ms = run.clock.unix_ms()
    if login.token_life.is_over(now_ms):
        raise _over(login)
    if not login.discharge_life.is_ending(now_ms):
        return login
    newer, problem = renew(run, login)
    if newer is not None:
        return newer
    if login.discharge_life.is_over(now_ms):
        raise _not_renewed(login, problem)
    return login


def renewed_after(run: Run, login: Login, refusal: PetsemError) -> Login:
    """A newer `login`, since a node answered `refusal` to this one; raises if there is none."""
    newer, problem = renew(run, login)
    if newer is None:
        raise _not_renewed(login, problem) from refusal
    return newer


def renew(run: Run, login: Login) -> tuple[Login | None, PetsemError | None]:
    """A newer sign-in of this one's, made now or meanwhile by another command; else None, and the
    error that stood in the way if there was one."""
    if login.session is None:
        return None, None
    logins = Logins.of_environ(run.environ)
    try:
        with logins.locked():
            kept = logins.load(login.org)
            if kept is None or kept.token_id != login.token_id or kept.session is None:
                return None, None
            if kept.discharge != login.discharge:
                return kept, None
            return _renewed(run, logins, kept), None
    except PetsemError as error:
        return None, error


def renewed_apart(run: Run, login: Login) -> Login:
    """A newer `login` that is kept nowhere, for one that another has taken the place of; raises
    NotRenewed if there is none."""
    from petsem.cli.third_party import Ended

    if login.session is None:
        raise _not_renewed(login, None)
    try:
        return discharged(run, login, _asked(run, login))
    except Ended:
        raise _not_renewed(login, None) from None
    except PetsemError as error:
        raise _not_renewed(login, error) from error


def discharged(run: Run, login: Login, made: Discharge) -> Login:
    """`login` with the discharge that was `made` for it; `denied` if that is somebody else's."""
    if made.user is not None and made.user != login.user:
        raise PetsemError(
            Code.DENIED,
            f"{made.user} has signed in, and the sign-in to {login.org} is that of {login.user}; "
            f"sign in as that person, or begin anew with: petsem login {login.org}",
        )
    return msgspec.structs.replace(
        login,
        discharge=made.discharge,
        discharge_since_ms=run.clock.unix_ms(),
        discharge_until_ms=made.until_ms,
        session=made.session,
    )


def _renewed(run: Run, logins: Logins, login: Login) -> Login | None:
    # Imported late, as everything that loads httpx.
    from petsem.cli.third_party import Ended

    try:
        newer = discharged(run, login, _asked(run, login))
    except Ended:
        # Asked again, it would only start a sign-in that nobody waits for.
        logins.save(msgspec.structs.replace(login, session=None))
        return None
    try:
        logins.save(newer)
    except PetsemError as error:
        warn(f"the renewed sign-in is good for this command only, since {error.message}")
    return newer


def _asked(run: Run, login: Login) -> Discharge:
    from petsem.cli.sending import Sender
    from petsem.cli.third_party import Flow, PollSecret, ask_with_session
    from petsem.cli.waiting import Waiting

    assert login.session is not None
    nodes = nodes_of(run, login)
    secret = PollSecret()
    sender = Sender(nodes, None, run.clock, run.transport)
    try:
        answer = ask_with_session(sender, login.ticket, secret, login.session)
        if not isinstance(answer, Flow):
            return answer
        # The provider takes its time. The session may be used up, so what it gave is waited for.
        made = Waiting(run, nodes, sender.answered_by, answer, login.ticket, secret).end(_WAIT_S)
    finally:
        sender.close()
    if made is None:
        raise unavailable("the provider did not answer in time")
    return made


def nodes_of(run: Run, login: Login) -> Nodes:
    """The nodes that `login` was made at, with the TLS files of the environment."""
    environ = {**run.environ, "PETSEM_ADDR": ",".join(login.nodes)}
    return Nodes.of_environ(environ, insecure=run.insecure)


def revoked(login: Login, refusal: PetsemError) -> PetsemError:
    """What to say when a node answered `refusal`, because the sign-in's token was revoked."""
    return PetsemError(
        refusal.code,
        f"the sign-in to {login.org} was revoked; sign in again with: petsem login {login.org}",
        refusal.detail,
    )


def _over(login: Login) -> PetsemError:
    return PetsemError(
        Code.UNAUTHENTICATED,
        f"the sign-in to {login.org} ended at {rfc3339(login.token_until_ms)}; sign in again with: "
        f"petsem login {login.org}",
    )


def _not_renewed(login: Login, problem: PetsemError | None) -> NotRenewed:
    if problem is not None and problem.code in _PASSING:
        return NotRenewed(
            Code.UNAVAILABLE,
            f"the sign-in to {login.org} has to be renewed, and no node that it was made at could "
            f"do that now; try again later, or sign in again with: petsem login {login.org}",
        )
    return NotRenewed(
        Code.UNAUTHENTICATED,
        f"the sign-in to {login.org} is over; sign in again with: petsem login {login.org}",
    )
