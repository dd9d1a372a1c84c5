"""`petsem keyring`, `node list`, `status`, and the commands that run a node's own code."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from petsem.cli import output
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from tests.unit.cli.support import Node, answer, problem, run

ID = "0a" * 32
KEK = {"purpose": "secrets", "id": ID, "state": "primary", "held": True, "wraps": 7}


def test_generate_makes_and_extends_a_keyring(tmp_path: Path) -> None:
    """One file, mode 0600, a key more each time; no key is printed."""
    file = tmp_path / "k.json"
    for count, purpose in enumerate(("secrets", "tokens", "cluster", "secrets"), 1):
        result = run(
            "keyring", "generate", "--purpose", purpose, str(file), env={"PETSEM_TOKEN": None}
        )
        assert result.exit_code == 0
        keys = Keyring.parse(file.read_bytes()).keys()
        assert len(keys) == count
        assert keys[-1][0] is Purpose(purpose)
        assert keys[-1][1].id.hex() in result.stdout
        assert json.loads(file.read_bytes())["keys"][-1]["key"] not in result.stdout
        assert file.stat().st_mode & 0o777 == 0o600


def test_generate_leaves_a_bad_keyring_alone(tmp_path: Path) -> None:
    """A loose or damaged file is refused and not replaced."""
    file = tmp_path / "k.json"
    file.write_text("{}")
    file.chmod(0o644)
    loose = run("keyring", "generate", "--purpose", "tokens", str(file))
    assert (loose.exit_code, "chmod 600" in loose.stderr) == (2, True)
    file.chmod(0o600)
    assert run("keyring", "generate", "--purpose", "tokens", str(file)).exit_code == 2
    assert file.read_text() == "{}"


def test_keyring_names_the_nodes_that_are_not_heard() -> None:
    """Whoever promotes or retires is told, and it is no error."""
    unknown = {**KEK, "unknown": ["fra-1", "nrt-1"]}
    node = Node(
        {
            f"POST /v1/keyring/{ID}/promote": unknown,
            f"POST /v1/keyring/{ID}/retire": {**unknown, "state": "retired"},
        }
    )
    promoted = run("keyring", "promote", ID, node=node)
    assert (promoted.exit_code, "hold the key: fra-1, nrt-1" in promoted.stderr) == (0, True)
    retired = run("keyring", "retire", ID, "--force", node=node)
    assert (retired.exit_code, "or are removed: fra-1, nrt-1" in retired.stderr) == (0, True)


def test_keyring_list_promote_retire() -> None:
    """Ids and states; each call is an operator's and names no org."""
    node = Node(
        {
            "GET /v1/keyring": {"keys": [KEK, {**KEK, "state": "waiting", "held": False}]},
            f"POST /v1/keyring/{ID}/promote": KEK,
            f"POST /v1/keyring/{ID}/retire": {**KEK, "state": "retired"},
        }
    )
    listed = run("keyring", "list", node=node)
    assert listed.stdout.splitlines()[1:] == [
        f"secrets  {ID}  primary  yes   7",
        f"secrets  {ID}  waiting  no    7",
    ]
    promoted = run("keyring", "promote", ID, "--force", node=node)
    assert promoted.stdout == f"secrets key {ID} is primary\n"
    retired = run("keyring", "retire", ID, node=node)
    assert retired.stdout == f"secrets key {ID} is retired\n"
    assert node.bodies == [{"force": True}, {"force": False}]
    assert {tuple(scope[:-1]) for scope in node.scopes} == {("action = nodes:admin",)}


@pytest.mark.parametrize("key_id", ["hunter2", "0A" * 32, "0a" * 31, ""])
def test_a_key_id_that_is_none(key_id: str) -> None:
    """Refused here, unquoted."""
    result = run("keyring", "promote", key_id)
    assert result.exit_code == 2
    assert "hunter2" not in result.stderr


def step(done: int, remaining: int, after: str | None, message: str = "m") -> Any:
    """A handler that answers one step."""
    return lambda _: answer(
        {"done": done, "remaining": remaining, "next": after, "message": message}
    )


