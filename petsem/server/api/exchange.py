"""Routes that turn a token into something narrower for one machine: exchange, and boots."""

from __future__ import annotations

from typing import Final

from petsem.errors import Code
from petsem.model import check_app, check_attribute, check_org
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.route import Route
from petsem.server.api.tenants import ORG
from petsem.server.principal import Names
from petsem.wire import http


async def _exchange(ask: Ask) -> http.Exchanged:
    token = ask.verify()
    body = await ask.body(http.Exchange)
    principal = ask.clear(token, _names(check_org(body.org), body.app, body.machine))
    return await ask.node.exchanging.exchange(principal, ask.call(), body)


async def _boot(ask: Ask) -> http.BootAllowed:
    org = ask.org
    token = ask.verify()
    body = await ask.body(http.Boot)
    principal = ask.clear(token, _names(org, body.app, body.machine))
    return await ask.node.boots.allow(principal, ask.call(), org, body)


def _names(org: str, app: str, machine: str) -> Names:
    return Names(org, check_app(app), check_attribute(machine, "machine"))


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/tokens/exchange",
        handle=_exchange,
        tag="tokens",
        summary="Exchange a token for a service token",
        about="The new token is of kind service, and good for one app, one machine and one host's "
        "TLS key: that of the certificate which the client shows, else the one in `host_key`. Each "
        "action must be one that the asker clears for that app and machine; the asker's caveats, "
        "but for `time` and `user`, are inherited. It never outlives the asker's token, and ends "
        "when that is revoked. With `renewable` it can be exchanged itself, with the host's "
        "certificate, for a successor of the same scope or less, until `renew_until`.",
        names="org, app, machine",
        body=http.Exchange,
        body_examples=(("for ten minutes", examples.EXCHANGE),),
        status=201,
        reply=http.Exchanged,
        examples=(("exchanged", examples.EXCHANGED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path=ORG + "/boots",
        handle=_boot,
        tag="tokens",
        summary="Allow a machine to boot",
        about="For orgs with `two_key`: discharges a host's token, known by its ticket, so that "
        "it reads the secrets of one app for one machine, for a while, never longer than the "
        "asker's token lives. Only a person's or a service's token of the org can ask; revoking "
        "it, or all of the app, ends what it allowed. The discharge is appended to the host's "
        "token after a comma.",
        names="org, app, machine",
        body=http.Boot,
        body_examples=(("for ten minutes", examples.BOOT),),
        status=201,
        reply=http.BootAllowed,
        examples=(("allowed", examples.BOOT_ALLOWED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
)
