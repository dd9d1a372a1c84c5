"""`petsem token`: minting, narrowing, asking, revoking; never a token where it can be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petsem.clock import rfc3339
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.verifier import verify_signatures
from tests.unit.cli.support import FRESHNESS, NOW_MS, TOKEN, Node, run
from tests.unit.tokens.build import IDENTIFIER, SECRET, bound, derived, made, required

MINTED = {
    "token": TOKEN,
    "id": "0a" * 16,
    "expires_at": "2027-01-16T08:00:00Z",
    "position": "00000001-0000000000000009",
}
MINT = "POST /v1/tokens"
A_DAY = f"time < {rfc3339(NOW_MS + 86_400_000)}"
NINETY_DAYS = f"time < {rfc3339(NOW_MS + 90 * 86_400_000 - 60_000)}"


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
                NINETY_DAYS,
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


@pytest.mark.parametrize(
    ("arguments", "life_s"),
    [
        ([], 86_400),
        (["--kind", "operator"], 86_400),
        (["--org", "acme"], 90 * 86_400 - 60),
        (["-a", "acme/web"], 90 * 86_400 - 60),
        (["--org", "acme", "--kind", "deploy"], 90 * 86_400 - 60),
        (["--org", "acme", "--kind", "read-only"], 90 * 86_400 - 60),
        (["--org", "acme", "--kind", "host"], 90 * 86_400 - 60),
        (["--org", "acme", "--kind", "service"], 900),
        (["--org", "acme", "--kind", "service", "--ttl", "1h"], 3_600),
    ],
)
def test_how_long_a_token_lives_if_nobody_says(arguments: list[str], life_s: int) -> None:
    """By its kind, the natural one if none is given; a clock a minute ahead of the node's does not
    ask for more than it may live."""
    node = Node({MINT: MINTED})
    result = run("token", "create", "--action", "a", *arguments, node=node)
    assert result.exit_code == 0
    assert node.bodies[0]["caveats"][-1] == f"time < {rfc3339(NOW_MS + life_s * 1000)}"
    assert "good until 2027-01-16T08:00:00Z" in result.stderr


def test_kinds_that_can_be_minted() -> None:
    """The help offers what a node makes; a person's token comes from signing in."""
    told = run("token", "create", "--help").stdout
    assert "[operator|org|deploy|read-only|host|service]" in told
    node = Node({MINT: MINTED})
    result = run("token", "create", "--action", "a", "--kind", "person", node=node)
    assert (result.exit_code, node.requests) == (2, [])


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


def test_inspect_shows_what_has_to_be_discharged() -> None:
    """Where, whether the text has a discharge for it, and what that says; still unverified."""
    root = required(parse_token(TOKEN).root, b"caveat key", b"ticket" * 8)
    other = bound(root, made(b"other key", b"other", [b"whatever"]))
    discharge = bound(root, made(b"caveat key", b"ticket" * 8, [b"user = a@example.com"]))
    without = run("token", "inspect", env={"PETSEM_TOKEN": encode_token(root)})
    assert (
        "third party  https://auth.example, ticket 7469636b65747469…; its discharge is missing\n"
    ) in without.stdout
    text = encode_token(root, [discharge, other])
    shown = run("token", "inspect", env={"PETSEM_TOKEN": text})
    assert shown.stdout.splitlines()[-5:] == [
        "third party  https://auth.example, ticket 7469636b65747469…; its discharge is here",
        "discharge    petsem, ticket 7469636b65747469…",
        "  caveat     user = a@example.com",
        "discharge    petsem, ticket 6f74686572 (no caveat asks for it, so the token is refused)",
        "  caveat     whatever (not in the grammar, so it denies everything)",
    ]
    assert shown.stderr.startswith("unverified:")


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


INFO = {
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
    "last_seen": "2027-01-15T07:59:00Z",
}
LISTED = "GET /v1/orgs/acme/tokens"


def test_list_shows_no_token() -> None:
    """Ids, subjects, caveats, states, who made it and when it was seen; a label cannot draw on the
    screen."""
    node = Node({LISTED: {"tokens": [INFO, {**INFO, "last_seen": None}], "next": None}})
    result = run("token", "list", "--org", "acme", node=node)
    assert result.exit_code == 0
    heading, seen, unseen = result.stdout.splitlines()
    assert heading.split()[5:-1] == ["MADE", "BY", "LAST", "SEEN"]
    assert "ci\\x1b[31m[bold]  live" in seen
    assert "operator:2  2027-01-15T07:59:00Z  org = acme; time < 2027-01-16T08:00:00Z" in seen
    assert "operator:2  -  " in unseen


def test_list_of_one_state() -> None:
    """In both forms; the node is asked for all."""
    states = ("live", "expired", "revoked")
    tokens = [{**INFO, "id": f"{n:032x}", "state": state} for n, state in enumerate(states)]
    node = Node({LISTED: {"tokens": tokens, "next": None}})
    for number, state in enumerate(states):
        args = ("token", "list", "--org", "acme", "--state", state)
        assert f"{number:032x}" in run(*args, node=node).stdout.splitlines()[1]
        found = json.loads(run(*args, "-o", "json", node=node).stdout)["tokens"]
        assert [each["id"] for each in found] == [f"{number:032x}"]
    assert run("token", "list", "--state", "hunter2").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "there is no token of the cluster key\n"),
        (("--org", "acme"), "there is no token of acme\n"),
        (("--org", "acme", "--state", "live"), "there is no live token of acme\n"),
    ],
)
def test_list_of_nothing(arguments: tuple[str, ...], says: str) -> None:
    """It is said, as of sign-ins, and not where a program reads."""
    ended = [] if arguments[-1:] != ("live",) else [{**INFO, "state": "expired"}]
    listed = {"tokens": ended, "next": None}
    node = Node({LISTED: listed, "GET /v1/tokens": listed})
    result = run("token", "list", *arguments, node=node)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", says)
    result = run("token", "list", *arguments, "-o", "json", node=node)
    assert (json.loads(result.stdout), result.stderr) == ({"tokens": []}, "")


def test_rotate_key() -> None:
    """An operator's call for one org."""
    reply = {"key_id": "0b" * 16, "retired": ["0a" * 16], "position": "00000001-0000000000000009"}
    node = Node({"POST /v1/orgs/acme/root-keys": reply})
    result = run("token", "rotate-key", "acme", node=node)
    assert result.stdout == f"tokens of acme are now minted under root key {'0b' * 16}\n"
    assert node.scopes[0][:2] == ["org = acme", "action = orgs:admin"]