def test_rewrap_walks_to_the_end() -> None:
    """Step after step with the node's cursor, each a change of its own, until there is none."""
    node = Node(
        {
            "POST /v1/keyring/rewrap": [
                step(100, 50, "c1"),
                step(50, 0, "c2"),
                step(0, 0, None, "ok"),
            ]
        }
    )
    result = run("keyring", "rewrap", node=node)
    assert (result.exit_code, result.stdout) == (0, "150 rows done: ok\n")
    assert [body["after"] for body in node.bodies] == [None, "c1", "c2"]
    assert len({request.headers["idempotency-key"] for request in node.requests}) == 3
    assert {tuple(scope[:-1]) for scope in node.scopes} == {("action = nodes:admin",)}


def test_what_cannot_be_rewrapped_is_no_success() -> None:
    """Rows that are left at the end are told, with exit code 5."""
    node = Node({"POST /v1/keyring/rewrap": [step(3, 2, None, "no key for 2")]})
    result = run("keyring", "rewrap", node=node)
    assert (result.exit_code, result.stdout) == (5, "3 rows done: no key for 2\n")
    assert "left: 2 rows; see" in result.stderr


def test_an_interrupted_rotation_says_how_to_go_on() -> None:
    """The last cursor that the node gave; and --after takes it."""
    node = Node(
        {"POST /v1/keyring/rotate-data": [step(100, 50, "c1"), problem(500, "internal", "broken")]}
    )
    result = run("keyring", "rotate-data", "--all", node=node)
    assert result.exit_code == 1
    assert "stopped after 100 rows; to go on, run the same command with --after c1" in result.stderr
    node = Node({"POST /v1/keyring/rotate-data": [step(50, 0, None)]})
    assert run("keyring", "rotate-data", "--all", "--after", "c1", node=node).exit_code == 0
    assert node.bodies[0]["after"] == "c1"


def test_a_rotation_that_stands_still_ends() -> None:
    """A node that neither does anything nor moves on is an error."""
    node = Node({"POST /v1/keyring/rewrap": [step(1, 5, "c"), step(0, 5, "c")]})
    result = run("keyring", "rewrap", node=node)
    assert result.exit_code == 1
    assert "makes no progress" in result.stderr


def test_rotate_data_wants_to_know_what() -> None:
    """One app or all; PETSEM_APP does not decide it."""
    for args in ((), ("-a", "acme/web", "--all")):
        assert run("keyring", "rotate-data", *args).exit_code == 2
    node = Node({"POST /v1/keyring/rotate-data": [step(1, 0, None)]})
    assert run("keyring", "rotate-data", "-a", "acme/web", node=node).exit_code == 0
    assert node.bodies[0] == {"limit": 100, "org": "acme", "app": "web", "after": None}


NODE = {
    "node": "ams-1",
    "region": "ams",
    "role": "leader",
    "epoch": 2,
    "position": "00000002-0000000000000009",
    "lag_transactions": 0,
    "lag_ms": 1500,
    "last_error": "disk slow",
    "version": "0.1.0",
    "ready": True,
    "warnings": ["keyring in data directory"],
    "http": "127.0.0.1:7400",
    "grpc": "127.0.0.1:7401",
}
STATUS = {"cluster": "0c" * 16, "nodes": [NODE]}


def test_status() -> None:
    """One line a node, and what is wrong with it on lines of its own below; unknown lag is no 0."""
    behind = {**NODE, "lag_transactions": None, "lag_ms": None, "last_error": None, "warnings": []}
    node = Node({"GET /v1/status": {**STATUS, "nodes": [NODE, behind]}})
    assert run("status", node=node).stdout.splitlines() == [
        "NODE   REGION  ROLE    READY  EPOCH  POSITION  LAG          VERSION",
        "ams-1  ams     leader  yes    2      2-9       0 tx, 1.5 s  0.1.0",
        "ams-1  ams     leader  yes    2      2-9       -            0.1.0",
        "",
        "ams-1: keyring in data directory",
        "ams-1: disk slow",
    ]
    assert node.scopes[0][:-1] == ["action = nodes:read"]


