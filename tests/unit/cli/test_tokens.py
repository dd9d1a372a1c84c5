"""`petsem token`: minting, narrowing, asking, revoking; never a token where it can be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petsem.clock import rfc3339
from petsem.tokens.text import parse_token
from petsem.tokens.verifier import verify_signatures
from tests.unit.cli.support import FRESHNESS, NOW_MS, TOKEN, Node, run
from tests.unit.tokens.build import IDENTIFIER, SECRET, derived

MINTED = {
    "token": TOKEN,
    "id": "0a" * 16,
    "expires_at": "2027-01-16T08:00:00Z",
    "position": "00000001-0000000000000009",
}
MINT = "POST /v1/tokens"
A_DAY = f"time < {rfc3339(NOW_MS + 86_400_000)}"


def test_create_sends_caveats_and_prints_only_the_token() -> None:
    """The org is a field; the rest is on stderr, so that `$(…)` gets the token alone."""
    node = Node({MINT: MINTED})
    result = run(
        "token", "create", "-a", "acme/web", "--action", "secrets:read,secrets:list",
        "--machine", "m1", "--secret", "DB_*", "--caveat", "region in ams, fra", "--kind", "host",
        "--label", "the host", node=node,
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.stdout == f"{TOKEN}\n"
    assert result.stderr == f"token {'0a' * 16}, good until 2027-01-16T08:00:00Z\n"
    assert node.bodies == [
        {
            "org": "acme",
            "kind": "host",
            "label": "the host",
            "caveats": [
                "app = web",
                "action in secrets:read, secrets:list",
                "machine = m1",
                "secret = DB_*",
                "region in ams, fra",
                A_DAY,
            ],
        }
    ]


def test_a_mint_call_is_narrowed_by_org_and_time_only() -> None:
    """The new token inherits its asker's caveats; PETSEM_APP is none of them."""
    node = Node({MINT: MINTED})
    args = ("token", "create", "--action", "secrets:read")
    run(*args, "-a", "acme/web", node=node)
    run(*args, node=node)
    minute = f"time < {rfc3339(NOW_MS + 60_000)}"
    assert node.scopes == [["org = acme", minute], [minute]]
    assert node.bodies[1]["org"] is None
    assert node.bodies[1]["caveats"] == ["action = secrets:read", A_DAY]


def test_create_into_a_file(tmp_path: Path) -> None:
    """Mode 0600, never over another file, and not on stdout."""
    out = tmp_path / "t"
    node = Node({MINT: MINTED})
    args = ("token", "create", "--org", "acme", "--action", "secrets:read", "--out", str(out))
    result = run(*args, node=node)
    assert result.exit_code == 0
    assert (out.read_text(), out.stat().st_mode & 0o777) == (f"{TOKEN}\n", 0o600)
    assert TOKEN not in result.stdout + result.stderr
    again = run(*args, node=node)
    assert again.exit_code == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--org", "acme"], "say what the token may do"),
        (["--org", "b", "-a", "acme/web"], "different orgs"),
        (["--action", "hunter2 x"], "an action must be"),
        (["--action", "a", "--ttl", "hunter2"], "--ttl is a number and a unit"),
        (["--action", "a", "--ttl", "0s"], "--ttl is a number and a unit"),
        (["--action", "a", "--caveat", "hunter2=x"], "caveat 1 is not in the grammar"),
        (["--action", "a", "--caveat", "a = b", "--caveat", "hunter2"], "caveat 2 is not"),
        (["--action", "hunter2*"], "not in the grammar"),
        (["--action", "a", "--label", "hunter2" * 40], "a label has at most"),
    ],
)
def test_caveats_that_are_refused(arguments: list[str], says: str) -> None:
    """By their number, unquoted, and before anything is sent."""
    node = Node({MINT: MINTED})
    result = run("token", "create", *arguments, node=node)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "hunter" not in result.stderr
    assert node.requests == []


