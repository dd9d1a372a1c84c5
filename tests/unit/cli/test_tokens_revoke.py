"""`petsem token revoke`: one token, or all of a person, an app or an org."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.unit.cli.support import TOKEN, Node, run
from tests.unit.tokens.build import IDENTIFIER

LOCAL = {"asked": "local", "met": True, "replicated_to": []}
REVOKED = {
    "id": "0a" * 16,
    "revoked_at": "2027-01-15T08:00:00Z",
    "position": "00000001-0000000000000009",
    "durability": {"asked": {"replicated": 1}, "met": False, "replicated_to": []},
}
MANY = "POST /v1/orgs/acme/revocations"


def many(count: int) -> dict[str, object]:
    """An answer that so many have ended."""
    return {"revoked": count, "position": "00000001-0000000000000009", "durability": LOCAL}


def test_revoke_by_id() -> None:
    """Of an org, or of the cluster key; what durability was reached is said."""
    node = Node(
        {
            f"DELETE /v1/orgs/acme/tokens/{'0a' * 16}": REVOKED,
            f"DELETE /v1/tokens/{'0a' * 16}": REVOKED,
        }
    )
    result = run("token", "revoke", "0a" * 16, "--org", "acme", node=node)
    assert result.exit_code == 0
    assert f"token {'0a' * 16} is revoked since" in result.stdout
    assert "replicated=1 was not reached" in result.stderr
    assert run("token", "revoke", "0a" * 16, node=node).exit_code == 0
    assert [scope[:-1] for scope in node.scopes] == [
        ["org = acme", "action = tokens:revoke"],
        ["action = tokens:revoke"],
    ]


def test_revoke_the_token_itself() -> None:
    """Its id is in it; the token does not travel."""
    node = Node({f"DELETE /v1/tokens/{IDENTIFIER.token_id}": REVOKED})
    result = run("token", "revoke", "--token-file", "-", node=node, stdin=TOKEN)
    assert result.exit_code == 0
    assert node.bodies == []


def test_a_token_in_argv_is_not_repeated() -> None:
    """It is in the history now, which is said, with the way to revoke it; wherever it was typed."""
    of_acme = ("--org", "acme")
    for args in (
        (TOKEN,), ("hunter2",), (), ("0a" * 16, "--token-file", "-"),
        ("--person", TOKEN, *of_acme), ("--subject", TOKEN, *of_acme), ("--app", TOKEN),
    ):  # fmt: skip
        result = run("token", "revoke", *args, stdin=TOKEN)
        assert result.exit_code == 2, args
        assert TOKEN not in result.stderr
        assert "hunter2" not in result.stderr
    assert "shell's history" in run("token", "revoke", TOKEN).stderr
    assert "shell's history" in run("token", "revoke", "--person", TOKEN, *of_acme).stderr


@pytest.mark.parametrize(
    ("arguments", "body", "whose"),
    [
        (
            ["--person", "a@example.com", "--org", "acme"],
            {"subject": "person:a@example.com"},
            "of person:a@example.com in acme",
        ),
        (["--subject", "host:1", "--org", "acme"], {"subject": "host:1"}, "of host:1 in acme"),
        (["--app", "acme/web"], {"app": "web"}, "that may act for acme/web"),
        (["--app", "acme/web", "--org", "acme"], {"app": "web"}, "that may act for acme/web"),
        (["--all", "--org", "acme", "--yes", "acme"], {"all": True}, "of acme"),
    ],
)
def test_many_at_once(arguments: list[str], body: dict[str, object], whose: str) -> None:
    """One call, narrowed to the org; it says how many ended. That somebody had none is an error
    with a code of its own: the name was mistyped, perhaps."""
    node = Node({MANY: [answering(many(count)) for count in (1200, 1, 0, 3, 0)]})
    said = [run("token", "revoke", *arguments, node=node) for _ in range(3)]
    nobody = 4 if "subject" in body else 0
    assert [result.exit_code for result in said] == [0, 0, nobody]
    assert [result.stdout for result in said] == [
        f"1,200 tokens are revoked now: all {whose}\n",
        f"1 token is revoked now: all {whose}\n",
        "" if nobody else f"there was no token {whose} that had not been revoked\n",
    ]
    if nobody:
        assert said[-1].stderr == (
            f"petsem: there was no token {whose} that had not been revoked; see: petsem token "
            "list --org acme\n"
        )
    given = [{k: v for k, v in each.items() if v not in (None, False)} for each in node.bodies]
    assert given == [body] * 3
    assert [scope[:-1] for scope in node.scopes] == [["org = acme", "action = tokens:revoke"]] * 3
    as_json = run("token", "revoke", *arguments, "-o", "json", node=node)
    assert json.loads(as_json.stdout) == many(3)
    none = run("token", "revoke", *arguments, "-o", "json", node=node)
    assert (none.exit_code, json.loads(none.stdout)) == (nobody, many(0))


def answering(body: object) -> Callable[[object], object]:
    """A handler that answers with `body`."""
    from tests.unit.cli.support import answer

    return lambda _: answer(body)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--all"],
        ["--all", "--org", "acme"],
        ["--all", "--org", "acme", "--yes", "acm"],
        ["--all", "--yes", "acme"],
        ["--all", "--org", "acme", "--yes", "acme", "--person", "a@example.com"],
        ["--all", "--app", "acme/web", "--yes", "acme"],
        ["--person", "a@example.com"],
        ["--person", "a b@example.com", "--org", "acme"],
        ["--person", "", "--org", "acme"],
        ["--subject", "hunter2", "--org", "acme"],
        ["--subject", "host:1", "--org", "acme", "--yes", "acme"],
        ["--app", "web"],
        ["--app", "acme/web", "--org", "beta"],
        ["--person", "a@example.com", "--subject", "host:1", "--org", "acme"],
        ["0a" * 16, "--all", "--org", "acme", "--yes", "acme"],
    ],
)
def test_what_revokes_nothing(arguments: list[str]) -> None:
    """Without one clear wish, or without the org's name where all of it ends, nothing is sent."""
    node = Node({MANY: many(9)})
    result = run("token", "revoke", *arguments, node=node)
    assert result.exit_code == 2
    assert node.requests == []
