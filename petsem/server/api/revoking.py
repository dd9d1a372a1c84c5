"""The route that revokes many tokens at once."""

from __future__ import annotations

from typing import Final

from petsem.errors import Code
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.route import Route
from petsem.server.api.tenants import ORG
from petsem.server.principal import Names
from petsem.wire import http


async def _revoke(ask: Ask) -> http.RevokedMany:
    org = ask.org
    principal = ask.authorize(Names(org))
    body = await ask.body(http.RevokeMany)
    return await ask.node.revoking.revoke(principal, ask.call(), org, body)


ROUTES: Final = (
    Route(
        method="POST",
        path=ORG + "/revocations",
        handle=_revoke,
        tag="tokens",
        summary="Revoke all tokens of a person, an app or the org",
        about="Ends each token of the org that was issued before, and all that was attenuated from "
        "it or minted on its authority: with `subject`, those of a person or another holder; with "
        "`app`, those that may act for that app by an `app` caveat, also beside others; with "
        "`all`, every one, that of whoever asks, too. Tokens of the cluster key stay. Ending what "
        "has ended already is no error and is not counted. It answers when all have ended; an "
        "error on the way may leave some, and the same call goes on.",
        names="org",
        body=http.RevokeMany,
        body_examples=(
            ("a person's", examples.REVOKE_PERSON),
            ("an app's", examples.REVOKE_APP),
            ("the org's", examples.REVOKE_ALL),
        ),
        reply=http.RevokedMany,
        examples=(("revoked", examples.REVOKED_MANY),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
)
