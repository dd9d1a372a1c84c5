"""The route that revokes many tokens at once, through the door."""

from __future__ import annotations

import pytest

from tests.unit.server.api.world import SECRETS, Api, narrowed, nonce_of

PATH = "/v1/orgs/acme/revocations"


async def test_an_apps_tokens(api: Api) -> None:
    """They are refused from then on, and the feed says so; a repeated call answers the same."""
    token = await api.mint("app = web")
    other = await api.mint()
    begin = (await api.get("/v1/revocations", org="acme"))["next"]
    first = await api.done("POST", PATH, body={"app": "web"}, key="k")
    assert (first["revoked"], first["durability"]) == (
        1,
        {"asked": "local", "met": True, "replicated_to": []},
    )
    assert (await api.ask("GET", SECRETS, token=token)).error == (403, "denied", "REVOKED")
    assert (await api.ask("GET", SECRETS, token=other)).status == 200
    feed = await api.get("/v1/revocations", org="acme", after=begin)
    assert [each["token_id"] for each in feed["revocations"]] == [nonce_of(token).hex()]
    assert feed["revocations"][0]["position"] == first["position"]
    assert await api.done("POST", PATH, body={"app": "web"}, key="k") == first


async def test_who_may(api: Api) -> None:
    """Whoever holds `tokens:revoke` in that org; another org's key, a token that is held to an app,
    and the operator of the cluster's own tokens reach nothing."""
    await api.done("POST", "/v1/orgs", body={"org": "beta"})
    token = await api.mint()
    stranger = await api.mint(org="beta")
    refused = await api.ask("POST", PATH, token=stranger, body={"all": True})
    assert refused.error == (403, "denied", "WRONG_ORG")
    held = narrowed(token, "app = web")
    refused = await api.ask("POST", PATH, token=held, body={"app": "web"})
    assert refused.error == (403, "denied", "CAVEAT")
    assert (await api.ask("GET", SECRETS, token=token)).status == 200
    assert (await api.done("POST", PATH, token=token, body={"all": True}))["revoked"] == 1
    assert (await api.ask("GET", SECRETS)).status == 200
    gone = await api.ask("POST", "/v1/orgs/nobody/revocations", body={"all": True})
    assert gone.error == (404, "not_found", None)


@pytest.mark.parametrize(
    "body",
    [{}, {"all": "yes"}, {"everything": True}, {"app": 1}, {"subject": "hunter2", "app": "web"}],
)
async def test_bodies_that_are_none(api: Api, body: dict[str, object]) -> None:
    """Refused, and not repeated."""
    answer = await api.ask("POST", PATH, body=body)
    assert answer.error == (400, "invalid", None)
    assert b"hunter2" not in answer.content
