"""Routes by which a person's token comes about. They need no token: it is the first one.

Each is guarded by what it is given: a ticket is of use to nobody who cannot sign in, a discharge
is what signing in gives.
"""

from __future__ import annotations

from typing import Final

from petsem.errors import Code
from petsem.model import check_org
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.route import Route
from petsem.wire import http

_MAX_BYTES: Final = 32 * 1024


async def _login(ask: Ask) -> http.LoginTicket:
    body = await ask.body(http.Login, most_bytes=_MAX_BYTES)
    return ask.node.login.ticket(check_org(body.org))


async def _token(ask: Ask) -> http.Minted:
    body = await ask.body(http.LoginToken, most_bytes=_MAX_BYTES)
    return await ask.node.login.mint(body, ask.call())


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/login",
        handle=_login,
        tag="signing in",
        summary="Begin to sign in",
        about="Answers with a ticket for the org's authenticator, which is asked next, at "
        "`/.well-known/petsem/3p`. Nothing is stored. An org that does not exist and one whose "
        "people do not sign in are the same.",
        body=http.Login,
        body_examples=(("an org's people", http.Login(org="acme")),),
        reply=http.LoginTicket,
        examples=(("a ticket", http.LoginTicket(ticket=examples.TICKET)),),
        fails=(Code.NOT_FOUND, Code.UNAVAILABLE, Code.CORRUPT),
    ),
    Route(
        method="POST",
        path="/v1/login/token",
        handle=_token,
        tag="signing in",
        summary="Have the token of who has signed in",
        about="The ticket, with the discharge that the authenticator gave for it. The token stands "
        "for the person whom the discharge names, for at most 12 hours, and opens nothing "
        "without a discharge. A ticket gives one token, once: only the same call with the same "
        "`Idempotency-Key` is answered with it again.",
        body=http.LoginToken,
        body_examples=(
            ("all that people may", http.LoginToken(examples.TICKET, examples.DISCHARGE)),
            (
                "less",
                http.LoginToken(examples.TICKET, examples.DISCHARGE, actions=["secrets:list"]),
            ),
        ),
        status=201,
        reply=http.Minted,
        examples=(("minted", examples.MINTED),),
        fails=(Code.NOT_FOUND, Code.UNAUTHENTICATED, Code.DENIED, Code.UNAVAILABLE, Code.CORRUPT),
        writes=True,
    ),
)
