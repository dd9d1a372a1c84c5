"""`secrets set` and `import`: what is sent and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petsem.limits import VALUE_MAX_BYTES
from tests.unit.cli.support import APP, PATCHED, Node, listed, problem, run
from tests.unit.cli.test_import_dotenv import DEMO, DEMO_VALUES

PATCH = f"PATCH {APP}/secrets"
LIST = f"GET {APP}/secrets"
DIFF = f"POST {APP}/secrets/diff"


def set_values(*args: str, stdin: str | bytes | None = None) -> tuple[Any, Any]:
    """The result of `secrets set ARGS`, and the `set` of the body it sent."""
    node = Node({PATCH: PATCHED})
    result = run("secrets", "set", *args, node=node, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    (body,) = node.bodies
    return result, body["set"]


def test_a_pipe_loses_exactly_one_newline_and_says_so() -> None:
    """`echo value |` is the common case; the byte count shows what was kept."""
    result, values = set_values("A", stdin="värde\n\n")
    assert values == {"A": "värde\n"}
    assert "A: one final newline dropped, 7 bytes left (--exact keeps the newline)" in result.stderr


def test_a_pipe_without_a_newline_is_kept_in_silence() -> None:
    """`printf value |` means what it says."""
    result, values = set_values("A", stdin="value")
    assert values == {"A": "value"}
    assert result.stderr == ""


def test_an_empty_pipe_is_pointed_out() -> None:
    """Whoever writes `-` means stdin, but the command before it may have failed."""
    result, values = set_values("A=-", stdin="")
    assert values == {"A": ""}
    assert result.stderr == "A: stdin was empty, so the value is empty\n"


def test_exact_keeps_the_newline() -> None:
    """For what must end in one."""
    result, values = set_values("A", "--exact", stdin="value\n")
    assert values == {"A": "value\n"}
    assert result.stderr == ""


def test_a_carriage_return_is_pointed_out() -> None:
    """It is invisible, and part of the value."""
    result, values = set_values("A", stdin="value\r\n")
    assert values == {"A": "value\r"}
    assert "ends with a carriage return" in result.stderr


def test_bytes_that_are_not_text_travel_as_base64() -> None:
    """Any bytes can be a secret."""
    _, values = set_values("A=-", stdin=b"\xff\x00\xfe")
    assert values == {"A": {"base64": "/wD+"}}


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    """No newline is dropped; several names make one batch."""
    (tmp_path / "a").write_bytes(b"one\n")
    (tmp_path / "b").write_bytes(b"")
    result, values = set_values(f"A=@{tmp_path}/a", f"B=@{tmp_path}/b", "C=-", stdin="three")
    assert values == {"A": "one\n", "B": "", "C": "three"}
    assert result.stderr == ""


def test_the_largest_value_and_one_byte_more() -> None:
    """64 KiB fit, with the newline that is dropped; more is refused before it is sent."""
    _, values = set_values("A", stdin="x" * VALUE_MAX_BYTES + "\n")
    assert len(values["A"]) == VALUE_MAX_BYTES
    node = Node({PATCH: PATCHED})
    result = run("secrets", "set", "A", node=node, stdin="x" * (VALUE_MAX_BYTES + 1))
    assert result.exit_code == 2
    assert "A: the value has 65,537 bytes; the most is 65,536" in result.stderr
    assert node.requests == []


@pytest.mark.parametrize("argument", ["A=hunter2", "A=", "A= ", "A=a=b"])
def test_a_value_in_argv_is_refused_and_not_repeated(argument: str) -> None:
    """The ways that are safe are named, and the shell's history."""
    node = Node({PATCH: PATCHED})
    result = run("secrets", "set", "B=-", argument, node=node, stdin="x")
    assert result.exit_code == 2
    for word in ("NAME=-", "NAME=@FILE", "history", "--allow-argv"):
        assert word in result.stderr
    assert "hunter2" not in result.stderr
    assert node.requests == []


