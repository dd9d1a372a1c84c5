"""`petsem join`, `node invite` and `node remove`: where tokens come from and what is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError, unavailable
from petsem.server import join
from petsem.server.address import Address
from petsem.server.join import Joined, KekInUse
from tests.unit.cli.support import Node, problem, run

TOKEN = "petsem_join_AQABAgME.0A1b2C"
INVITED = {"join_token": TOKEN, "expires_at": "2027-01-15T08:15:00Z"}


class Server:
    """Stands for the server's part: remembers what it was asked, answers or fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[Path, str, dict[str, Any]]] = []
        self.error: PetsemError | None = None
        self.held = {Purpose.SECRETS: True, Purpose.TOKENS: False}

    def join(self, directory: Path, token: str, **options: Any) -> Joined:
        self.asked.append((directory, token, options))
        if self.error is not None:
            raise self.error
        keks = tuple(KekInUse(each, each.encode() * 4, held) for each, held in self.held.items())
        upstream = Address("10.0.0.1", 7402)
        return Joined("fra-1f2e3d4c", bytes(16), upstream, "/k/keyring.json", keks)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(join, "join_cluster", found.join)
    return found


def test_a_join(server: Server, tmp_path: Path) -> None:
    """All that was given is passed on; who the node is, which keys it lacks and what comes next is
    said, and the token is not."""
    result = run(
        *("join", str(tmp_path / "fra"), "--region", "fra", "--http", "127.0.0.1:1"),
        *("--grpc", "127.0.0.1:2", "--peer", "127.0.0.1:3", "--leader", "[::1]:4"),
        *("--keyring", "keys.json"),
        env={"PETSEM_JOIN_TOKEN": f" {TOKEN}\n"},
    )
    assert result.exit_code == 0
    ((directory, token, options),) = server.asked
    assert (directory, token) == (tmp_path / "fra", TOKEN)
    assert {name: options[name] for name in options if name not in ("environ", "clock")} == {
        "region": "fra",
        "http": Address("127.0.0.1", 1),
        "grpc": Address("127.0.0.1", 2),
        "peer": Address("127.0.0.1", 3),
        "leader": Address("::1", 4),
        "keyring_file": Path("keys.json"),
    }
    assert result.stdout == (
        "fra-1f2e3d4c is a node of the cluster; the leader is at 10.0.0.1:7402. The cluster's "
        "keys:\n"
        f"PURPOSE  KEY{' ' * 55}HELD\n"
        f"secrets  {(b'secrets' * 4).hex()}  yes\n"
        f"tokens   {(b'tokens' * 4).hex()}          no\n"
    )
    assert result.stderr == (
        "warning: 1 of these keys is not in /k/keyring.json, and what it protects cannot be read "
        "here; copy what this node should hold from another node's keyring\n"
        f"next: petsem serve {tmp_path / 'fra'}\n"
    )
    assert TOKEN not in result.output


def test_as_json(server: Server, tmp_path: Path) -> None:
    """The same for programs; nothing is warned of when nothing is missing."""
    server.held = {Purpose.CLUSTER: True}
    environ = {"PETSEM_JOIN_TOKEN": TOKEN}
    result = run("join", str(tmp_path / "x"), "--region", "fra", "-o", "json", env=environ)
    assert json.loads(result.stdout) == {
        "cluster": "00" * 16,
        "node": "fra-1f2e3d4c",
        "directory": str(tmp_path / "x"),
        "upstream": "10.0.0.1:7402",
        "keyring": "/k/keyring.json",
        "keys": [{"purpose": "cluster", "id": (b"cluster" * 4).hex(), "held": True}],
    }
    assert "warning" not in result.stderr


def test_a_token_in_a_file_or_on_stdin(server: Server, tmp_path: Path) -> None:
    """A private file, or `-`; either counts before the environment."""
    file = tmp_path / "join.token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    environ = {"PETSEM_JOIN_TOKEN": "another"}
    for name, stdin in ((str(file), ""), ("-", TOKEN + "\n")):
        result = run(
            *("join", "x", "--region", "fra", "--join-token-file", name), env=environ, stdin=stdin
        )
        assert result.exit_code == 0
    assert [token for _, token, _ in server.asked] == [TOKEN, TOKEN]


@pytest.mark.parametrize(
    ("options", "environ", "says"),
    [
        ((), {}, "there is no join token; set PETSEM_JOIN_TOKEN or give --join-token-file"),
        ((), {"PETSEM_JOIN_TOKEN": "  "}, "there is no join token"),
        (("--join-token-file", TOKEN), {}, "holds a token where the path of a file belongs"),
        (("--join-token-file", "absent"), {}, "--join-token-file names no file"),
        (("--leader", "hunter2"), {"PETSEM_JOIN_TOKEN": TOKEN}, "an address is HOST:PORT"),
    ],
)
def test_mistakes(
    server: Server, options: tuple[str, ...], environ: dict[str, str], says: str
) -> None:
    """Exit code 2, nothing repeated, and the server's part is not run."""
    result = run("join", "x", "--region", "fra", *options, env=environ)
    assert result.exit_code == 2
    assert says in result.stderr
    assert TOKEN not in result.output
    assert "hunter2" not in result.output
    assert server.asked == []


