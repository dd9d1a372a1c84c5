"""`petsem org` and `petsem app`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.support import Node, answer, run

ORG = {
    "org": "acme",
    "created_at": "2027-01-15T08:00:00Z",
    "deleted_at": None,
    "purge_at": None,
}
WEB = {**ORG, "app": "web", "version": 3}
WEB.pop("org")
GONE = {"deleted_at": "x", "purge_at": None, "message": "it is gone"}
SETTINGS = {
    "durability": {"replicated": 1},
    "boot_max_staleness_s": 3600,
    "sso": None,
    "two_key": False,
}


@pytest.mark.parametrize(
    ("arguments", "route", "reply", "body", "scope", "says"),
    [
        (
            "org create acme", "POST /v1/orgs", ORG, {"org": "acme"},
            ["org = acme", "action = orgs:admin"], "org acme is made\n",
        ),
        (
            "org delete acme --yes acme", "DELETE /v1/orgs/acme", GONE, None,
            ["org = acme", "action = orgs:admin"], "it is gone\n",
        ),
        (
            "org undelete acme", "POST /v1/orgs/acme/undelete", ORG, None,
            ["org = acme", "action = orgs:admin"], "org acme is back\n",
        ),
        (
            "org list", "GET /v1/orgs", {"orgs": [ORG], "next": None}, None,
            ["action = orgs:admin"],
            "ORG   MADE                  DELETED  PURGE\nacme  2027-01-15T08:00:00Z  -        -\n",
        ),
        (
            "org settings acme", "GET /v1/orgs/acme/settings", SETTINGS, None,
            ["org = acme", "action = orgs:admin"],
            "SETTING               VALUE\n"
            "durability            replicated=1\nboot_max_staleness_s  3600\n"
            "sso                   off\ntwo_key               off\n",
        ),
        (
            "app create acme/web", "POST /v1/orgs/acme/apps", WEB, {"app": "web"},
            ["org = acme", "app = web", "action = apps:admin"], "app acme/web is made\n",
        ),
        (
            "app list acme", "GET /v1/orgs/acme/apps", {"apps": [WEB], "next": None}, None,
            ["org = acme", "action = secrets:list"],
            "APP       VERSION  MADE                  DELETED  PURGE\n"
            "acme/web  3        2027-01-15T08:00:00Z  -        -\n",
        ),
        (
            "app delete acme/web --yes acme/web", "DELETE /v1/orgs/acme/apps/web", GONE, None,
            ["org = acme", "app = web", "action = apps:admin"], "it is gone\n",
        ),
        (
            "app undelete acme/web", "POST /v1/orgs/acme/apps/web/undelete", WEB, None,
            ["org = acme", "app = web", "action = apps:admin"],
            "app acme/web is back, at version 3\n",
        ),
    ],
)  # fmt: skip
def test_each_command(
    arguments: str, route: str, reply: Any, body: Any, scope: list[str], says: str
) -> None:
    """The call, the narrowing, the words, and with -o json the node's answer."""
    node = Node({route: reply})
    result = run(*arguments.split(), node=node)
    assert (result.exit_code, result.stdout, result.stderr) == (0, says, "")
    assert node.bodies == ([] if body is None else [body])
    assert node.scopes[0][:-1] == scope
    assert ("idempotency-key" in node.requests[0].headers) == (not route.startswith("GET"))
    as_json = run(*arguments.split(), "-o", "json", node=node)
    listed = {k: v for k, v in reply.items() if k != "next"}
    assert json.loads(as_json.stdout) == listed


SSO = {"issuer": "https://id.example.com", "client_id": "petsem", "domains": ["example.com"]}


