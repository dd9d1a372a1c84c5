"""Routes of orgs, their settings and their apps."""

from __future__ import annotations

from typing import Final

from petsem.errors import Code
from petsem.model import check_app, check_org
from petsem.server import policy
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.queries import Delete, Page
from petsem.server.api.route import Route
from petsem.server.principal import Names
from petsem.wire import http

ORG: Final = "/v1/orgs/{org}"
APP: Final = "/v1/orgs/{org}/apps/{app}"


async def _create_org(ask: Ask) -> http.Org:
    token = ask.verify()
    body = await ask.body(http.CreateOrg)
    name = check_org(body.org)
    principal = ask.clear(token, Names(name))
    return await ask.node.orgs.create_org(principal, ask.call(), name)


async def _list_orgs(ask: Ask) -> http.OrgList:
    ask.authorize()
    page = ask.query(Page)
    return ask.node.orgs.list_orgs(page.after or "", page.limit)


async def _delete_org(ask: Ask) -> http.Deleted:
    org = ask.org
    principal = ask.authorize(Names(org))
    now = ask.query(Delete).now
    await ask.no_body()
    return await ask.node.orgs.delete_org(principal, ask.call(), org, now)


async def _undelete_org(ask: Ask) -> http.Org:
    org = ask.org
    principal = ask.authorize(Names(org))
    await ask.no_body()
    return await ask.node.orgs.undelete_org(principal, ask.call(), org)


async def _settings(ask: Ask) -> http.Settings:
    org = ask.org
    ask.authorize(Names(org))
    return ask.node.orgs.settings(org)


async def _patch_settings(ask: Ask) -> http.Settings:
    org = ask.org
    principal = ask.authorize(Names(org))
    patch = await ask.body(http.SettingsPatch)
    return await ask.node.orgs.patch_settings(principal, ask.call(), org, patch)


async def _create_app(ask: Ask) -> http.App:
    org = ask.org
    token = ask.verify()
    body = await ask.body(http.CreateApp)
    name = check_app(body.app)
    principal = ask.clear(token, Names(org, name))
    return await ask.node.orgs.create_app(principal, ask.call(), org, name)


async def _list_apps(ask: Ask) -> http.AppList:
    org = ask.org
    ask.authorize(Names(org))
    page = ask.query(Page)
    return ask.node.orgs.list_apps(org, page.after or "", page.limit)


async def _delete_app(ask: Ask) -> http.Deleted:
    names = Names(ask.org, ask.app)
    principal = ask.authorize(names)
    now = ask.query(Delete).now
    if now:
        # What cannot be undone takes more than the right to make apps.
        ask.clear_for(policy.ORGS_ADMIN, principal.token, names)
    await ask.no_body()
    return await ask.node.orgs.delete_app(principal, ask.call(), ask.org, ask.app, now)


async def _undelete_app(ask: Ask) -> http.App:
    org, app = ask.org, ask.app
    principal = ask.authorize(Names(org, app))
    await ask.no_body()
    return await ask.node.orgs.undelete_app(principal, ask.call(), org, app)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/orgs",
        handle=_create_org,
        tag="orgs",
        summary="Create an org",
        about="Makes the org with a data key and a root key of its own.",
        names="org",
        body=http.CreateOrg,
        body_examples=(("acme", http.CreateOrg(org="acme")),),
        status=201,
        reply=http.Org,
        examples=(("created", examples.ORG),),
        writes=True,
    ),
    Route(
        method="GET",
        path="/v1/orgs",
        handle=_list_orgs,
        tag="orgs",
        summary="List orgs",
        about="By name, a page at a time; softly deleted orgs are marked.",
        query=Page,
        reply=http.OrgList,
        examples=(
            ("one page", http.OrgList(orgs=[examples.ORG, examples.ORG_DELETED], next=None)),
        ),
    ),
    Route(
        method="DELETE",
        path=ORG,
        handle=_delete_org,
        tag="orgs",
        summary="Delete an org",
        about="With all its apps and tokens. It can be undeleted for seven days, and its name "
        "stays taken until then; with `now` it is purged at once.",
        names="org",
        query=Delete,
        reply=http.Deleted,
        examples=(("softly", examples.DELETED), ("now", examples.PURGED)),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path=ORG + "/undelete",
        handle=_undelete_org,
        tag="orgs",
        summary="Undelete an org",
        about="Brings back an org, with all that was in it, within seven days of its deletion.",
        names="org",
        reply=http.Org,
        examples=(("undeleted", examples.ORG),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="GET",
        path=ORG + "/settings",
        handle=_settings,
        tag="orgs",
        summary="Read an org's settings",
        about="The settings in force, defaults filled in.",
        names="org",
        reply=http.Settings,
        examples=(("defaults", examples.SETTINGS),),
        fails=(Code.NOT_FOUND,),
    ),
    Route(
        method="PATCH",
        path=ORG + "/settings",
        handle=_patch_settings,
        tag="orgs",
        summary="Change an org's settings",
        about="Changes the settings that are named; null puts one back to its default.",
        names="org",
        body=http.SettingsPatch,
        body_examples=(
            ("change one", http.SettingsPatch(boot_max_staleness_s=3600)),
            ("back to the default", http.SettingsPatch(durability=None)),
        ),
        reply=http.Settings,
        examples=(("after", examples.SETTINGS_CHANGED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path=ORG + "/apps",
        handle=_create_app,
        tag="apps",
        summary="Create an app",
        about="Makes the app, at version 0 and without secrets, with a data key of its own.",
        names="org, app",
        body=http.CreateApp,
        body_examples=(("web", http.CreateApp(app="web")),),
        status=201,
        reply=http.App,
        examples=(("created", examples.APP_NEW),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="GET",
        path=ORG + "/apps",
        handle=_list_apps,
        tag="apps",
        summary="List the apps of an org",
        about="By name, a page at a time; softly deleted apps are marked.",
        names="org",
        query=Page,
        reply=http.AppList,
        examples=(("one page", http.AppList(apps=[examples.APP], next=None)),),
        fails=(Code.NOT_FOUND,),
    ),
    Route(
        method="DELETE",
        path=APP,
        handle=_delete_app,
        tag="apps",
        summary="Delete an app",
        about="With all its secrets and their history. It can be undeleted for seven days, and its "
        "name stays taken until then; with `now` it is purged at once, which needs `orgs:admin` "
        "as well.",
        names="org, app",
        query=Delete,
        reply=http.Deleted,
        examples=(("softly", examples.DELETED), ("now", examples.PURGED)),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path=APP + "/undelete",
        handle=_undelete_app,
        tag="apps",
        summary="Undelete an app",
        about="Brings back an app as it was, within seven days of its deletion.",
        names="org, app",
        reply=http.App,
        examples=(("undeleted", examples.APP),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
)
