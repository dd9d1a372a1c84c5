"""Deny by default: the policy, walked over every HTTP route."""

from __future__ import annotations

from typing import Any

from petsem.server import policy
from tests.unit.server.api.world import Answer, Api, narrowed

_SET = {"set": {"C": "c"}}
_VERIFY = {"token": "x", "access": {"org": "acme", "action": "a"}}
_EXCHANGE = {
    "org": "acme",
    "app": "web",
    "machine": "m1",
    "host_key": "0" * 64,
    "actions": ["secrets:read"],
}
_ID = "0" * 32
_KEK = "0" * 64

Where = tuple[str, str]

BODIES: dict[Where, Any] = {
    ("POST", "/v1/orgs"): {"org": "acme"},
    ("PATCH", "/v1/orgs/{org}/settings"): {},
    ("POST", "/v1/orgs/{org}/apps"): {"app": "web"},
    ("PATCH", "/v1/orgs/{org}/apps/{app}/secrets"): _SET,
    ("POST", "/v1/orgs/{org}/apps/{app}/secrets/diff"): _SET,
    ("POST", "/v1/orgs/{org}/apps/{app}/secrets/destroy"): {"names": ["C"]},
    ("POST", "/v1/orgs/{org}/apps/{app}/rollback"): {"to": 0},
    ("POST", "/v1/tokens"): {"org": "acme", "caveats": []},
    ("POST", "/v1/orgs/{org}/revocations"): {"app": "web"},
    ("POST", "/v1/tokens/exchange"): _EXCHANGE,
    ("POST", "/v1/orgs/{org}/boots"): {"app": "web", "machine": "m1", "ticket": "AAAA"},
    ("POST", "/v1/tokens/verify"): _VERIFY,
    ("POST", "/v1/tokens/verify-batch"): {"requests": [_VERIFY]},
    ("POST", "/v1/tokens/can"): _VERIFY,
    ("POST", "/v1/nodes/invite"): {"region": "fra"},
}
QUERIES: dict[Where, Any] = {("GET", "/v1/revocations"): {"org": "acme"}}

GUARDED = [(route, rule) for route, rule in policy.HTTP.items() if rule is not None]
_SIGNING_IN = ("/v1/login", "/.well-known/", "/sso")
SIGNING_IN = [route for route in policy.HTTP if route[1].startswith(_SIGNING_IN)]
OPEN = [r for r, rule in policy.HTTP.items() if rule is None and r not in SIGNING_IN]
OF_AN_ORG = [(route, rule) for route, rule in GUARDED if not rule.cluster_only]
OF_THE_CLUSTER = [(route, rule) for route, rule in GUARDED if rule.cluster_only]
WITH_AN_APP = [(route, rule) for route, rule in GUARDED if "{app}" in route[1]]


def _has_org(route: Where) -> bool:
    return "{org}" in route[1] or route in BODIES or route in QUERIES


async def _ask(
    api: Api, route: Where, token: str | None, *, org: str = "acme", app: str = "web"
) -> Answer:
    method, template = route
    path = template.format(org=org, app=app, token_id=_ID, key_id=_KEK, node="absent")
    return await api.ask(
        method, path, token=token, body=BODIES.get(route), **QUERIES.get(route, {})
    )


async def test_every_refusal(api: Api) -> None:
    """No route but the open ones answers without a token that counts and holds its action."""
    got: dict[Where, dict[str, object]] = {}
    for route, rule in GUARDED:
        org = "acme" if not rule.cluster_only and _has_org(route) else None
        good = await api.mint(f"action = {rule.action}", org=org, fresh=True)
        tokens = {
            "none": None,
            "empty": "",
            "nonsense": "nonsense",
            "cut short": good[:-1],
            "altered": good[:-8] + ("A" if good[-8] != "A" else "B") + good[-7:],
            "another action": await api.mint("action = x:y", org=org),
            "expired": narrowed(good, "time < 2020-01-01T00:00:00Z"),
            "too early": narrowed(good, "time >= 2200-01-01T00:00:00Z"),
            "not understood": narrowed(good, "moon = full"),
        }
        got[route] = {what: (await _ask(api, route, t)).error for what, t in tokens.items()}
        await api.forget(good)
        got[route]["not issued"] = (await _ask(api, route, good)).error
    assert got == {
        route: {
            "none": (401, "unauthenticated", None),
            "empty": (401, "unauthenticated", None),
            "nonsense": (401, "unauthenticated", "MALFORMED"),
            "cut short": (401, "unauthenticated", "TRUNCATED"),
            "altered": (401, "unauthenticated", "TRUNCATED"),
            "another action": (403, "denied", "CAVEAT"),
            "expired": (401, "unauthenticated", "EXPIRED"),
            "too early": (401, "unauthenticated", "NOT_YET_VALID"),
            "not understood": (403, "denied", "CAVEAT"),
            "not issued": (401, "unauthenticated", "NOT_ISSUED"),
        }
        for route, _ in GUARDED
    }


