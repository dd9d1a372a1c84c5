"""`petsem token exchange` and `petsem boot allow`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petsem import base64url
from petsem.server.host_key import of_certificate
from petsem.tokens.macaroon import Macaroon, encode
from petsem.tokens.text import encode_part, parse_token
from petsem.tokens.thirdparty import require_discharge
from tests.unit.cli.support import TOKEN, Node, run
from tests.unit.server.certificates import make_authority, make_leaf

MADE = {
    "token": TOKEN,
    "id": "0a" * 16,
    "expires_at": "2027-01-15T08:15:00Z",
    "position": "00000001-0000000000000009",
    "renew_until": "2027-01-15T09:00:00Z",
}
ALLOWED = {
    "discharge": TOKEN,
    "grant": "0b" * 16,
    "expires_at": "2027-01-15T08:10:00Z",
    "position": "00000001-0000000000000009",
}
KEY = "ab" * 32
EXCHANGE = ("token", "exchange", "-a", "acme/web", "--machine", "m1", "--action")
ALLOW = ("boot", "allow", "-a", "acme/web", "--machine", "m1")


def exchanging() -> Node:
    return Node({"POST /v1/tokens/exchange": MADE})


def allowing() -> Node:
    return Node({"POST /v1/orgs/acme/boots": ALLOWED})


def host_token(ticket: bytes) -> str:
    root: Macaroon = parse_token(TOKEN).root
    return encode_part(require_discharge(root, b"petsem", bytes(32), ticket))


def test_exchange() -> None:
    """The token alone on stdout; the call is narrowed by org and time, since the new token inherits
    the rest."""
    node = exchanging()
    result = run(*EXCHANGE, "secrets:read,secrets:list", "--host-key", KEY, node=node)
    assert (result.exit_code, result.stdout) == (0, f"{TOKEN}\n")
    assert "to be renewed until 2027-01-15T09:00:00Z" in result.stderr
    assert node.bodies == [
        {
            "org": "acme",
            "app": "web",
            "machine": "m1",
            "host_key": KEY,
            "actions": ["secrets:read", "secrets:list"],
            "ttl_s": 900,
            "renewable": True,
        }
    ]
    assert [scope[:-1] for scope in node.scopes] == [["org = acme"]]


def test_the_key_of_a_certificate(tmp_path: Path) -> None:
    """From a file, whatever key the connection has; without either, the node sees it itself, if it
    is shown one."""
    make_leaf(make_authority(tmp_path / "ca.pem"), tmp_path / "c.pem", tmp_path / "k.pem")
    node = exchanging()
    command = (*EXCHANGE, "secrets:read")
    of_file = (*command, "--host-cert", str(tmp_path / "c.pem"), "--ttl", "1h", "--once")
    assert run(*of_file, node=node).exit_code == 0
    files = {"PETSEM_CERT": str(tmp_path / "c.pem"), "PETSEM_KEY": str(tmp_path / "k.pem")}
    assert run(*command, node=node, env=files).exit_code == 0
    first, second = node.bodies
    assert first["host_key"] == of_certificate((tmp_path / "c.pem").read_bytes())
    assert (first["ttl_s"], first["renewable"], second["host_key"]) == (3600, False, None)
    wrong = run(*command, "--host-cert", str(tmp_path / "k.pem"), node=node)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    without = run(*command, node=node)
    assert (without.exit_code, len(node.bodies)) == (2, 2)
    assert "--host-cert FILE or --host-key HEX" in without.stderr


def test_out(tmp_path: Path) -> None:
    """Into a new file of mode 0600, and then not to stdout; one that is there is left alone, and
    nothing is asked for."""
    node = Node({"POST /v1/tokens/exchange": MADE, "POST /v1/orgs/acme/boots": ALLOWED})
    exchange = (*EXCHANGE, "secrets:read", "--host-key", KEY, "--out")
    allow = (*ALLOW, "--ticket", "01", "--out")
    for command, name in ((exchange, "service.token"), (allow, "discharge")):
        file = tmp_path / name
        result = run(*command, str(file), node=node)
        assert (result.exit_code, file.read_text()) == (0, f"{TOKEN}\n")
        assert file.stat().st_mode & 0o777 == 0o600
        assert TOKEN not in result.output
        again = run(*command, str(file), "-o", "json", node=node)
        assert (again.exit_code, again.stdout) == (5, "")
    assert len(node.bodies) == 2
    told = run(*exchange, str(tmp_path / "another"), "-o", "json", node=node)
    assert json.loads(told.stdout) == {
        "id": "0a" * 16,
        "expires_at": "2027-01-15T08:15:00Z",
        "renew_until": "2027-01-15T09:00:00Z",
        "file": str(tmp_path / "another"),
    }


@pytest.mark.parametrize(
    "more",
    [
        *(("--ttl", "59s"), ("--ttl", "61m"), ("--ttl", "x")),
        *(("--host-key", KEY, "--host-cert", "x"), ("--host-key", KEY.upper())),
    ],
)
def test_what_is_not_exchanged(more: tuple[str, ...]) -> None:
    """A life out of bounds, two keys, and what is no key are refused before anything is sent."""
    node = exchanging()
    key = () if "--host-key" in more else ("--host-key", KEY)
    result = run(*EXCHANGE, "secrets:read", *key, *more, node=node)
    assert (result.exit_code, result.stdout, node.bodies) == (2, "", [])


def test_allow(tmp_path: Path) -> None:
    """The discharge alone on stdout, for the ticket that is given or that is in the host's token,
    of which nothing else is sent."""
    ticket = bytes(range(140))
    text = base64url.encode(ticket)
    node = allowing()
    by_ticket = run(*ALLOW, "--ticket", ticket.hex(), node=node)
    assert (by_ticket.exit_code, by_ticket.stdout) == (0, f"{TOKEN}\n")
    assert f"grant {'0b' * 16}" in by_ticket.stderr
    token = host_token(ticket)
    by_token = run(*ALLOW, "--host-token-file", "-", "--ttl", "60s", node=node, stdin=token)
    assert by_token.exit_code == 0
    asked = {"app": "web", "machine": "m1", "ticket": text}
    assert node.bodies == [{**asked, "ttl_s": 600}, {**asked, "ttl_s": 60}]
    expected = ["org = acme", "app = web", "action = machines:boot"]
    assert [scope[:-1] for scope in node.scopes] == [expected, expected]


@pytest.mark.parametrize(
    "more",
    [
        *((), ("--ticket", "01", "--host-token-file", "-"), ("--ticket", "xyz")),
        *(("--ticket", TOKEN), ("--host-token-file", "-"), ("--ticket", "01", "--ttl", "2h")),
    ],
    ids=["none", "both", "no ticket", "a token", "a token without one", "too long"],
)
def test_what_is_not_allowed(more: tuple[str, ...]) -> None:
    """Nothing is sent, and what was typed is not repeated."""
    node = allowing()
    result = run(*ALLOW, *more, node=node, stdin=TOKEN)
    assert (result.exit_code, result.stdout, node.bodies) == (2, "", [])
    assert base64url.encode(encode(parse_token(TOKEN).root))[:40] not in result.stderr