def test_allow_argv_takes_it() -> None:
    """For values that are no secret, or machines without other users."""
    _, values = set_values("A=b=c", "B=", "--allow-argv")
    assert values == {"A": "b=c", "B": ""}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("A", "hunter2"), "stdin holds one value only"),
        (("A=-", "hunter2=-"), "stdin holds one value only"),
        (("hunter2=-", "hunter2=-"), "given twice"),
        (("A=-", "hunter 2"), "argument 2 does not start with a secret's name"),
        (("=hunter2",), "argument 1 does not start"),
        (("A=@/nonexistent/hunter2",), "the file for A cannot be read: No such file"),
        (("A=@",), "the file for A cannot be read"),
    ],
)
def test_arguments_that_are_refused(arguments: tuple[str, ...], says: str) -> None:
    """In our words: what was typed may be the secret itself."""
    node = Node({PATCH: PATCHED})
    result = run("secrets", "set", *arguments, node=node, stdin="x")
    assert result.exit_code == 2
    assert says in result.stderr
    assert "hunter" not in result.stderr
    assert node.requests == []


def test_conditions_and_durability_travel() -> None:
    """--if-version and --durability are the body's fields."""
    node = Node({PATCH: PATCHED})
    args = ("secrets", "set", "A", "--if-version", "0", "--durability", "replicated=2")
    assert run(*args, node=node, stdin="x").exit_code == 0
    (body,) = node.bodies
    assert (body["if_version"], body["durability"]) == (0, {"replicated": 2})


@pytest.mark.parametrize("wish", ["replicated", "replicated=0", "replicated=x", "remote", ""])
def test_a_durability_that_is_none(wish: str) -> None:
    """Refused before anything is read or sent."""
    result = run("secrets", "set", "A", "--durability", wish, stdin="x")
    assert result.exit_code == 2
    assert "'local' or 'replicated=K'" in result.stderr


def test_durability_that_was_not_met() -> None:
    """The write stands: a warning and exit 0, or 6 with --require; the result is printed."""
    report = {"asked": {"replicated": 2}, "met": False, "replicated_to": ["fra-1"]}
    node = Node({PATCH: {**PATCHED, "durability": report}})
    plain = run("secrets", "set", "A", node=node, stdin="x")
    required = run("secrets", "set", "A", "--require", node=node, stdin="x")
    assert (plain.exit_code, required.exit_code) == (0, 6)
    assert plain.stdout == required.stdout
    assert "warning: the change stands, but replicated=2 was not reached" in plain.stderr
    assert "acme/web is at version 7, durable on the leader and on fra-1" in plain.stdout


def test_what_set_prints() -> None:
    """Names, the new version, digests, where it is durable; with -o json the node's answer."""
    body = {**PATCHED, "set": [{"name": "A", "digest": "0a" * 16}], "unset": ["B"]}
    node = Node({PATCH: body})
    table = run("secrets", "set", "A", node=node, stdin="x")
    assert table.stdout == (
        "acme/web is at version 7, durable on the leader\n"
        "NAME  CHANGE  DIGEST\n"
        f"A     set     {'0a' * 16}\n"
        "B     unset   -\n"
    )
    as_json = run("secrets", "set", "A", "-o", "json", node=node, stdin="x")
    assert json.loads(as_json.stdout) == body


def test_a_conflict_is_exit_5() -> None:
    """With the node's sentence, which tells the version."""
    node = Node({PATCH: problem(409, "conflict", "the app is at version 9, not 3")})
    result = run("secrets", "set", "A", "--if-version", "3", node=node, stdin="x")
    assert (result.exit_code, result.stderr) == (5, "petsem: the app is at version 9, not 3\n")


