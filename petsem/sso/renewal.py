"""Renewal: a new discharge while nobody sits before the terminal.

Guarantees: the provider confirms each one; where it says again who the person is, it must be the
same one, and still be let in. If it takes longer than `QUIET_S`, whoever asks polls for the result,
which only the holder of his secret gets. What is under way is ended by `close`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from petsem.errors import Code, PetsemError
from petsem.sso.claims import check_person
from petsem.sso.flow import Flow
from petsem.sso.issuing import seal_session
from petsem.sso.orgs import SsoOrg
from petsem.sso.refusals import refused
from petsem.sso.results import Result, SignIn, SignIns
from petsem.sso.session import Session
from petsem.tokens.ticket import Ticket

if TYPE_CHECKING:
    from petsem.sso.provider import Provider

log = structlog.get_logger(__name__)

QUIET_S: Final = 2.0

ProviderOf = Callable[[SsoOrg], "Provider"]


class Renewals:
    """Those that are under way."""

    def __init__(self, sign_ins: SignIns, provider_of: ProviderOf) -> None:
        self._sign_ins = sign_ins
        self._provider_of = provider_of
        self._tasks: set[asyncio.Task[Result]] = set()

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def renew(
        self, org: SsoOrg, ticket: Ticket, session: Session, later: Flow | None
    ) -> Result | Flow | None:
        """The result; None if the provider does not stand by the sign-in any more; or `later`, if
        there is one, where the provider takes its time: the result will be found under it."""
        task = asyncio.create_task(self._ask(org, ticket, session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Waited for from outside: a caller who goes away must not lose a rotated refresh token.
        await asyncio.wait({task}, timeout=None if later is None else QUIET_S)
        if later is not None and not task.done():
            sign_in = self._sign_ins.begin(org.uid, later)
            task.add_done_callback(lambda ended: _keep(sign_in, ended))
            return later
        try:
            return task.result()
        except PetsemError as error:
            if error.code is not Code.DENIED:
                raise
            return None

    async def _ask(self, org: SsoOrg, ticket: Ticket, session: Session) -> Result:
        person, refresh_token = await self._provider_of(org).refresh(org, session.refresh_token)
        if person is None:
            # There is nothing that the org's groups could be held against.
            if org.groups:
                raise refused("the provider does not say again which groups the person is in")
        # A session may be from when addresses were kept as the provider spelt them.
        elif (person.subject, person.email) != (session.subject, session.email.lower()):
            raise refused("the provider answers for somebody else")
        else:
            check_person(person, org, ticket.domains)
        renewed = replace(session, refresh_token=refresh_token)
        return Result(session.email, seal_session(org, renewed), None)


def _keep(sign_in: SignIn, ended: asyncio.Task[Result]) -> None:
    sign_in.asking = False
    if ended.cancelled():
        return
    error = ended.exception()
    if error is None:
        sign_in.result = ended.result()
    elif isinstance(error, PetsemError):
        sign_in.failure = error.message
    else:
        sign_in.failure = "the renewal failed; sign in again"
        log.error("renewal_failed", error=type(error).__name__)
