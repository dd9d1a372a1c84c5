"""Which secrets go into an environment, and how variables are written as text."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petsem.cli.child_environ import (
    check_size,
    child_environ,
    fit,
    is_powerful,
    misfits,
    parse_renames,
)
from petsem.cli.environ_text import to_dotenv, to_json, to_shell
from petsem.errors import Code, PetsemError


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("A.B", b"", "no shell can hold its name"),
        ("A-B", b"", "no shell can hold its name"),
        ("PETSEM_TOKEN", b"", "names with PETSEM_ are kept from the child"),
        ("PETSEM_", b"", "names with PETSEM_ are kept from the child"),
        ("LD_PRELOAD", b"", "needs --allow-name"),
        ("PATH", b"", "needs --allow-name"),
        ("BASH_ENV", b"", "needs --allow-name"),
        ("PYTHONPATH", b"", "needs --allow-name"),
        ("IFS", b"", "needs --allow-name"),
        ("NODE_OPTIONS", b"", "needs --allow-name"),
        ("PERL5OPT", b"", "needs --allow-name"),
        ("RUBYOPT", b"", "needs --allow-name"),
        ("JAVA_TOOL_OPTIONS", b"", "needs --allow-name"),
        ("GIT_SSH_COMMAND", b"", "needs --allow-name"),
        ("A", b"x\0y", "it has a NUL byte"),
    ],
)
def test_what_does_not_fit(name: str, value: bytes, why: str) -> None:
    """Each is named with its reason; the others still fit."""
    fitted = fit({name: value, "GOOD": b"1"}, {}, ())
    assert fitted.variables == {"GOOD": b"1"}
    assert list(fitted.problems) == [name]
    assert why in fitted.problems[name]


def test_ordinary_names_fit() -> None:
    """Names that look alike but that nobody obeys, and ENV, which many apps have."""
    secrets = {"ENV": b"production", "PATHS": b"", "LDAP_URL": b"", "MY_PATH": b"\xff", "_": b""}
    assert fit(secrets, {}, ()).variables == secrets
    assert not is_powerful("ENV")


def test_names_are_allowed_one_by_one() -> None:
    """--allow-name is for the variable, after renaming, and never for Petsem's own."""
    secrets = {"PATH": b"/x", "LD_PRELOAD": b"/y", "PETSEM_APP": b"z"}
    fitted = fit(secrets, {}, {"PATH", "PETSEM_APP"})
    assert fitted.variables == {"PATH": b"/x"}
    assert sorted(fitted.problems) == ["LD_PRELOAD", "PETSEM_APP"]


def test_renames() -> None:
    """A name that no shell holds can be mapped; two secrets for one variable cannot."""
    fitted = fit({"a.b": b"1", "C": b"2", "D": b"3"}, {"a.b": "AB", "D": "C"}, ())
    assert fitted.variables == {"AB": b"1", "C": b"2"}
    assert fitted.problems == {"D": "its variable is taken by another secret"}
    assert fit({"A": b"1"}, {"A": "PETSEM_X"}, ()).variables == {}
    assert fit({"A": b"1"}, {"A": "PATH"}, ()).variables == {}
    assert parse_renames(["a.b=AB"]) == {"a.b": "AB"}
    for bad in (["x"], ["x="], ["=X"], ["x=1X"], ["x=A", "x=B"], ["a b=X"]):
        with pytest.raises(PetsemError) as caught:
            parse_renames(bad)
        assert caught.value.code is Code.INVALID


def test_the_error_names_every_misfit() -> None:
    """In one sentence, with the three ways out."""
    message = misfits({"A": "x", "B": "y"}).message
    for word in ("2 secrets", "A: x", "B: y", "--only", "--map", "--skip-invalid"):
        assert word in message


def test_the_child_gets_no_petsem_variable() -> None:
    """Neither inherited nor as a secret; secrets win over what was there."""
    inherited = {b"PETSEM_TOKEN": b"t", b"PETSEM_": b"", b"HOME": b"/h", b"A": b"old", b"\xff": b""}
    assert child_environ(inherited, {"A": b"new"}) == {b"HOME": b"/h", b"A": b"new", b"\xff": b""}


def test_size() -> None:
    """Over the system's limit, the largest secrets are named."""
    variables = {"BIG": b"x" * 60_000, "MID": b"x" * 9_000, "S": b"x"}
    environ = child_environ({}, variables)
    check_size([b"true"], environ, variables, 2_000_000)
    with pytest.raises(PetsemError) as caught:
        check_size([b"true"], environ, variables, 70_000)
    assert "BIG, MID, S" in caught.value.message
    with pytest.raises(PetsemError):
        check_size([b"x" * 131_072], {}, {}, 2_000_000)


NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,6}", fullmatch=True).map(lambda name: f"Q{name}")


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(NAMES, st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"")), max_size=4)
)
def test_shell_text_is_read_back_by_a_shell(variables: dict[str, bytes]) -> None:
    """`eval` of it gives the same bytes, whatever they are."""
    script = to_shell(variables) + b"exec env -0\n"
    done = subprocess.run(["sh"], input=script, capture_output=True, check=True, env={})
    came = dict(pair.split(b"=", 1) for pair in done.stdout.split(b"\0") if pair)
    assert {name: came[name.encode()] for name in variables} == variables


def test_json_text() -> None:
    """One flat object; what is not UTF-8 is refused by name unless all is base64."""
    assert json.loads(to_json({"A": "é\n".encode()}, as_base64=False)) == {"A": "é\n"}
    assert json.loads(to_json({"A": b"\xff", "B": b"x"}, as_base64=True)) == {
        "A": "/w==",
        "B": "eA==",
    }
    with pytest.raises(PetsemError) as caught:
        to_json({"A": b"\xff", "B": b"x", "C": b"\xfe"}, as_base64=False)
    assert caught.value.message.startswith("not UTF-8 text: A, C;")
    with pytest.raises(PetsemError):
        to_dotenv({"A": b"\xff"})


def test_dotenv_text() -> None:
    """Plain where it can be, single quotes where `$` must not be expanded, escapes where needed."""
    text = to_dotenv({"A": b"", "B": b"a/b=c", "C": b"$x #y", "D": b"it's", "E": b"a\nb\\"})
    assert text == b'A=\nB=a/b=c\nC=\'$x #y\'\nD="it\'s"\nE="a\\nb\\\\"\n'