@pytest.mark.parametrize("terminal", [True, False])
def test_status_in_80_columns(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """A node that is far behind takes one line too, its checksum left out."""
    far = {
        **NODE,
        "node": "fra-5d6c7b8a",
        "role": "replica",
        "region": "fra",
        "epoch": 12,
        "position": "0000000c-0000000000001a3f-8877665544332211",
        "lag_transactions": 12_041,
        "lag_ms": 17_300,
        "source": "ams-25d0eb34",
        "last_error": "this sentence is far too long for a cell of a table, and so it is below it",
    }
    monkeypatch.setattr(output, "stdout_is_tty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "80")
    node = Node({"GET /v1/status": {**STATUS, "nodes": [far]}})
    lines = [line.rstrip() for line in run("status", node=node).stdout.splitlines()]
    row = "fra-5d6c7b8a fra replica yes 12 c-1a3f 12,041 tx, 17 s 0.1.0"
    assert lines[1].split() == row.split()
    assert lines[2:4] == ["", "fra-5d6c7b8a: keyring in data directory"]
    assert " ".join(lines[4:]) == f"fra-5d6c7b8a: {far['last_error']}"
    assert max(map(len, lines[:4])) <= 80


def test_watch_goes_on_through_failures_until_interrupted(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    """That is when it is looked at; Ctrl-C is its ordinary end."""
    import time

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if pauses.count(7) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    ok = lambda _: answer(STATUS)  # noqa: E731
    node = Node({"GET /v1/status": [ok, problem(500, "internal", "broken"), ok]})
    result = run("status", "--watch", "--interval", "7", node=node)
    assert result.exit_code == 0
    assert result.stdout.count("NODE") == 2
    assert result.stderr == "petsem: broken\n"
    assert pauses == [7, 7, 7]


def test_node_list() -> None:
    """Members and their addresses."""
    info = {
        "node": "ams-1",
        "region": "ams",
        "voter": True,
        "joined_at": "2027-01-15T08:00:00Z",
        "http": "127.0.0.1:7400",
        "grpc": "127.0.0.1:7401",
        "peer": "127.0.0.1:7402",
    }
    result = run("node", "list", node=Node({"GET /v1/nodes": {"nodes": [info]}}))
    assert "ams-1  ams     yes    127.0.0.1:7400" in result.stdout


def test_init_check_recover_and_serve_run_the_servers_code(tmp_path: Path) -> None:
    """A real directory is made, checked and recovered; what is secret is not printed."""
    directory = tmp_path / "ams"
    made = run("init", str(directory), "--region", "ams", "-o", "json")
    assert made.exit_code == 0
    told = json.loads(made.stdout)
    token_file = Path(told["operator_token"])
    assert token_file == tmp_path / "ams.operator.token"
    first = token_file.read_text()
    assert first.strip() not in made.stdout
    checked = run("check", str(directory), "-o", "json")
    told = json.loads(checked.stdout)
    assert (checked.exit_code, told["ok"], told["keys_missing"]) == (0, True, False)
    recovered = run("operator", "recover", str(directory))
    assert recovered.exit_code == 0
    assert token_file.read_text() != first
    assert token_file.read_text().strip() not in recovered.stdout + recovered.stderr
    again = run("init", str(directory), "--region", "ams")
    assert again.exit_code in (2, 5)


def test_a_check_that_finds_something_is_exit_8(tmp_path: Path) -> None:
    """Damage is corrupt data, whatever its sort."""
    directory = tmp_path / "ams"
    assert run("init", str(directory), "--region", "ams").exit_code == 0
    (directory / "petsem.toml").write_text("nonsense = 1\n")
    result = run("check", str(directory))
    assert result.exit_code == 8
    assert "problem" in result.stdout


def test_a_check_without_a_key_does_not_pass(tmp_path: Path) -> None:
    """It is exit 6 and said on stdout, unless the node is not to have every key; what does not
    hold counts for more."""
    directory = tmp_path / "ams"
    assert run("init", str(directory), "--region", "ams").exit_code == 0
    whole = run("check", str(directory))
    assert (whole.exit_code, whole.stdout.splitlines()[0]) == (
        0,
        "everything that was looked at holds",
    )
    keyring = tmp_path / "ams.keyring.json"
    keys = [key for key in json.loads(keyring.read_text())["keys"] if key["purpose"] != "cluster"]
    keyring.write_text(json.dumps({"keys": keys}))
    for given, code in (((), 6), (("--allow-missing-keys",), 0)):
        told = run("check", str(directory), *given)
        assert told.exit_code == code
        assert "keys are missing" in told.stdout.splitlines()[0]
        assert "no_key" in told.stdout
        said = json.loads(run("check", str(directory), *given, "-o", "json").stdout)
        assert (said["ok"], said["keys_missing"]) == (code == 0, True)
        assert "no_key" in {finding["result"] for finding in said["findings"]}
    (directory / "petsem.toml").write_text("nonsense = 1\n")
    for given in ((), ("--allow-missing-keys",)):
        assert run("check", str(directory), *given).exit_code == 8


def test_addresses_of_init_are_checked(tmp_path: Path) -> None:
    """Unquoted, and before anything is made."""
    result = run("init", str(tmp_path / "x"), "--region", "ams", "--http", "hunter2")
    assert result.exit_code == 2
    assert "hunter2" not in result.stderr
    assert not (tmp_path / "x").exists()


def test_serve_hands_on_its_arguments_and_passes_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server decides what the exit code is."""
    import petsem.server.main

    given: list[Any] = []

    def serve(data_dir: Path, *, insecure: bool, environ: Mapping[str, str]) -> int:
        given.append((data_dir, insecure, environ["PETSEM_APP"]))
        return 5

    monkeypatch.setattr(petsem.server.main, "serve", serve)
    assert run("serve", str(tmp_path), "--insecure").exit_code == 5
    assert given == [(tmp_path, True, "acme/web")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "x", "--region", "ams"),
        ("serve", "x"),
        ("check", "x"),
        ("operator", "recover", "x"),
        ("keyring", "generate", "--purpose", "tokens", "x"),
    ],
)
def test_without_the_server_extra(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """One sentence says what to install, with the exit code of what can never work."""
    import sys

    monkeypatch.delenv("PYTHONPATH", raising=False)
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith(("petsem.server.", "petsem.crypto.")):
            raise ModuleNotFoundError("No module named 'apsw'", name="apsw")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "petsem: this command runs a node's own code, which is not installed; "
        "run: pip install 'petsem[server]'\n"
    )
    assert "petsem.cli.main" in sys.modules


def test_a_missing_module_of_our_own_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not blamed on the installation."""
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "petsem.server.check":
            raise ModuleNotFoundError("x", name="petsem.server.check")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = run("check", "x")
    assert result.exit_code == 1
    assert "internal error" in result.stderr


def test_the_command_line_needs_no_server_library() -> None:
    """Nothing of the `server` extra is imported for a command that asks a node."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('apsw', 'nacl', 'pymacaroons', 'litestar', 'uvicorn', 'cryptography',\n"
        "             'structlog', 'uvloop', 'grpc', 'httpx', 'rich', 'yaml'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = ['petsem', 'secrets', 'list', '--help']\n"
        "from petsem.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"Usage: petsem secrets list")


def test_the_transport_is_not_reached_by_offline_commands() -> None:
    """Inspecting, attenuating and completion work with no node named."""

    def never(_: httpx.Request) -> httpx.Response:
        raise AssertionError("an offline command asked a node")

    transport = httpx.MockTransport(never)
    for args in (("token", "inspect"), ("token", "attenuate", "--org", "a"), ("completion", "zsh")):
        assert run(*args, transport=transport, env={"PETSEM_ADDR": None}).exit_code == 0