def test_sso_comes_from_a_file_or_stdin(tmp_path: Path) -> None:
    """It is sent as it was given, and shown without the secret; `default` turns it off."""
    info = {
        **SSO,
        "client_secret_set": True,
        "groups": ["eng"],
        "groups_claim": "groups",
        "actions": ["secrets:list"],
        "discharge_s": 600,
        "session_s": 3600,
    }
    node = Node({"PATCH /v1/orgs/acme/settings": {**SETTINGS, "sso": info}})
    given = {**SSO, "client_secret": "hunter2", "discharge_s": 600}
    (tmp_path / "sso.json").write_text(json.dumps(given))
    settings = ("org", "settings", "acme")
    from_stdin = run(*settings, "sso=-", node=node, stdin=json.dumps(given))
    from_file = run(*settings, f"sso=@{tmp_path / 'sso.json'}", node=node)
    for result in (from_stdin, from_file):
        assert result.exit_code == 0
        assert "https://id.example.com as petsem, for example.com" in result.stdout
        assert "hunter2" not in result.output
    assert run(*settings, "sso=default", node=node).exit_code == 0
    sent = [body["sso"] for body in node.bodies]
    assert sent[0] == sent[1]
    assert given.items() <= sent[0].items()
    assert sent[2] is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('{"issuer": "hunter2"}', "the object lacks the field client_id"),
        (json.dumps({**SSO, "discharge_s": 3}), "discharge_s must be at least 300"),
        (json.dumps({**SSO, "hunter2": 1}), "the object has a field that is not known"),
        (json.dumps({**SSO, "domains": "hunter2"}), "domains must be a list"),
        ("hunter2", "a JSON object with issuer, client_id"),
        (b"\xff", "a JSON object with issuer, client_id"),
        ("{" * 70_000, "at most 65536 bytes"),
    ],
)
def test_sso_that_is_not_one(given: str | bytes, says: str) -> None:
    """What is wrong is named, nothing of it repeated, and nothing sent."""
    node = Node()
    result = run("org", "settings", "acme", "sso=-", node=node, stdin=given)
    assert (result.exit_code, result.stdout, node.requests) == (2, "", [])
    assert says in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("pair", ["sso=hunter2", "sso=@/nowhere/hunter2", "two_key=hunter2"])
def test_settings_in_argv(pair: str) -> None:
    """What might be a secret is not taken from there, nor repeated."""
    node = Node()
    result = run("org", "settings", "acme", pair, node=node)
    assert (result.exit_code, node.requests) == (2, [])
    assert "hunter2" not in result.stderr


def test_now_is_a_parameter_and_for_an_app_another_action() -> None:
    """Purging an app at once takes an operator's right too."""
    node = Node({"DELETE /v1/orgs/acme": GONE, "DELETE /v1/orgs/acme/apps/web": GONE})
    run("org", "delete", "acme", "--now", "--yes", "acme", node=node)
    run("app", "delete", "acme/web", "--now", "--yes", "acme/web", node=node)
    assert [request.url.query for request in node.requests] == [b"now=true", b"now=true"]
    assert node.scopes[1][2] == "action in apps:admin, orgs:admin"


@pytest.mark.parametrize(
    "arguments",
    ["org delete acme", "org delete acme --yes web", "app delete acme/web --yes web"],
)
def test_nothing_is_deleted_without_its_name(arguments: str) -> None:
    """Without a terminal, only --yes with exactly that name."""
    node = Node()
    result = run(*arguments.split(), node=node)
    assert result.exit_code == 2
    assert "acme" in result.stderr
    assert node.requests == []


def test_pages_are_followed() -> None:
    """Each page's cursor asks for the next."""
    pages = {"": (["a"], "a"), "after=a": (["b"], "b"), "after=b": (["c"], None)}

    def handle(request: Any) -> Any:
        names, following = pages[request.url.query.decode()]
        return answer({"orgs": [{**ORG, "org": name} for name in names], "next": following})

    result = run("org", "list", "-o", "json", node=Node({"GET /v1/orgs": handle}))
    assert [each["org"] for each in json.loads(result.stdout)["orgs"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("pairs", "body"),
    [
        (["durability=local"], {"durability": "local"}),
        (["durability=replicated=2"], {"durability": {"replicated": 2}}),
        (
            ["boot_max_staleness_s=60", "durability=default"],
            {"boot_max_staleness_s": 60, "durability": None},
        ),
    ],
)
def test_settings_are_changed(pairs: list[str], body: Any) -> None:
    """Only what was given travels; `default` is null."""
    node = Node({"PATCH /v1/orgs/acme/settings": SETTINGS})
    assert run("org", "settings", "acme", *pairs, node=node).exit_code == 0
    assert node.bodies == [body]


@pytest.mark.parametrize(
    "pair",
    ["hunter2", "hunter2=1", "durability=hunter2", "boot_max_staleness_s=hunter2", "durability="],
)
def test_settings_that_are_none(pair: str) -> None:
    """What they are is said, and what was typed is not."""
    node = Node()
    result = run("org", "settings", "acme", pair, node=node)
    assert result.exit_code == 2
    assert "hunter2" not in result.stderr
    assert node.requests == []


@pytest.mark.parametrize("name", ["Hunter2", "hunter2-", "hunter_2", "", "h" * 64])
def test_names_that_no_tenant_has(name: str) -> None:
    """Refused here, unquoted."""
    for arguments in (
        ("org", "create", name),
        ("app", "create", f"acme/{name}"),
        ("app", "list", name),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "unter" not in result.stderr
