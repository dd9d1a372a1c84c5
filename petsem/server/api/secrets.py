"""Routes of an app's secrets."""

from __future__ import annotations

from typing import Final

import apsw

from petsem import limits
from petsem.errors import Code, PetsemError, invalid
from petsem.model import Position, check_attribute, check_secret_name
from petsem.server import policy
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.diff_rate import DiffRate
from petsem.server.api.queries import ValuesQuery, VersionPage
from petsem.server.api.route import Handler, Route
from petsem.server.api.tenants import APP
from petsem.server.auth import Names, Principal, Verified
from petsem.server.service.secrets import check_batch
from petsem.server.service.values import Wanted, values
from petsem.wire import http

SECRETS: Final = APP + "/secrets"


async def _list(ask: Ask) -> http.SecretList:
    org, app = ask.org, ask.app
    principal = ask.authorize(Names(org, app, filterable=True))
    return ask.node.secrets.list(principal, org, app)


async def _patch(ask: Ask) -> http.SecretsPatched:
    org, app = ask.org, ask.app
    token = ask.verify()
    batch = check_batch(await ask.body(http.SecretsPatch))
    principal = ask.clear(token, Names(org, app, secrets=batch.names))
    return await ask.node.secrets.patch(principal, ask.call(), org, app, batch)


async def _values(ask: Ask) -> http.SecretValues:
    org, app = ask.org, ask.app
    ask.require_token()
    query = ask.query(ValuesQuery)
    machine = None if query.machine is None else check_attribute(query.machine, "machine")
    wanted = Wanted(
        org=org,
        app=app,
        version=query.version,
        names=() if query.names is None else _split(query.names),
        min_version=query.min_version,
        min_position=None if query.min_position is None else Position.parse(query.min_position),
        durable=query.durable,
    )

    def authorize(db: apsw.Connection) -> Principal:
        return ask.authorize_in(db, Names(org, app, machine, filterable=True))

    node = ask.node
    return await values(
        wanted,
        authorize,
        pool=node.pool,
        keys=node.keys,
        changes=node.changes,
        freshness=node.freshness,
    )


def _split(names: str) -> tuple[str, ...]:
    found = names.split(",")
    if len(found) > limits.APP_MAX_SECRETS:
        raise invalid(f"an app has at most {limits.APP_MAX_SECRETS} secrets; ask for fewer names")
    return tuple(check_secret_name(name) for name in found)


def _diff(rate: DiffRate) -> Handler:
    async def diff(ask: Ask) -> http.SecretsDiff:
        org, app = ask.org, ask.app
        token = ask.verify()
        rate.take(token.nonce, ask.node.clock.boot_s())
        batch = check_batch(await ask.body(http.SecretsPatch))
        principal = ask.clear(token, Names(org, app, secrets=batch.names))
        may_read = _may_read(ask, token, Names(org, app, secrets=batch.names))
        return ask.node.secrets.diff(principal, org, app, batch, may_read=may_read)

    return diff


def _may_read(ask: Ask, token: Verified, names: Names) -> bool:
    try:
        ask.clear_for(policy.SECRETS_READ, token, names)
    except PetsemError:
        return False
    return True


async def _destroy(ask: Ask) -> http.Destroyed:
    org, app = ask.org, ask.app
    token = ask.verify()
    body = await ask.body(http.Destroy)
    for name in body.names:
        check_secret_name(name)
    principal = ask.clear(token, Names(org, app, secrets=tuple(body.names)))
    return await ask.node.secrets.destroy(principal, ask.call(), org, app, body)


async def _versions(ask: Ask) -> http.VersionList:
    org, app = ask.org, ask.app
    ask.authorize(Names(org, app))
    page = ask.query(VersionPage)
    return ask.node.secrets.versions(org, app, page.before, page.limit)


async def _rollback(ask: Ask) -> http.SecretsPatched:
    org, app = ask.org, ask.app
    principal = ask.authorize(Names(org, app))
    body = await ask.body(http.Rollback)
    return await ask.node.secrets.rollback(principal, ask.call(), org, app, body)