def test_attenuate_is_offline_and_only_adds() -> None:
    """The result verifies under the same root key with the caveats in their fixed order."""
    result = run(
        "token", "attenuate", "--ttl", "90s", "--machine", "m1", "-a", "acme/web", "--action",
        "secrets:read", env={"PETSEM_ADDR": None},
    )  # fmt: skip
    assert result.exit_code == 0
    caveats = verify_signatures(parse_token(result.stdout.strip()), derived(SECRET))
    assert [each.decode() for each in caveats[2:]] == [
        "org = acme",
        "app = web",
        "action = secrets:read",
        "machine = m1",
        f"time < {rfc3339(NOW_MS + 90_000)}",
    ]


def test_attenuate_takes_the_token_from_a_file_or_stdin(tmp_path: Path) -> None:
    """Never from argv; without any caveat it refuses."""
    file = tmp_path / "t"
    file.write_text(TOKEN)
    file.chmod(0o600)
    none: dict[str, str | None] = {"PETSEM_TOKEN": None}
    args = ("token", "attenuate", "--org", "acme", "--token-file")
    from_file = run(*args, str(file), env=none)
    from_stdin = run(*args, "-", stdin=f"  {TOKEN}\n", env=none)
    assert from_file.stdout == from_stdin.stdout
    assert from_file.stdout.startswith("petsem_")
    assert run("token", "attenuate").exit_code == 2
    assert run(*args, "-", stdin="", env=none).exit_code == 2
    assert run(*args, "-", stdin=b"\xff", env=none).exit_code == 2
    assert run(*args, TOKEN, env=none).exit_code == 2
    assert TOKEN not in run(*args, TOKEN, env=none).stderr
    assert run(*args, str(tmp_path / "none"), env=none).exit_code == 2


def test_attenuate_into_a_file(tmp_path: Path) -> None:
    """As with create."""
    out = tmp_path / "t"
    result = run("token", "attenuate", "--org", "acme", "--out", str(out))
    assert result.exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert parse_token(out.read_text().strip()).root.caveats[-1].cid == b"org = acme"
    assert "petsem_" not in result.stdout


def test_inspect_is_marked_unverified() -> None:
    """It shows claims, says that they are, and prints nothing that works as a token."""
    result = run("token", "inspect", env={"PETSEM_ADDR": None})
    assert result.exit_code == 0
    assert "verified     False" in result.stdout
    assert f"token_id     {IDENTIFIER.token_id}" in result.stdout
    assert "caveat       action in secrets:read, secrets:write" in result.stdout
    assert result.stderr.startswith("unverified:")
    as_json = json.loads(run("token", "inspect", "-o", "json").stdout)
    assert as_json["verified"] is False
    assert TOKEN not in json.dumps(as_json)
    assert parse_token(TOKEN).root.signature.hex() not in json.dumps(as_json)


def verdict(**fields: Any) -> dict[str, Any]:
    """An answer to verify or can."""
    return {"freshness": FRESHNESS, **fields}


def test_verify_says_and_exits() -> None:
    """0 and the subject, or 3 with the reason and the caveat."""
    yes = verdict(
        allowed=True, token_id="0a" * 16, subject="host:1", expires_at="2027-01-16T08:00:00Z"
    )
    no = verdict(allowed=False, reason="CAVEAT", message="no", caveat="app = api")
    node = Node({"POST /v1/tokens/verify": [lambda r: _json(yes), lambda r: _json(no)]})
    args = (
        "token", "verify", "secrets:read", "-a", "acme/web", "--machine", "m1",
        "--attribute", "region=ams", "--max-staleness", "5", "--token-file", "-",
    )  # fmt: skip
    allowed = run(*args, node=node, stdin="petsem_other")
    refused = run(*args, node=node, stdin="petsem_other")
    assert (allowed.exit_code, allowed.stdout) == (
        0,
        "allowed: host:1, until 2027-01-16T08:00:00Z\n",
    )
    assert (refused.exit_code, refused.stdout) == (
        3,
        "refused, CAVEAT: no (caveat: app = api)\n",
    )
    assert node.bodies[0] == {
        "token": "petsem_other",
        "access": {
            "action": "secrets:read",
            "org": "acme",
            "app": "web",
            "machine": "m1",
            "region": "ams",
        },
        "max_staleness_s": 5,
    }
    assert node.scopes[0][:2] == ["org = acme", "action = tokens:verify"]
    assert "idempotency-key" not in node.requests[0].headers


