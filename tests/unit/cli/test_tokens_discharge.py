"""`petsem token discharge`: a token and what it asks for, side by side."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from petsem.model import Kind
from petsem.tokens.macaroon import LOCATION, Caveat, Macaroon
from petsem.tokens.text import encode_part, encode_token, parse_token
from tests.unit.cli.signing_in import (
    CODE,
    HOUR_MS,
    Authority,
    discharged,
    kept,
    person_token,
    petsem,
    signed_in,
    spelt,
)
from tests.unit.cli.support import NOW_MS, TOKEN, problem
from tests.unit.tokens.build import made

UNTIL_MS = NOW_MS + HOUR_MS
BARE = encode_part(person_token(NOW_MS + 12 * HOUR_MS))
DISCHARGE = ("token", "discharge")


def with_caveats(*asked: tuple[bytes, bytes | None]) -> str:
    """A token that asks for discharges of those tickets at those places."""
    root = parse_token(BARE).root
    first = tuple(each for each in root.caveats if each.vid is None)
    more = tuple(Caveat(ticket, bytes(72), place) for ticket, place in asked)
    return encode_part(Macaroon(LOCATION, root.identifier, first + more, root.signature))


def test_a_token_in_a_file(tmp_path: Path) -> None:
    """The token as it was, its discharge beside it and not bound, alone on stdout."""
    file = tmp_path / "bare.token"
    file.write_text(BARE)
    file.chmod(0o600)
    node = Authority()
    result = petsem(tmp_path, node, *DISCHARGE, "--token-file", str(file))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{BARE},{discharged(UNTIL_MS)}\n"
    assert CODE in result.stderr
    assert "petsem_" not in result.stderr
    assert result.stderr.endswith("discharged until 2027-01-15T09:00:00Z\n")
    assert not [each for each in node.requests if "authorization" in each.headers]
    assert not (tmp_path / "petsem").exists()


def test_the_callers_own(tmp_path: Path) -> None:
    """Without --token-file, PETSEM_TOKEN's; a discharge that it had is replaced."""
    text = f"{BARE},{discharged(NOW_MS + 1000)}"
    result = petsem(tmp_path, Authority(way="at once"), *DISCHARGE, env={"PETSEM_TOKEN": text})
    assert result.stdout == f"{BARE},{discharged(UNTIL_MS)}\n"


def test_into_a_file(tmp_path: Path) -> None:
    """--out: a new private file, and nothing of the token on stdout; an old one stays."""
    out = tmp_path / "whole.token"
    node = Authority(way="at once")
    args = (*DISCHARGE, "--token-file", "-", "--out", str(out))
    result = petsem(tmp_path, node, *args, stdin=BARE)
    assert result.exit_code == 0
    assert "petsem_" not in result.stdout
    assert out.read_text() == f"{BARE},{discharged(UNTIL_MS)}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    node.requests.clear()
    assert petsem(tmp_path, node, *args, stdin=BARE).exit_code == 5
    assert node.requests == []


def test_several_tickets(tmp_path: Path) -> None:
    """Each of ours is asked for; one of another service is named, and its discharge left alone."""
    theirs = encode_part(made(b"key", b"theirs"))
    root = with_caveats(
        (b"one", b"petsem"), (b"theirs", b"https://ci.example"), (b"two", b"petsem")
    )
    env = {"PETSEM_TOKEN": f"{root},{theirs}"}
    node = Authority(way="at once")
    result = petsem(tmp_path, node, *DISCHARGE, env=env)
    assert result.exit_code == 0, result.stderr
    asked = [each["ticket"] for each in node.bodies("/.well-known/petsem/3p")]
    assert asked == [spelt(b"one"), spelt(b"two")]
    ones = [discharged(UNTIL_MS, b"one"), discharged(UNTIL_MS, b"two")]
    assert result.stdout.strip().split(",") == [root, theirs, *ones]
    assert "also asks for a discharge of https://ci.example" in result.stderr


@pytest.mark.parametrize(
    "text", [TOKEN, with_caveats((b"x", b"https://ci.example")), with_caveats((b"x", None))]
)
def test_a_token_that_asks_us_for_nothing(text: str, tmp_path: Path) -> None:
    """Said, with exit code 2, before any call."""
    node = Authority(way="at once")
    result = petsem(tmp_path, node, *DISCHARGE, env={"PETSEM_TOKEN": text})
    assert result.exit_code == 2
    assert "asks for no discharge of Petsem's" in result.stderr
    assert node.requests == []


def test_a_host_s_token(tmp_path: Path) -> None:
    """Its ticket is of no sign-in: said with what does discharge it, before any call."""
    node = Authority(way="at once")
    text = encode_part(person_token(UNTIL_MS, kind=Kind.HOST))
    result = petsem(tmp_path, node, *DISCHARGE, env={"PETSEM_TOKEN": text})
    assert (result.exit_code, node.requests) == (2, [])
    assert "petsem boot allow" in result.stderr


def test_of_a_sign_in(tmp_path: Path) -> None:
    """The session is used if there is one, and what comes of it is kept with the sign-in."""
    node = Authority()
    signed_in(tmp_path, node)
    node.clock.advance(60)
    result = petsem(tmp_path, node, *DISCHARGE)
    assert result.exit_code == 0, result.stderr
    login = kept(tmp_path)
    assert (node.sessions_used, login["session"]) == (["session-1"], "session-2")
    assert login["discharge_until_ms"] == UNTIL_MS + 60_000
    assert result.stdout == f"{login['token']},{login['discharge']}\n"


def test_of_a_sign_in_whose_session_is_over(tmp_path: Path) -> None:
    """Then the person signs in, and the sign-in is good again."""
    node = Authority()
    signed_in(tmp_path, node)
    node.said["POST /.well-known/petsem/3p"] = [problem(403, "denied")]
    node.clock.advance(60)
    result = petsem(tmp_path, node, *DISCHARGE)
    assert result.exit_code == 0, result.stderr
    assert CODE in result.stderr
    assert kept(tmp_path)["discharge_until_ms"] == UNTIL_MS + 60_000
    assert result.stdout == f"{kept(tmp_path)['token']},{kept(tmp_path)['discharge']}\n"


def test_of_a_sign_in_by_somebody_else(tmp_path: Path) -> None:
    """Another person's discharge opens nothing with this token: it is not kept or printed, and the
    sentence says whose is whose."""
    node = Authority(session=None)
    signed_in(tmp_path, node)
    before = kept(tmp_path)
    node.user = "bob@acme.example"
    result = petsem(tmp_path, node, *DISCHARGE)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1] == (
        "petsem: bob@acme.example has signed in, and the sign-in to acme is that of "
        "ada@acme.example; sign in as that person, or begin anew with: petsem login acme"
    )
    assert kept(tmp_path) == before


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_refusals(status: int, tmp_path: Path) -> None:
    """The node's sentence; no ticket, token or secret."""
    node = Authority()
    node.said["POST /.well-known/petsem/3p"] = problem(status, "denied", "so it is")
    result = petsem(tmp_path, node, *DISCHARGE, "--debug", env={"PETSEM_TOKEN": BARE})
    assert result.exit_code == 3
    assert result.stderr.startswith("petsem: so it is\n")
    assert "petsem_" not in result.stderr
    assert encode_token(parse_token(BARE).root)[:40] not in result.stderr
