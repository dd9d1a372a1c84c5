"""The command line itself: help for everything, and mistakes that are never repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from petsem.cli.main import cli
from tests.unit.cli.support import Node, problem, run

CANARY = "C4n4ry/hunter2=="
COMPLETIONS = ("bash", "zsh", "fish")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield path


def groups(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every group."""
    if isinstance(command, click.Group):
        yield path
        for name, child in command.commands.items():
            yield from groups(child, (*path, name))


def command_at(path: tuple[str, ...]) -> click.Command:
    """The command of a path."""
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


ALL = sorted(leaves(cli))


def test_every_command_of_this_version_is_there() -> None:
    """The contract's table, as far as it needs no replica."""
    assert [" ".join(path) for path in ALL] == [
        "app create",
        "app delete",
        "app list",
        "app undelete",
        "boot allow",
        "boot env",
        "boot exec",
        "boot files",
        "check",
        "completion",
        "init",
        "join",
        "keyring generate",
        "keyring list",
        "keyring promote",
        "keyring retire",
        "keyring rewrap",
        "keyring rotate-data",
        "log export",
        "log list",
        "log verify",
        "login",
        "logout",
        "node accept-loss",
        "node invite",
        "node list",
        "node promote",
        "node remove",
        "operator recover",
        "org create",
        "org delete",
        "org list",
        "org settings",
        "org undelete",
        "secrets destroy",
        "secrets diff",
        "secrets get",
        "secrets history",
        "secrets import",
        "secrets list",
        "secrets rollback",
        "secrets set",
        "secrets unset",
        "serve",
        "status",
        "token attenuate",
        "token can",
        "token create",
        "token discharge",
        "token exchange",
        "token inspect",
        "token list",
        "token revoke",
        "token rotate-key",
        "token verify",
    ]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    """Every command explains itself and takes the common options."""
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: petsem {' '.join(path)}")
    assert "--output [table|json]" in result.stdout
    assert "--debug" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("path", sorted(groups(cli)), ids=lambda path: " ".join(path) or "petsem")
def test_a_group_alone_shows_its_commands(path: tuple[str, ...]) -> None:
    """On stderr, with the exit code of a mistake; with --help it is an answer."""
    alone = run(*path)
    assert (alone.exit_code, alone.stdout) == (2, "")
    helped = run(*path, "--help")
    assert helped.exit_code == 0
    assert alone.stderr == helped.stdout


def mistakes(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Command lines with the canary in each place where it does not belong."""
    command = command_at(path)
    yield (CANARY,)
    yield (CANARY,) * 9
    yield (f"--{CANARY}",)
    yield (f"--{CANARY}", "x")
    yield (f"-{CANARY}",)
    yield (f"--debug={CANARY}",)
    yield (f"--output={CANARY}",)
    yield ("-o", CANARY)
    for param in command.params:
        if isinstance(param, click.Option):
            name = max(param.opts, key=len)
            yield (f"{name}={CANARY}",)
            yield (name, CANARY)
            yield (CANARY, name)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_no_mistake_is_repeated(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with a command line, what was typed is in no message.

    Files that a command was told to write are apart: a name that was asked for is a name to show.
    """
    monkeypatch.chdir(tmp_path)
    node = Node()
    for arguments in mistakes(path):
        for debug in ((), ("--debug",)):
            env = {"PETSEM_GRPC": None}  # `boot` would look for a node
            result = run(*debug, *path, *arguments, node=node, stdin="", env=env)
            text = result.stdout + result.stderr
            if " ".join(path) in WRITES_TO and "C4n4ry" in text:
                assert arguments[-1] == CANARY or arguments[0].endswith(CANARY)
                continue
            assert "C4n4ry" not in text, (path, arguments)
            assert "hunter2" not in text, (path, arguments)


WRITES_TO = frozenset(
    {
        *("init", "serve", "check", "operator recover", "keyring generate"),
        *("log export", "log list", "log verify"),
    }
)


@pytest.mark.parametrize("group", ["", "secrets", "token"])
def test_an_unknown_command_is_not_repeated(group: str) -> None:
    """A value typed one word too early, in groups too."""
    for word in (CANARY, f"--{CANARY}", f"-{CANARY}"):
        result = run(*filter(None, [group]), word)
        assert result.exit_code == 2
        assert "hunter2" not in result.stderr
        assert "--help" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("secrets", "get"), "petsem: NAME is missing; see 'petsem secrets get --help'\n"),
        (("init", "x"), "petsem: --region is missing; see 'petsem init --help'\n"),
        (
            ("secrets", "get", "A", "--reveall"),
            "petsem: there is no such option (what was typed is not repeated here, since it may be "
            "a secret); was --reveal meant?; see 'petsem secrets get --help'\n",
        ),
        (
            ("secrets", "get", "A", "B"),
            "petsem: there is an argument too many, or one in the wrong place (what was typed is "
            "not repeated here, since it may be a secret); see 'petsem secrets get --help'\n",
        ),
        (
            ("secrets", "get", "A", "--version"),
            "petsem: --version needs a value; see 'petsem secrets get --help'\n",
        ),
        (
            ("secrets", "get", "A", "--reveal=x"),
            "petsem: --reveal takes no value; see 'petsem secrets get --help'\n",
        ),
        (
            ("status", "--interval", "x"),
            "petsem: --interval must be a whole number, at least 1 and at most 3,600 (what was "
            "typed is not repeated here, since it may be a secret); see 'petsem status --help'\n",
        ),
        (
            ("secrets", "list", "-o", "xml"),
            "petsem: --output must be one of table, json (what was typed is not repeated here, "
            "since it may be a secret); see 'petsem secrets list --help'\n",
        ),
        (
            ("nonsense",),
            "petsem: there is no such command (what was typed is not repeated here, since it may "
            "be a secret); see 'petsem --help'\n",
        ),
    ],
)
def test_what_is_said_instead(arguments: tuple[str, ...], says: str) -> None:
    """One sentence: what is wrong, and where help is."""
    result = run(*arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, says, "")


