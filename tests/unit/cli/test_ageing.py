"""A word on a token that is near its end: when it is said, when not, and by which clock."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from petsem.clock import ManualClock, rfc3339
from petsem.model import LIFE_DEFAULT_S, Kind
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import encode_part, encode_token
from tests.unit.cli.signing_in import HOUR_MS, LIST, LISTED, Authority, petsem, signed_in
from tests.unit.cli.support import NOW_MS, Node, answer, run
from tests.unit.tokens.build import SECRET, made, required

SECRETS = ("secrets", "list")


def token(kind: Kind, until_ms: int, *more: str) -> str:
    """A token of that kind that ends then."""
    identifier = Identifier(bytes(16), kind, bytes(16), bytes(16), 1, 1).encode()
    caveats = [*more, f"time < {rfc3339(until_ms)}"]
    return encode_part(made(SECRET, identifier, [each.encode() for each in caveats]))


def said(text: str, *args: str) -> str:
    """What is said on stderr of a token in the environment."""
    node = Node({LIST: LISTED})
    result = run(*(args or SECRETS), node=node, env={"PETSEM_TOKEN": text})
    assert result.exit_code == 0, result.stderr
    return "\n".join(line for line in result.stderr.splitlines() if "warning" in line)


@pytest.mark.parametrize("kind", Kind)
def test_the_last_tenth_of_the_usual_life(kind: Kind) -> None:
    """Of a token in the environment nobody knows the age: its kind's usual life is taken."""
    tenth_ms = LIFE_DEFAULT_S[kind] * 100
    assert said(token(kind, NOW_MS + tenth_ms)) == ""
    until_ms = NOW_MS + tenth_ms - 1000
    assert said(token(kind, until_ms)) == (
        f"warning: the token in use ends at {rfc3339(until_ms)}; ask for a new one before that"
    )


def test_once_a_command() -> None:
    """However many calls a command makes."""
    calls: list[int] = []

    def paged(_: object) -> object:
        calls.append(1)
        return answer({"tokens": [], "next": f"n{len(calls)}" if len(calls) < 4 else None})

    node = Node({"GET /v1/orgs/acme/tokens": paged})
    env = {"PETSEM_TOKEN": token(Kind.ORG, NOW_MS + HOUR_MS)}
    result = run("token", "list", "--org", "acme", node=node, env=env)
    assert (len(calls), result.stderr.count("warning")) == (4, 1)


def test_a_program_is_not_warned() -> None:
    """With -o json nothing is said."""
    assert said(token(Kind.ORG, NOW_MS + HOUR_MS), *SECRETS, "-o", "json") == ""


def test_what_is_over_is_the_nodes_to_refuse() -> None:
    """No word from us."""
    assert said(token(Kind.ORG, NOW_MS - 1000)) == ""


def test_tokens_of_which_nothing_is_known() -> None:
    """One without an end, and one that another program minted, are let pass."""
    identifier = Identifier(bytes(16), Kind.ORG, bytes(16), bytes(16), 1, 1).encode()
    assert said(encode_part(made(SECRET, identifier, [b"org = acme"]))) == ""
    ends = f"time < {rfc3339(NOW_MS + 1000)}".encode()
    assert said(encode_part(made(SECRET, b"theirs", [ends]))) == ""


def test_the_earliest_end_counts() -> None:
    """Of the token's own caveats and its discharges'."""
    root = made(
        SECRET,
        Identifier(bytes(16), Kind.DEPLOY, bytes(16), bytes(16), 1, 1).encode(),
        [f"time < {rfc3339(NOW_MS + 80 * 24 * HOUR_MS)}".encode()],
    )
    soon = f"time < {rfc3339(NOW_MS + HOUR_MS)}"
    discharge = made(b"key", b"ticket", [soon.encode()])
    text = encode_token(required(root, b"key", b"ticket"), [discharge])
    assert rfc3339(NOW_MS + HOUR_MS) in said(text)


@pytest.mark.parametrize(
    ("age_s", "warned"), [(0, False), (8_999, False), (9_001, True), (-5, True)]
)
def test_the_age_of_a_file(age_s: int, warned: bool, tmp_path: Path) -> None:
    """A token in a file is as old as the file; a file from the future says nothing."""
    file = tmp_path / "a.token"
    left_s = 1_000
    file.write_text(token(Kind.DEPLOY, NOW_MS + left_s * 1000))
    file.chmod(0o600)
    written_s = NOW_MS / 1000 - age_s
    os.utime(file, (written_s, written_s))
    env = {"PETSEM_TOKEN": None, "PETSEM_TOKEN_FILE": str(file)}
    result = run(*SECRETS, node=Node({LIST: LISTED}), env=env)
    assert result.exit_code == 0
    assert ("ask for a new one" in result.stderr) is warned


def test_a_sign_in(tmp_path: Path) -> None:
    """Its last 72 minutes, by what was recorded, renewals or not."""
    node = Authority(ManualClock(NOW_MS))
    signed_in(tmp_path, node)
    node.clock.advance(12 * 3600 * 0.9 - 1)
    args = (*SECRETS, "-a", "acme/web")
    assert "warning" not in petsem(tmp_path, node, *args).stderr
    node.clock.advance(2)
    ends = "warning: the sign-in to acme ends at 2027-01-15T20:00:00Z; sign in again with: "
    assert f"{ends}petsem login acme\n" in petsem(tmp_path, node, *args).stderr
    assert json.loads(petsem(tmp_path, node, *args, "-o", "json").stdout)["version"] == 3
