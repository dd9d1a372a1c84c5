"""`secrets unset`, `rollback`, `destroy`: what is sent and what is said."""

from __future__ import annotations

from tests.unit.cli.support import APP, PATCHED, Node, listed, problem, run

PATCH = f"PATCH {APP}/secrets"
LIST = f"GET {APP}/secrets"


def test_unset_names() -> None:
    """One batch; a name that is not there is the node's exit 4."""
    node = Node({PATCH: [lambda r: problem(404, "not_found", "there is no secret B")(r)]})
    result = run("secrets", "unset", "A", "B", node=node)
    assert (result.exit_code, result.stderr) == (4, "petsem: there is no secret B\n")
    assert node.bodies[0]["unset"] == ["A", "B"]


def test_unset_if_exists() -> None:
    """Only what is there, under the version at which that was seen; nothing at all is fine."""
    node = Node({LIST: listed("A", version=5), PATCH: PATCHED})
    assert run("secrets", "unset", "A", "B", "--if-exists", node=node).exit_code == 0
    assert (node.bodies[0]["unset"], node.bodies[0]["if_version"]) == (["A"], 5)
    none = run("secrets", "unset", "X", "--if-exists", node=node)
    assert (none.exit_code, "nothing to unset" in none.stderr) == (0, True)
    assert len(node.bodies) == 1


def test_rollback() -> None:
    """A new version with an old one's content."""
    node = Node({f"POST {APP}/rollback": PATCHED})
    assert run("secrets", "rollback", "3", "--if-version", "6", node=node).exit_code == 0
    assert node.bodies == [{"to": 3, "if_version": 6, "durability": None}]
    assert node.scopes[0][2] == "action = secrets:write"


def test_a_rollback_to_nothing_asks_for_the_app() -> None:
    """Without a terminal only --yes with the app's name does it; other versions are not asked."""
    node = Node({f"POST {APP}/rollback": PATCHED})
    for extra in ((), ("--yes", "web")):
        refused = run("secrets", "rollback", "0", *extra, node=node)
        assert refused.exit_code == 2
        assert node.requests == []
    assert "acme/web" in run("secrets", "rollback", "0", node=node).stderr
    assert run("secrets", "rollback", "0", "--yes", "acme/web", node=node).exit_code == 0
    assert node.bodies == [{"to": 0, "if_version": None, "durability": None}]


def test_nothing_is_destroyed_of_version_0() -> None:
    """Nothing is stored in it, and it is not the current one."""
    node = Node({})
    refused = run("secrets", "destroy", "A", "--yes", "acme/web", "--version", "0", node=node)
    assert (refused.exit_code, node.requests) == (2, [])


def test_destroy_asks_for_the_app() -> None:
    """Without a terminal only --yes with the app's name does it."""
    body = {
        "version": 8,
        "destroyed": [{"name": "A", "versions": [1, 4]}],
        "position": "00000001-0000000000000008",
        "message": "the values are gone",
    }
    node = Node({f"POST {APP}/secrets/destroy": body})
    for extra in ((), ("--yes", "web")):
        refused = run("secrets", "destroy", "A", *extra, node=node)
        assert refused.exit_code == 2
        assert node.requests == []
    done = run("secrets", "destroy", "A", "--yes", "acme/web", "--version", "4", node=node)
    assert done.exit_code == 0
    assert node.bodies == [{"names": ["A"], "version": 4}]
    assert node.scopes[0][2] == "action = secrets:delete"
    assert "the values are gone\n" in done.stdout
    assert "A     1, 4" in done.stdout
