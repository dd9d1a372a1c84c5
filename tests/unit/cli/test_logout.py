"""Signing out: the token ends itself, sent whole and once; what is kept goes whatever happens."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_token, parse_token
from tests.unit.cli.signing_in import (
    END,
    HOUR_MS,
    REVOKED,
    Authority,
    kept,
    petsem,
    signed_in,
)
from tests.unit.cli.support import ADDRESS, NOW_MS, TOKEN, problem

ENDED = "its token is revoked, and with it any service token and boot grant that came of it\n"
FILE = ("petsem", "logins", "acme.json")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where sign-ins are kept."""
    return tmp_path / "state"


@pytest.fixture
def node(state: Path) -> Authority:
    """A node at which ada is signed in to acme, an hour's discharge before her."""
    made = Authority()
    signed_in(state, made)
    return made


def test_logout(state: Path, node: Authority) -> None:
    """The token ends itself, then it is forgotten, and both are said."""
    node.said[END] = REVOKED
    env = {"PETSEM_ADDR": "http://127.0.0.1:7499", "PETSEM_TOKEN": TOKEN}
    login = kept(state)
    result = petsem(state, node, "logout", env=env)
    assert (result.exit_code, result.stdout) == (0, "the sign-in to acme is forgotten\n")
    assert result.stderr == ENDED
    assert [str(each.url) for each in node.requests] == [f"{ADDRESS}{END.removeprefix('DELETE ')}"]
    # Whole, because only whole may it end itself: as it was minted, the discharge bound to it.
    root, made = parse_token(login["token"]).root, parse_token(login["discharge"]).root
    sent_text = node.requests[0].headers["authorization"].removeprefix("Bearer ")
    assert sent_text == encode_token(root, [bind_discharge(root, made)])
    assert not state.joinpath(*FILE).exists()
    assert petsem(state, node, "logout", "acme").exit_code == 4
    assert petsem(state, node, "logout").exit_code == 4


def test_logout_says_how_far_the_revocation_is(state: Path, node: Authority) -> None:
    """As `token revoke` does."""
    unmet = {"asked": {"replicated": 1}, "met": False, "replicated_to": []}
    node.said[END] = {**REVOKED, "durability": unmet}
    result = petsem(state, node, "logout")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{ENDED}warning: the change stands, but ")


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(403, "denied", 3), (404, "not_found", 4), (429, "limit", 6), (503, "unavailable", 6)],
)
def test_logout_without_revoking(
    status: int, code: str, exit_code: int, state: Path, node: Authority
) -> None:
    """Forgotten all the same; one sentence says what was in the way and until when the token may be
    used, and the exit code is of that. The whole token went out once. Who has copied the file has
    the session, so that is the token's end, not the discharge's."""
    node.said[END] = problem(status, code, "it is away")
    result = petsem(state, node, "logout", "acme", "-o", "json")
    assert json.loads(result.stdout) == {"org": "acme", "revoked": False, "forgotten": True}
    assert (result.exit_code, result.stderr) == (
        exit_code,
        "petsem: its token was not revoked: it is away; it opens nothing after "
        "2027-01-15T20:00:00Z\n",
    )
    assert len(node.requests) == 1
    assert not state.joinpath(*FILE).exists()


def test_logout_without_revoking_or_a_session(state: Path, node: Authority) -> None:
    """What nobody can renew ends with its discharge; service tokens that came of it, later."""
    node.session = None
    signed_in(state, node)
    node.said[END] = problem(503, "unavailable", "it is away")
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stderr) == (
        6,
        "petsem: its token was not revoked: it is away; without a new sign-in it opens nothing "
        "after 2027-01-15T09:00:00Z, and any service token that came of it nothing after "
        "2027-01-15T20:00:00Z\n",
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ConnectError("no"), "no node answered at PETSEM_ADDR"),
        (httpx.ReadTimeout("late"), "it is not known whether it was done"),
    ],
)
def test_logout_without_a_node(
    error: httpx.TransportError, says: str, state: Path, node: Authority
) -> None:
    """Nobody there, or an answer that was lost: forgotten, said, and not sent once more."""

    def lost(_: httpx.Request) -> httpx.Response:
        raise error

    node.said[END] = lost
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stdout) == (6, "the sign-in to acme is forgotten\n")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(node.requests) == 1
    assert not state.joinpath(*FILE).exists()


def test_logout_goes_in_clear_to_this_machine_only(state: Path, node: Authority) -> None:
    """The whole token least of all: a sign-in that was made elsewhere with --insecure is not ended
    without that word either."""
    file = state.joinpath(*FILE)
    file.write_text(json.dumps({**kept(state), "nodes": ["http://petsem.example:7400"]}))
    result = petsem(state, node, "logout")
    assert (result.exit_code, node.requests) == (2, [])
    assert "plain http to another machine" in result.stderr
    assert not file.exists()


def test_logout_of_what_was_revoked(state: Path, node: Authority) -> None:
    """Somebody did it before, or the answer to the first call was lost: that is what was wanted."""
    node.said[END] = problem(403, "denied", reason="REVOKED")
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stderr) == (0, ENDED)
    assert len(node.requests) == 1