NEEDS_A_NODE = [
    path
    for path in ALL
    if any("--insecure" in param.opts for param in command_at(path).params)
    and (path[0] not in ("boot", "serve") or path == ("boot", "allow"))
    # These call as nobody, or with a sign-in, and have such a test of their own.
    and path not in (("login",), ("logout",), ("token", "discharge"))
]
FIT = {
    "org": "acme",
    "app": "acme/web",
    "names": "A",
    "name": "A",
    "version": "1",
    "old": "1",
    "new": "2",
    "action": "secrets:read",
    "key_id": "0a" * 32,
    "token_id": "0a" * 16,
    "file": "-",
    "node": "fra-1",
}
EXTRA = {
    ("org", "delete"): ("--yes", "acme"),
    ("app", "delete"): ("--yes", "acme/web"),
    ("secrets", "destroy"): ("--yes", "acme/web"),
    ("token", "revoke"): ("0a" * 16,),
    ("token", "create"): ("--org", "acme", "--action", "secrets:read"),
    ("token", "exchange"): (
        *("-a", "acme/web", "--machine", "m1"),
        *("--action", "secrets:read", "--host-key", "0a" * 32),
    ),
    ("boot", "allow"): ("-a", "acme/web", "--machine", "m1", "--ticket", "01"),
    ("token", "verify"): ("--org", "acme"),
    ("token", "can"): ("--org", "acme"),
    ("keyring", "rotate-data"): ("--all",),
    ("node", "invite"): ("--region", "fra"),
    ("node", "remove"): ("--yes", "fra-1"),
}


@pytest.mark.parametrize("path", NEEDS_A_NODE, ids=" ".join)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 500])
def test_values_are_in_no_error(path: tuple[str, ...], status: int) -> None:
    """A good command line whose call fails: neither value nor token is shown, by any command."""
    arguments = [
        FIT[param.name]
        for param in command_at(path).params
        if isinstance(param, click.Argument) and param.required and param.name
    ]

    class Failing(dict[str, object]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            return problem(status, "internal")

    node = Node(Failing())
    result = run(*path, *arguments, *EXTRA.get(path, ()), "--debug", node=node, stdin="A=hunter2")
    assert result.exit_code == 1, result.stderr
    assert len(node.requests) == 1
    text = result.stdout + result.stderr
    assert "hunter2" not in text
    assert node.requests[0].headers["authorization"].split()[1] not in text
    assert "petsem_" not in text


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_completion_scripts(shell: str) -> None:
    """click's own script for each shell, on stdout."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_PETSEM_COMPLETE" in result.stdout
    assert f"{shell}_complete" in result.stdout


def test_completion_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of commands and options, without a token, an app or a node."""
    monkeypatch.setenv("_PETSEM_COMPLETE", "bash_complete")
    for words, index, wanted in (
        ("petsem secr", "1", "plain,secrets"),
        ("petsem secrets ro", "2", "plain,rollback"),
        ("petsem secrets set A -a x --if", "6", "plain,--if-version"),
        ("petsem boot exec -a x --sk", "5", "plain,--skip-invalid"),
        ("petsem keyring promote x --fo", "4", "plain,--force"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", index)
        result = run(env={"PETSEM_TOKEN": None, "PETSEM_APP": None})
        assert wanted in result.stdout.splitlines(), (words, result.stdout, result.stderr)


def test_version() -> None:
    """`petsem --version`."""
    assert run("--version").stdout.startswith("petsem ")
