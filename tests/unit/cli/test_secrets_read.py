"""`secrets list`, `get`, `history`, `diff`: no value but the one asked for, byte for byte."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.cli.support import APP, FRESHNESS, Node, answer, listed, run

VALUES = f"GET {APP}/secrets/values"


def values(**secrets: Any) -> dict[str, Any]:
    """An answer with values."""
    return {"version": 4, "secrets": secrets, "filtered": False, "freshness": FRESHNESS}


def test_list_shows_who_changed_what() -> None:
    """Names, versions, digests, times and subjects on stdout; where it is from on stderr."""
    result = run("secrets", "list", node=Node({f"GET {APP}/secrets": listed("A", "LONGER")}))
    assert result.stdout == (
        "NAME    VERSION  DIGEST                            CHANGED               BY\n"
        f"A       1        {'0a' * 16}  2027-01-15T08:00:00Z  deploy:1\n"
        f"LONGER  1        {'0a' * 16}  2027-01-15T08:00:00Z  deploy:1\n"
    )
    assert result.stderr == "acme/web is at version 3, as leader ams-1 in ams knows it\n"


def test_list_says_that_it_was_filtered() -> None:
    """An empty list may be the token's doing."""
    result = run("secrets", "list", node=Node({f"GET {APP}/secrets": listed(filtered=True)}))
    assert result.stdout == ""
    assert "this token sees only some" in result.stderr


def test_get_writes_the_bytes_and_nothing_else() -> None:
    """Text, empty text, bytes that are no text."""
    for sent, wanted in (("grün\n", "grün\n".encode()), ("", b""), ({"base64": "/wA="}, b"\xff\0")):
        node = Node({VALUES: values(A=sent)})
        result = run("secrets", "get", "A", node=node)
        assert result.exit_code == 0
        assert result.stdout_bytes == wanted
        assert result.stderr == ""
        assert node.requests[0].url.query == b"names=A"
        assert node.scopes[0][2] == "action = secrets:read"


def test_get_as_json() -> None:
    """Text as text, anything else as base64, told apart."""
    text = run("secrets", "get", "A", "-o", "json", node=Node({VALUES: values(A="x\n")}))
    assert json.loads(text.stdout) == {"name": "A", "version": 4, "value": "x\n"}
    raw = run(
        "secrets", "get", "A", "-o", "json", node=Node({VALUES: values(A={"base64": "/w=="})})
    )
    assert json.loads(raw.stdout)["value"] == {"base64": "/w=="}


def test_get_at_a_version_for_a_machine() -> None:
    """Both travel as parameters."""
    node = Node({VALUES: values(A="x")})
    run("secrets", "get", "A", "--version", "2", "--machine", "3d8d", node=node)
    assert dict(node.requests[0].url.params) == {"names": "A", "version": "2", "machine": "3d8d"}


def test_get_of_what_is_not_there() -> None:
    """Exit code 4, without saying whether it is absent or hidden."""
    result = run("secrets", "get", "A", node=Node({VALUES: values()}))
    assert (result.exit_code, result.stdout) == (4, "")


def test_get_of_broken_base64() -> None:
    """A node that sends nonsense is a fault, and the nonsense is not shown."""
    node = Node({VALUES: values(A={"base64": "hunter2!"})})
    result = run("secrets", "get", "A", node=node)
    assert result.exit_code == 1
    assert "hunter2" not in result.stderr


def version(number: int, **changes: Any) -> dict[str, Any]:
    """One entry of the history."""
    return {
        "version": number,
        "created_at": "2027-01-15T08:00:00Z",
        "updated_by": {"subject": "person:a@example.com", "token_id": "00" * 16},
        "change": "set",
        "rolled_back_to": None,
        "set": [],
        "unset": [],
        **changes,
    }


def test_history_follows_its_pages() -> None:
    """Newest first, page after page, up to the limit."""
    pages = {
        "": ([version(9, set=["A", "B"]), version(8, change="destroy", unset=["C"])], 8),
        "before=8": ([version(7, change="rollback", rolled_back_to=2, set=["A"])], 7),
        "before=7": ([version(6)], None),
    }

    def handle(request: Any) -> Any:
        versions, following = pages[request.url.query.decode()]
        return answer({"versions": versions, "next": following, "freshness": FRESHNESS})

    node = Node({f"GET {APP}/versions": handle})
    result = run("secrets", "history", node=node)
    changes = [line.split("  ")[-1].strip() for line in result.stdout.splitlines()[1:]]
    assert changes == ["set A, B", "destroyed values; unset C", "back to 2; set A", "-"]
    short = run("secrets", "history", "--limit", "2", "-o", "json", node=node)
    assert [each["version"] for each in json.loads(short.stdout)["versions"]] == [9, 8]


def test_a_listing_without_end_is_an_error() -> None:
    """A node that repeats its cursor does not keep us for ever."""
    page = {"versions": [version(9)], "next": 9, "freshness": FRESHNESS}
    result = run("secrets", "history", node=Node({f"GET {APP}/versions": page}))
    assert result.exit_code == 1
    assert "does not come to an end" in result.stderr


def test_diff_compares_digests() -> None:
    """Added, removed, changed; a value set again to the same is no difference."""
    old = listed("A", "B", "C")
    new = listed("A", "B", "D")
    old["version"], new["version"] = 2, 5
    new["secrets"][0]["version"] = 5
    new["secrets"][1]["digest"] = "0b" * 16

    def handle(request: Any) -> Any:
        return answer({"version=2": old, "version=5": new}[request.url.query.decode()])

    node = Node({f"GET {APP}/secrets": handle})
    result = run("secrets", "diff", "2", "5", node=node)
    assert result.stdout == "NAME  CHANGE\nB     changed\nC     removed\nD     added\n"
    same = run("secrets", "diff", "2", "2", node=node)
    assert (same.stdout, "hold the same" in same.stderr) == ("", True)


def test_diff_from_the_beginning() -> None:
    """Nothing is in version 0, which is not asked for: to a node that is the current one."""
    new = listed("A")
    new["version"] = 2
    node = Node({f"GET {APP}/secrets": new})
    assert run("secrets", "diff", "0", "2", node=node).stdout == "NAME  CHANGE\nA     added\n"
    assert [request.url.query for request in node.requests] == [b"version=2"]


def test_get_of_version_0_is_refused() -> None:
    """It holds nothing, and the current one is not what was asked for."""
    node = Node({})
    assert run("secrets", "get", "A", "--version", "0", node=node).exit_code == 2
    assert node.requests == []


def test_diff_does_not_take_the_current_version_for_an_old_one() -> None:
    """A node that does not know the parameter must not make every diff look empty."""
    result = run("secrets", "diff", "1", "2", node=Node({f"GET {APP}/secrets": listed("A")}))
    assert (result.exit_code, result.stdout) == (1, "")


def test_history_shortens_long_lists_for_people() -> None:
    """JSON has every name."""
    names = [f"N{number}" for number in range(40)]
    body = {"versions": [version(1, set=names)], "next": None, "freshness": FRESHNESS}
    node = Node({f"GET {APP}/versions": body})
    assert "set N0, N1, N2, N3, N4 and 35 more\n" in run("secrets", "history", node=node).stdout
    as_json = run("secrets", "history", "-o", "json", node=node)
    assert json.loads(as_json.stdout)["versions"][0]["set"] == names
