"""`petsem boot`: fetched through the client library, handed to what needs it and nobody else."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import petsem_client
from petsem.errors import Code, PetsemError
from petsem.model import Freshness, Position, Role
from petsem_client import Bundle
from tests.unit.cli.support import NOW_MS, TOKEN, run


class Reader:
    """Stands in for the client library's blocking reader, and remembers what it was asked."""

    secrets: Mapping[str, bytes] = {}
    error: PetsemError | None = None
    filtered = False
    leader_seen_ms_ago: int | None = 0
    made: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[dict[str, Any]] = {}

    def __init__(self, endpoints: list[str], **options: Any) -> None:
        type(self).made = {"endpoints": endpoints, **options}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fetch(self, app: str, **options: Any) -> Bundle:
        type(self).asked = {"app": app, **options}
        if self.error is not None:
            raise self.error
        names = options["names"]
        freshness = Freshness(
            "ams-1", "ams", Role.REPLICA, Position(1, 7), NOW_MS,
            leader_seen_ms_ago=self.leader_seen_ms_ago,
        )  # fmt: skip
        kept = {n: v for n, v in self.secrets.items() if not names or n in names}
        return Bundle(app, kept, version=4, freshness=freshness, etag=b"e", filtered=self.filtered)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> type[Reader]:
    """A fresh stand-in with a few secrets."""

    class Fresh(Reader):
        secrets: Mapping[str, bytes] = {"B": b"two\n", "A": "één".encode()}

    monkeypatch.setattr(petsem_client, "SyncSecretReader", Fresh)
    return Fresh


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What execvpe would have been called with."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "execvpe", lambda *call: calls.append(call))
    return calls


def test_env_prints_dotenv_shell_or_json(reader: type[Reader]) -> None:
    """Sorted by name; -o json is one flat object."""
    assert run("boot", "env").stdout_bytes == "A='één'\nB=\"two\\n\"\n".encode()
    shell = run("boot", "env", "--format", "shell").stdout_bytes
    assert shell == "export A='één'\nexport B='two\n'\n".encode()
    for args in (("-o", "json"), ("--format", "json")):
        assert json.loads(run("boot", "env", *args).stdout) == {"A": "één", "B": "two\n"}
    coded = json.loads(run("boot", "env", "-o", "json", "--base64").stdout)
    assert coded == {"A": base64.b64encode("één".encode()).decode(), "B": "dHdvCg=="}


def test_the_fetch_is_what_was_asked_for(reader: type[Reader]) -> None:
    """App, machine, fences and names; endpoints, token and TLS files from the environment."""
    result = run(
        "boot", "env", "-a", "acme/api", "--machine", "m1", "--min-version", "3",
        "--min-position", "00000001-0000000000000007", "--only", "A,B", "--only", "A", "--insecure",
        env={"PETSEM_GRPC": "127.0.0.1:7401, [::1]:7401,", "PETSEM_CA": "/ca.pem"},
    )  # fmt: skip
    assert result.exit_code == 0
    assert reader.asked == {
        "app": "acme/api",
        "machine": "m1",
        "min_version": 3,
        "min_position": Position(1, 7),
        "names": ("A", "B"),
    }
    clock = reader.made.pop("clock")
    assert clock.unix_ms() == NOW_MS
    assert reader.made == {
        "endpoints": ["127.0.0.1:7401", "[::1]:7401"],
        "token": TOKEN,
        "ca": "/ca.pem",
        "cert": None,
        "key": None,
        "insecure": True,
    }


def test_what_is_missing_is_said(reader: type[Reader]) -> None:
    """No endpoint, no token, a name that is not there."""
    assert "set PETSEM_GRPC" in run("boot", "env", env={"PETSEM_GRPC": " , "}).stderr
    assert run("boot", "env", env={"PETSEM_TOKEN": None}).exit_code == 3
    absent = run("boot", "env", "--only", "A,NOPE")
    assert (absent.exit_code, "NOPE" in absent.stderr) == (4, True)


def test_age_and_filter_are_remarked(reader: type[Reader]) -> None:
    """On stderr; the secrets are handed over all the same."""
    reader.filtered = True
    reader.leader_seen_ms_ago = 3_600_000
    result = run("boot", "env")
    assert result.exit_code == 0
    assert "sees only some of the secrets" in result.stderr
    assert "last heard from the leader 3,600 s ago" in result.stderr