async def test_revoked(api: Api) -> None:
    """A revoked token is denied on every route of an org."""
    token = await api.mint()
    await api.revoke(token)
    got = {route: (await _ask(api, route, token)).error for route, _ in OF_AN_ORG}
    assert got == dict.fromkeys(got, (403, "denied", "REVOKED"))


async def test_wrong_org(api: Api) -> None:
    """A token of another org's key is denied, and so is one narrowed to another org."""
    await api.done("POST", "/v1/orgs", body={"org": "umbrella"})
    other = await api.mint(org="umbrella")
    got = {route: (await _ask(api, route, other)).error for route, _ in OF_AN_ORG}
    assert got == dict.fromkeys(got, (403, "denied", "WRONG_ORG"))
    mine = narrowed(await api.mint(), "org = umbrella")
    got = {r: (await _ask(api, r, mine)).error for r, _ in OF_AN_ORG if _has_org(r)}
    assert got == dict.fromkeys(got, (403, "denied", "CAVEAT"))


async def test_wrong_app(api: Api) -> None:
    """A token narrowed to another app is denied."""
    token = narrowed(await api.mint(), "app = api")
    got = {route: (await _ask(api, route, token)).error for route, _ in WITH_AN_APP}
    assert got == dict.fromkeys(got, (403, "denied", "CAVEAT"))


async def test_cluster_only(api: Api) -> None:
    """An org's token cannot do what is the cluster's, whatever its caveats leave."""
    token = await api.mint()
    got = {route: (await _ask(api, route, token)).error for route, _ in OF_THE_CLUSTER}
    assert got == dict.fromkeys(got, (403, "denied", "WRONG_ORG"))


async def test_open(api: Api) -> None:
    """The open routes answer without a token, and do not look at one that is sent."""
    got = {
        (route, token): (await _ask(api, route, token)).status
        for route in OPEN
        for token in (None, "nonsense")
    }
    assert got == dict.fromkeys(got, 200)


async def test_signing_in(api: Api) -> None:
    """What comes before a person's first token is guarded by what it is given, whatever token is
    sent beside it: given nothing, it does nothing."""
    assert len(SIGNING_IN) > 1
    for route in SIGNING_IN:
        assert policy.HTTP[route] is None
        without, beside = await _ask(api, route, None), await _ask(api, route, api.operator)
        # Who sends a form is asked first where it was.
        assert without.status == (403 if route == ("POST", "/sso") else 400), route
        assert (without.status, without.content) == (beside.status, beside.content), route


async def test_a_stranger_learns_nothing(api: Api) -> None:
    """To whoever may not ask, an org or app that is not there looks like one that is."""
    token = await api.mint("action = x:y", org=None)
    for route, _ in GUARDED:
        there = await _ask(api, route, token)
        assert there == await _ask(api, route, token, org="nobody", app="nothing"), route


async def test_purging_an_app_takes_more_than_deleting_it(api: Api) -> None:
    """Deleting an app for good needs orgs:admin, which no org's token holds."""
    token = await api.mint("action = apps:admin")
    path = "/v1/orgs/acme/apps/web"
    refused = await api.ask("DELETE", path, token=token, now="true")
    assert refused.error == (403, "denied", "WRONG_ORG")
    assert (await api.ask("DELETE", path, token=token, now="false")).status == 200
    assert (await api.ask("DELETE", path, now="true")).status == 200