def _json(body: Any) -> Any:
    from tests.unit.cli.support import answer

    return answer(body)


def test_can_is_a_dry_run_about_the_callers_own_token() -> None:
    """Its words cannot be taken for verify's."""
    node = Node({"POST /v1/tokens/can": verdict(would_allow=True, subject="host:1")})
    result = run("token", "can", "x:y", "--org", "acme", node=node)
    assert (result.exit_code, result.stdout) == (0, "would be allowed: host:1, until -\n")
    assert node.bodies[0]["token"] == TOKEN
    mixed = Node({"POST /v1/tokens/can": verdict(allowed=True)})
    assert run("token", "can", "x:y", "--org", "acme", node=mixed).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["hunter2 x", "--org", "acme"],
        ["a"],
        ["a", "--org", "Hunter2"],
        ["a", "--org", "b", "-a", "acme/web"],
        ["a", "--org", "acme", "--attribute", "hunter2"],
        ["a", "--org", "acme", "--attribute", "action=hunter2"],
        ["a", "--org", "acme", "--attribute", "x=hunter2,2"],
        ["a", "--org", "acme", "--machine", "hunter2 2"],
    ],
)
def test_accesses_that_are_none(arguments: list[str]) -> None:
    """Refused here, unquoted."""
    for verb in ("verify", "can"):
        result = run("token", verb, *arguments)
        assert result.exit_code == 2
        assert "unter2" not in result.stderr


REVOKED = {
    "id": "0a" * 16,
    "revoked_at": "2027-01-15T08:00:00Z",
    "position": "00000001-0000000000000009",
    "durability": {"asked": {"replicated": 1}, "met": False, "replicated_to": []},
}


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
    """It is in the history now, which is said, with the way to revoke it."""
    for args in ((TOKEN,), ("hunter2",), (), ("0a" * 16, "--token-file", "-")):
        result = run("token", "revoke", *args, stdin=TOKEN)
        assert result.exit_code == 2
        assert TOKEN not in result.stderr
        assert "hunter2" not in result.stderr
    assert "shell's history" in run("token", "revoke", TOKEN).stderr


def test_list_shows_no_token() -> None:
    """Ids, subjects, caveats and states; a label cannot draw on the screen."""
    info = {
        "id": "0a" * 16,
        "kind": "deploy",
        "subject": "deploy:1",
        "label": "ci\x1b[31m[bold]",
        "parent": None,
        "caveats": ["org = acme", "time < 2027-01-16T08:00:00Z"],
        "created_at": "2027-01-15T08:00:00Z",
        "created_by": "operator:2",
        "expires_at": "2027-01-16T08:00:00Z",
        "state": "live",
        "revoked_at": None,
    }
    node = Node({"GET /v1/orgs/acme/tokens": {"tokens": [info], "next": None}})
    result = run("token", "list", "--org", "acme", node=node)
    assert result.exit_code == 0
    assert "ci\\x1b[31m[bold]" in result.stdout
    assert "org = acme; time < 2027-01-16T08:00:00Z" in result.stdout


def test_rotate_key() -> None:
    """An operator's call for one org."""
    reply = {"key_id": "0b" * 16, "retired": ["0a" * 16], "position": "00000001-0000000000000009"}
    node = Node({"POST /v1/orgs/acme/root-keys": reply})
    result = run("token", "rotate-key", "acme", node=node)
    assert result.stdout == f"tokens of acme are now minted under root key {'0b' * 16}\n"
    assert node.scopes[0][:2] == ["org = acme", "action = orgs:admin"]