def test_misfits_stop_it_or_are_left_out(reader: type[Reader]) -> None:
    """Named in both cases; values never are. JSON has no such names."""
    reader.secrets = {"A": b"1", "x.y": b"hunter2", "PATH": b"hunter2", "PETSEM_X": b"hunter2"}
    stopped = run("boot", "env")
    assert (stopped.exit_code, stopped.stdout) == (2, "")
    for name in ("x.y", "PATH", "PETSEM_X"):
        assert name in stopped.stderr
    skipped = run("boot", "env", "--skip-invalid")
    assert (skipped.exit_code, skipped.stdout) == (0, "A=1\n")
    assert skipped.stderr.count("is left out") == 3
    mapped = run("boot", "env", "--map", "x.y=XY", "--allow-name", "PATH", "--skip-invalid")
    assert mapped.stdout == "A=1\nPATH=hunter2\nXY=hunter2\n"
    assert len(json.loads(run("boot", "env", "-o", "json").stdout)) == 4
    assert "hunter2" not in stopped.stderr + skipped.stderr + mapped.stderr


def test_base64_is_for_json(reader: type[Reader]) -> None:
    """Bytes that are no text are refused elsewhere, by name."""
    assert run("boot", "env", "--base64").exit_code == 2
    reader.secrets = {"A": b"\xffhunter2"}
    for args in ((), ("-o", "json")):
        refused = run("boot", "env", *args)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "not UTF-8 text: A" in refused.stderr
    assert run("boot", "env", "--format", "shell").stdout_bytes == b"export A='\xffhunter2'\n"


def test_exec_becomes_the_command(reader: type[Reader], became: list[tuple[Any, ...]]) -> None:
    """With the secrets over our environment, less everything of Petsem's."""
    result = run("boot", "exec", "--", "server", "--port", "1", env={"HOME": "/h", "A": "old"})
    assert result.exit_code == 0
    assert became == [
        (
            b"server",
            [b"server", b"--port", b"1"],
            {b"PATH": b"/usr/bin:/bin", b"HOME": b"/h", b"A": "één".encode(), b"B": b"two\n"},
        )
    ]


def test_exec_needs_no_dashes(reader: type[Reader], became: list[tuple[Any, ...]]) -> None:
    """Options after the command are the command's."""
    run("boot", "exec", "-a", "acme/web", "server", "-o", "json", "--debug")
    assert became[0][1] == [b"server", b"-o", b"json", b"--debug"]


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        ((), {}),
        (("--nonsense", "--", "true"), {}),
        (("--only", "NOPE", "--", "true"), {}),
        (("-a", "nonsense", "--", "true"), {}),
        (("--", "true"), {"PETSEM_TOKEN": None}),
        (("--", "true"), {"PETSEM_GRPC": None}),
        (("--", "x" * 200_000), {}),
        (("--", "true"), {"HUGE": "x" * 200_000}),
    ],
)
def test_execs_own_failures_are_125(
    reader: type[Reader],
    became: list[tuple[Any, ...]],
    arguments: tuple[str, ...],
    env: dict[str, str | None],
) -> None:
    """Whatever goes wrong before the command runs."""
    result = run("boot", "exec", *arguments, env=env)
    assert result.exit_code == 125
    assert result.stderr.startswith("petsem: ")
    assert became == []


def test_execs_help_is_no_failure() -> None:
    """Asking is fine."""
    assert run("boot", "exec", "--help").exit_code == 0


@pytest.mark.parametrize("code", list(Code))
def test_a_fetch_that_fails(
    reader: type[Reader], became: list[tuple[Any, ...]], code: Code
) -> None:
    """The code's exit code for env and files, 125 for exec; nothing is run or written."""
    reader.error = PetsemError(code, "so it is")
    assert run("boot", "exec", "--", "true").exit_code == 125
    assert run("boot", "env").exit_code not in (0, 125)
    assert became == []


def test_files(reader: type[Reader], tmp_path: Path) -> None:
    """0400 in a directory of 0700, replaced whole; other files stay."""
    directory = tmp_path / "out"
    first = run("boot", "files", str(directory))
    assert first.exit_code == 0
    assert first.stdout == f"acme/web version 4 is in {directory}\nFILE  BYTES\nA     5\nB     4\n"
    (directory / "other").write_text("mine")
    reader.secrets = {"A": b"\xff\0", "x.y-z": b""}
    assert run("boot", "files", str(directory)).exit_code == 0
    assert (directory / "A").read_bytes() == b"\xff\0"
    assert (directory / "x.y-z").read_bytes() == b""
    assert sorted(path.name for path in directory.iterdir()) == ["A", "B", "other", "x.y-z"]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "A").stat().st_mode & 0o777 == 0o400


def test_files_refuse_an_open_directory(reader: type[Reader], tmp_path: Path) -> None:
    """With the command that mends it, and before anything is written."""
    tmp_path.chmod(0o755)
    result = run("boot", "files", str(tmp_path))
    assert result.exit_code == 2
    assert "chmod 700" in result.stderr
    assert list(tmp_path.iterdir()) == []