def test_the_app_comes_from_the_option_or_the_environment() -> None:
    """-a wins; without both, a sentence."""
    path = "/v1/orgs/other/apps/api/secrets"
    node = Node({f"PATCH {path}": PATCHED})
    assert run("secrets", "set", "A", "-a", "other/api", node=node, stdin="x").exit_code == 0
    missing = run("secrets", "set", "A", stdin="x", env={"PETSEM_APP": None})
    assert (missing.exit_code, "-a ORG/APP or set PETSEM_APP" in missing.stderr) == (2, True)
    for bad in ("hunter2", "hunter2/", "/hunter2", "hunter2/Web", "a/b/hunter2"):
        result = run("secrets", "set", "A", "-a", bad, stdin="x")
        assert result.exit_code == 2
        assert "hunter2" not in result.stderr


def test_import_sends_one_batch() -> None:
    """The demonstration's file, byte for byte, in one PATCH."""
    node = Node({PATCH: PATCHED})
    assert run("secrets", "import", str(DEMO), node=node).exit_code == 0
    (body,) = node.bodies
    assert body["set"] == DEMO_VALUES
    assert body["unset"] == []


def test_import_reads_stdin_as_dotenv_or_as_told() -> None:
    """`-` is the default; --format says what comes."""
    node = Node({PATCH: PATCHED})
    run("secrets", "import", node=node, stdin="A=1\n")
    run("secrets", "import", "-", "--format", "json", node=node, stdin='{"A": "2"}')
    run("secrets", "import", "--format", "yaml", node=node, stdin="A: '3'")
    assert [body["set"] for body in node.bodies] == [{"A": "1"}, {"A": "2"}, {"A": "3"}]


def test_prune_unsets_what_the_file_does_not_name() -> None:
    """Under the version at which the decision was made."""
    node = Node({LIST: listed("A", "B", "C", version=12), PATCH: PATCHED})
    assert run("secrets", "import", "--prune", node=node, stdin="B=1\nD=2\n").exit_code == 0
    (body,) = node.bodies
    assert (body["set"], body["unset"], body["if_version"]) == (
        {"B": "1", "D": "2"},
        ["A", "C"],
        12,
    )
    assert [scope[2] for scope in node.scopes] == [
        "action = secrets:list",
        "action = secrets:write",
    ]


def test_prune_says_that_it_sees_only_a_part() -> None:
    """A filtered token cannot remove what it cannot see."""
    node = Node({LIST: listed("A", filtered=True), PATCH: PATCHED})
    result = run("secrets", "import", "--prune", node=node, stdin="B=1\n")
    assert "sees only some of the app's secrets" in result.stderr


def test_dry_run_changes_nothing() -> None:
    """The body of the PATCH goes to diff; names are shown by what would become of them."""
    node = Node(
        {LIST: listed("A", "B"), DIFF: {"added": ["N"], "removed": ["B"], "present": ["A"]}}
    )
    result = run("secrets", "import", "--dry-run", "--prune", node=node, stdin="A=1\nN=2\n")
    assert result.exit_code == 0
    assert result.stdout == "NAME  WOULD BE\nA     present\nB     removed\nN     added\n"
    assert {request.method for request in node.requests} == {"GET", "POST"}
    assert "idempotency-key" not in node.requests[-1].headers
    assert node.scopes[-1][2] == "action in secrets:write, secrets:read"
    assert node.bodies[0]["unset"] == ["B"]


def test_dry_run_for_a_reader() -> None:
    """Readers learn which values differ; in JSON the answer is passed on."""
    body = {"added": [], "removed": [], "same": ["A"], "changed": ["B"]}
    node = Node({DIFF: body})
    table = run("secrets", "import", "--dry-run", node=node, stdin="A=1\nB=2\n")
    assert table.stdout == "NAME  WOULD BE\nA     same\nB     changed\n"
    as_json = run("secrets", "import", "--dry-run", "-o", "json", node=node, stdin="A=1\nB=2\n")
    assert json.loads(as_json.stdout) == body