def test_a_token_that_others_can_read(server: Server, tmp_path: Path) -> None:
    """A loose file is refused with the command that mends it."""
    file = tmp_path / "join.token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    result = run("join", "x", "--region", "fra", "--join-token-file", str(file))
    assert result.exit_code == 2
    assert "chmod 600" in result.stderr
    assert server.asked == []


def test_a_failure(server: Server) -> None:
    """One sentence, and the code of its kind."""
    server.error = unavailable("no leader took the join token")
    result = run("join", "x", "--region", "fra", env={"PETSEM_JOIN_TOKEN": TOKEN})
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr == "petsem: no leader took the join token\n"


def test_a_real_join_of_nonsense(tmp_path: Path) -> None:
    """The server's own code runs, refuses, and leaves nothing behind."""
    directory = tmp_path / "x"
    result = run("join", str(directory), "--region", "fra", env={"PETSEM_JOIN_TOKEN": TOKEN})
    assert (result.exit_code, result.stdout) == (2, "")
    assert TOKEN not in result.stderr
    assert not directory.exists()


def test_an_invitation() -> None:
    """The token alone is on stdout, for a pipe; how to use it is on stderr."""
    node = Node({"POST /v1/nodes/invite": INVITED})
    result = run("node", "invite", "--region", "fra", node=node)
    assert result.exit_code == 0
    assert result.stdout == TOKEN + "\n"
    assert TOKEN not in result.stderr
    assert result.stderr == (
        "good until 2027-01-15T08:15:00Z, once; on the new machine put it into PETSEM_JOIN_TOKEN "
        "or a file that nobody else can read, and run: petsem join DIR --region fra\n"
    )
    assert node.bodies == [{"region": "fra"}]
    assert node.scopes[0][0] == "action = nodes:admin"
    assert "idempotency-key" in node.requests[0].headers
    told = run("node", "invite", "--region", "fra", "-o", "json", node=node)
    assert json.loads(told.stdout) == INVITED


def test_an_invitation_in_a_file(server: Server, tmp_path: Path) -> None:
    """Whatever the umask, `join` takes it as it is; it is not printed, and nothing is replaced."""
    file = tmp_path / "fra.join"
    node = Node({"POST /v1/nodes/invite": INVITED})
    invite = ("node", "invite", "--region", "fra", "--out", str(file))
    before = os.umask(0o022)
    try:
        result = run(*invite, node=node)
    finally:
        os.umask(before)
    assert result.stdout == (
        f"the join token, good until {INVITED['expires_at']}, once, is in {file}\n"
    )
    assert "petsem join DIR --region fra --join-token-file" in result.stderr
    assert TOKEN not in result.output
    assert file.stat().st_mode & 0o777 == 0o600
    taken = run("join", "x", "--region", "fra", "--join-token-file", str(file))
    assert (taken.exit_code, server.asked[0][1]) == (0, TOKEN)

    again = run(*invite, node=node)
    assert again.exit_code != 0
    assert "exists already" in again.stderr
    file.unlink()
    told = run(*invite, "-o", "json", node=node)
    assert json.loads(told.stdout) == {"expires_at": INVITED["expires_at"], "file": str(file)}


def test_an_invitation_that_is_refused() -> None:
    """The node's sentence, and its exit code."""
    node = Node({"POST /v1/nodes/invite": problem(409, "conflict", "set [peer] advertise")})
    result = run("node", "invite", "--region", "fra", node=node)
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == "petsem: set [peer] advertise\n"


REMOVED = {
    "node": "fra-1",
    "position": "00000001-0000000000000007",
    "message": "fra-1 is no longer a node",
}


def test_a_removal() -> None:
    """With the name given twice; the node's sentence is shown."""
    node = Node({"DELETE /v1/nodes/fra-1": REMOVED})
    result = run("node", "remove", "fra-1", "--yes", "fra-1", node=node)
    assert (result.exit_code, result.stdout) == (0, "fra-1 is no longer a node\n")
    assert node.scopes[0][0] == "action = nodes:admin"


@pytest.mark.parametrize(
    "arguments",
    [("fra-1",), ("fra-1", "--yes", "fra-2"), ("fra-1", "--yes", ""), ("../orgs", "--yes", "x")],
)
def test_a_removal_that_is_not_meant(arguments: tuple[str, ...]) -> None:
    """Without a terminal the name has to be given, and be the right one; else nothing is sent."""
    node = Node({"DELETE /v1/nodes/fra-1": REMOVED})
    result = run("node", "remove", *arguments, node=node)
    assert (result.exit_code, result.stdout) == (2, "")
    assert node.requests == []
