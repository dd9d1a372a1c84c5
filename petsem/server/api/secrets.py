"""Routes of an app's secrets."""

from __future__ import annotations

from typing import Final

import apsw

from petsem import limits
from petsem.errors import Code, PetsemError, invalid
from petsem.model import Position, check_attribute, check_secret_name
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.diff_rate import DiffRate
from petsem.server.api.queries import ListQuery, ValuesQuery, VersionPage
from petsem.server.api.route import Handler, Route
from petsem.server.api.tenants import APP
from petsem.server.principal import Names, Principal, Verified
from petsem.server.service.batches import check_batch
from petsem.server.service.two_key import Read
from petsem.server.service.values import Wanted, values
from petsem.wire import http

SECRETS: Final = APP + "/secrets"


async def _list(ask: Ask) -> http.SecretList:
    org, app = ask.org, ask.app
    principal = ask.authorize(Names(org, app, filterable=True))
    return ask.node.secrets.list(principal, org, app, ask.query(ListQuery).version or None)


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

    node = ask.node
    names = Names(org, app, machine, filterable=True)
    read: Read | None = None

    def authorize(db: apsw.Connection) -> Principal:
        nonlocal read
        read = node.reads.authorize(db, ask.request, names)
        return read.principal

    answer = await values(
        wanted,
        authorize,
        pool=node.pool,
        keys=node.keys,
        changes=node.changes,
        freshness=node.freshness,
    )
    assert read is not None
    node.reads.note(read, names)
    return answer


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
        with ask.node.pool.reading() as db:
            ask.node.reads.clear(db, token, ask.request, names)
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


def routes(rate: DiffRate) -> tuple[Route, ...]:
    """The routes; `rate` is the node's count of diffs."""
    return (
        Route(
            method="GET",
            path=SECRETS,
            handle=_list,
            tag="secrets",
            summary="List an app's secrets",
            about="Names, the version that set each, a keyed digest and who set it; never a value. "
            "With a `secret` caveat on the token the answer has the matching names only, and says "
            "so in `filtered`.",
            names="org, app, secret",
            query=ListQuery,
            reply=http.SecretList,
            examples=(("two secrets", examples.SECRET_LIST),),
            fails=(Code.NOT_FOUND,),
        ),
        Route(
            method="PATCH",
            path=SECRETS,
            often=True,
            handle=_patch,
            tag="secrets",
            summary="Set and unset secrets",
            about="One batch, applied whole or not at all, which makes the app's next version. A "
            "value is text, or base64 of any bytes. With `if_version` it is applied only while "
            "the app is at that version.",
            names="org, app, each secret",
            body=http.SecretsPatch,
            body_examples=(
                ("set two, unset one", examples.PATCH),
                ("only if nobody was faster", examples.PATCH_IF_VERSION),
            ),
            reply=http.SecretsPatched,
            examples=(("stored", examples.PATCHED),),
            fails=(Code.NOT_FOUND,),
            writes=True,
        ),
        Route(
            method="GET",
            path=SECRETS + "/values",
            often=True,
            handle=_values,
            tag="secrets",
            summary="Read values",
            about="All values of one version, or those named, in one consistent read; text where "
            "the bytes are UTF-8, else base64. If a value is damaged on disk, the whole answer is "
            "the error `corrupt`, which names the secret. Programs that boot machines are better "
            "served by gRPC's `Secrets.Fetch`.",
            names="org, app, secret, machine",
            query=ValuesQuery,
            reply=http.SecretValues,
            examples=(("text and bytes", examples.VALUES),),
            fails=(Code.NOT_FOUND, Code.STALE, Code.CONFLICT),
        ),
        Route(
            method="POST",
            path=SECRETS + "/diff",
            handle=_diff(rate),
            tag="secrets",
            summary="See what a batch would change",
            about="Takes the body of a `PATCH` and stores nothing. Whether a value is the same is "
            "told only to tokens that also clear `secrets:read` for all the names. Each token may "
            "ask about once a second, after a first twenty.",
            names="org, app, each secret",
            body=http.SecretsPatch,
            body_examples=(("set two, unset one", examples.PATCH),),
            reply=http.SecretsDiff,
            examples=(
                ("for a writer", examples.DIFF_WRITER),
                ("for a reader", examples.DIFF_READER),
            ),
            fails=(Code.NOT_FOUND, Code.CONFLICT, Code.LIMIT),
        ),
        Route(
            method="POST",
            path=SECRETS + "/destroy",
            handle=_destroy,
            tag="secrets",
            summary="Destroy values",
            about="Removes values from the database for good. Without `version`: every value that "
            "the names ever had, and the names are unset. With it: the values of that version, "
            "which must not be the current ones.",
            names="org, app, each secret",
            body=http.Destroy,
            body_examples=(
                ("all of one name", http.Destroy(names=["OLD_TOKEN"])),
                ("of one version", http.Destroy(names=["DATABASE_URL"], version=3)),
            ),
            reply=http.Destroyed,
            examples=(("destroyed", examples.DESTROYED),),
            fails=(Code.NOT_FOUND,),
            writes=True,
        ),
        Route(
            method="GET",
            path=APP + "/versions",
            handle=_versions,
            tag="secrets",
            summary="List an app's versions",
            about="Newest first: when, by whom, and which names each set and unset. Tokens with a "
            "`secret` caveat are refused.",
            names="org, app",
            query=VersionPage,
            reply=http.VersionList,
            examples=(("two versions", examples.VERSIONS),),
            fails=(Code.NOT_FOUND,),
        ),
        Route(
            method="POST",
            path=APP + "/rollback",
            handle=_rollback,
            tag="secrets",
            summary="Go back to an earlier version",
            about="Makes a new version with the values of the one in `to`; 0 has none. Tokens with "
            "a `secret` caveat are refused.",
            names="org, app",
            body=http.Rollback,
            body_examples=(("to version 3", http.Rollback(to=3)),),
            reply=http.SecretsPatched,
            examples=(("stored", examples.ROLLED_BACK),),
            fails=(Code.NOT_FOUND,),
            writes=True,
        ),
    )
