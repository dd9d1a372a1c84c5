"""Routes of orgs, settings and apps, through the door."""

from __future__ import annotations

from tests.unit.server.api.world import APP, SECRETS, Api

BAD_NAMES = ("", "A", "-a", "a-", "a_b", "a" * 64, "ä", "a/b", "a\0", "a\n")


async def test_orgs(api: Api) -> None:
    """An org is made once, listed, deleted softly, brought back, and purged."""
    made = await api.ask("POST", "/v1/orgs", body={"org": "umbrella"})
    assert made.status == 201
    assert made.json == {
        "org": "umbrella",
        "created_at": "2027-01-15T08:00:00Z",
        "deleted_at": None,
        "purge_at": None,
    }
    again = await api.ask("POST", "/v1/orgs", body={"org": "umbrella"})
    assert again.error == (409, "conflict", None)
    page = await api.get("/v1/orgs", limit=1)
    assert ([org["org"] for org in page["orgs"]], page["next"]) == (["acme"], "acme")
    page = await api.get("/v1/orgs", limit=2, after="acme")
    assert ([org["org"] for org in page["orgs"]], page["next"]) == (["umbrella"], None)
    deleted = await api.done("DELETE", "/v1/orgs/umbrella")
    assert deleted["purge_at"] == "2027-01-22T08:00:00Z"
    assert (await api.ask("GET", "/v1/orgs/umbrella/settings")).error == (404, "not_found", None)
    back = await api.done("POST", "/v1/orgs/umbrella/undelete")
    assert back == made.json
    purged = await api.done("DELETE", "/v1/orgs/umbrella", now="true")
    assert purged["purge_at"] is None
    gone = await api.ask("POST", "/v1/orgs/umbrella/undelete")
    assert gone.error == (404, "not_found", None)


async def test_apps(api: Api) -> None:
    """An app is made once, listed, deleted softly with its secrets, and brought back with them."""
    made = await api.ask("POST", "/v1/orgs/acme/apps", body={"app": "api"})
    assert (made.status, made.json["app"], made.json["version"]) == (201, "api", 0)
    again = await api.ask("POST", "/v1/orgs/acme/apps", body={"app": "api"})
    assert again.error == (409, "conflict", None)
    page = await api.get("/v1/orgs/acme/apps")
    assert [(app["app"], app["version"]) for app in page["apps"]] == [("api", 0), ("web", 1)]
    assert (await api.ask("DELETE", APP)).status == 200
    assert (await api.ask("GET", SECRETS)).error == (404, "not_found", None)
    assert (await api.done("POST", APP + "/undelete"))["version"] == 1
    assert (await api.get(SECRETS + "/values"))["secrets"] == {"A": "alpha", "B": "beta"}
    nowhere = await api.ask("POST", "/v1/orgs/nope/apps", body={"app": "api"})
    assert nowhere.error == (404, "not_found", None)


async def test_settings(api: Api) -> None:
    """Settings have defaults, change one by one, and null puts one back."""
    path = "/v1/orgs/acme/settings"
    others = {"sso": None, "two_key": False}
    defaults = {"durability": "local", "boot_max_staleness_s": 86_400, **others}
    assert await api.get(path) == defaults
    changed = await api.done("PATCH", path, body={"boot_max_staleness_s": 60})
    assert changed == {"durability": "local", "boot_max_staleness_s": 60, **others}
    changed = await api.done("PATCH", path, body={"durability": {"replicated": 2}})
    assert changed == {"durability": {"replicated": 2}, "boot_max_staleness_s": 60, **others}
    back = {"durability": None, "boot_max_staleness_s": None}
    assert await api.done("PATCH", path, body=back) == defaults
    for body in (
        {"boot_max_staleness_s": -1},
        {"boot_max_staleness_s": 10**30},
        {"durability": {"replicated": 0}},
        {"durability": {"replicated": 10**30}},
        {"sso": True},
    ):
        assert (await api.ask("PATCH", path, body=body)).error == (400, "invalid", None)


async def test_bad_names(api: Api) -> None:
    """A name out of its bounds is refused, in a body and in a path, and not quoted."""
    for name in BAD_NAMES:
        org = await api.ask("POST", "/v1/orgs", body={"org": name})
        app = await api.ask("POST", "/v1/orgs/acme/apps", body={"app": name})
        assert org.error == app.error == (400, "invalid", None)
        assert "name is 1 to 63 lower-case letters" in org.json["message"]
    for path in ("/v1/orgs/ACME/settings", "/v1/orgs/acme/apps/WEB/secrets", "/v1/orgs/%00/apps"):
        assert (await api.ask("GET", path)).error == (400, "invalid", None)
    for name in (1, None, ["acme"], {}):
        answer = await api.ask("POST", "/v1/orgs", body={"org": name})
        assert answer.error == (400, "invalid", None)


async def test_bodies_where_there_are_none(api: Api) -> None:
    """A body that a route does not take is refused, and not ignored."""
    for method, path in (
        ("DELETE", APP),
        ("POST", APP + "/undelete"),
        ("DELETE", "/v1/orgs/acme"),
        ("POST", "/v1/orgs/acme/undelete"),
        ("POST", "/v1/orgs/acme/root-keys"),
    ):
        assert (await api.ask(method, path, body={})).error == (400, "invalid", None)
    assert (await api.ask("DELETE", APP, content=b"")).status == 200