def test_logout_renews_what_is_over(state: Path, node: Authority) -> None:
    """Without a discharge that is good the token cannot end itself, so it gets one; where there is
    none to be had, nobody else can use it either."""
    node.said[END] = REVOKED
    node.clock.advance(3700)
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stderr) == (0, ENDED)
    assert node.sessions_used == ["session-1"]
    node.session = None
    signed_in(state, node)
    node.clock.advance(3700)
    result = petsem(state, node, "logout")
    assert result.exit_code == 0
    assert result.stderr == (
        "its token was not revoked; it opens nothing any more without a new sign-in, and any "
        "service token that came of it nothing after 2027-01-15T21:01:40Z\n"
    )
    node.session = "session-9"
    signed_in(state, node)
    node.clock.advance(3700)
    node.said["POST /.well-known/petsem/3p"] = problem(503, "unavailable")
    result = petsem(state, node, "logout")
    assert result.exit_code == 6
    assert "the sign-in could not be renewed for that" in result.stderr
    assert not state.joinpath(*FILE).exists()


def test_logout_when_the_session_is_over(state: Path, node: Authority) -> None:
    """The authenticator has just said so: then a copy of the file is of no use to anybody, and what
    is said is not the token's own end."""
    node.said["POST /.well-known/petsem/3p"] = problem(403, "denied")
    node.clock.advance(3700)
    result = petsem(state, node, "logout")
    assert result.exit_code == 0
    assert result.stderr.startswith("its token was not revoked; it opens nothing any more without")


def test_logout_by_a_clock_that_is_wrong(state: Path, node: Authority) -> None:
    """What is over for the node is the discharge, since nothing was narrowed by our clock: that is
    renewed, and not the same sent again."""
    later_ms = NOW_MS + 2 * HOUR_MS
    over = problem(401, "unauthenticated", reason="EXPIRED", server_time_ms=later_ms)
    node.said[END] = [over, REVOKED]
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stderr) == (0, ENDED)
    assert node.sessions_used == ["session-1"]
    assert len(node.requests) == 3


@pytest.mark.parametrize(
    ("text", "mode", "mends"),
    [(None, 0o644, "chmod 600"), ("{", 0o600, "remove it"), ("{}", 0o600, "remove it")],
)
def test_logout_of_what_cannot_be_read(
    text: str | None, mode: int, mends: str, state: Path, node: Authority
) -> None:
    """A file that is damaged or open to others may be the only whole copy of a token that lives: it
    stays, and the sentence says that nothing was done and what to do."""
    file = state.joinpath(*FILE)
    text = file.read_text() if text is None else text
    file.write_text(text)
    file.chmod(mode)
    result = petsem(state, node, "logout", "acme")
    assert (result.exit_code, result.stdout, node.requests) == (2, "", [])
    assert result.stderr.startswith("petsem: nothing was revoked, and nothing forgotten: ")
    assert mends in result.stderr
    assert file.read_text() == text


def test_logout_of_what_is_over(state: Path, node: Authority) -> None:
    """It needs no revoking, which is said: this machine's clock may be wrong."""
    node.clock.advance(13 * 3600)
    result = petsem(state, node, "logout", "acme")
    assert (result.exit_code, result.stdout) == (0, "the sign-in to acme is forgotten\n")
    assert (result.stderr, node.requests) == (
        "its token ended at 2027-01-15T20:00:00Z by this machine's clock, and was not revoked\n",
        [],
    )


@pytest.mark.parametrize("is_revoked", [True, False])
def test_logout_that_cannot_forget(is_revoked: bool, state: Path, node: Authority) -> None:
    """Where the directory takes no lock the file stays; the token ends all the same, or one
    sentence says that neither was done."""
    node.said[END] = REVOKED if is_revoked else problem(503, "unavailable", "it is away")
    lock = state / "petsem" / "logins" / ".lock"
    lock.unlink()
    lock.mkdir()
    result = petsem(state, node, "logout")
    left = f"the sign-in is not forgotten: cannot open {lock}: Is a directory; sign-ins need a "
    if is_revoked:
        assert result.exit_code == 2
        assert result.stderr.startswith(f"{ENDED}petsem: {left}")
    else:
        assert result.exit_code == 6
        assert result.stderr.startswith("petsem: its token was not revoked: it is away; ")
        assert f"; and {left}" in result.stderr
    assert "XDG_STATE_HOME" in result.stderr
    assert result.stdout == ""
    assert state.joinpath(*FILE).exists()


def test_logout_of_which(state: Path, node: Authority) -> None:
    """Of several sign-ins, one has to be named."""
    other = state / "petsem" / "logins" / "beta.json"
    other.write_text(json.dumps({**kept(state), "org": "beta"}))
    other.chmod(0o600)
    result = petsem(state, node, "logout")
    assert result.exit_code == 2
    assert "petsem logout ORG" in result.stderr
    assert node.requests == []
