"""Signing out: the token ends itself, sent whole and once; what is kept goes whatever happens."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_token, parse_token
from tests.unit.cli.signing_in import HOUR_MS, TOKEN_ID, Authority, kept, petsem, signed_in
from tests.unit.cli.support import ADDRESS, NOW_MS, TOKEN, problem

REVOKED = {
    "id": TOKEN_ID,
    "revoked_at": "2027-01-15T08:00:00Z",
    "position": "00000001-0000000000000009",
    "durability": {"asked": "local", "met": True, "replicated_to": []},
}
END = f"DELETE /v1/orgs/acme/tokens/{TOKEN_ID}"
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
    assert result.stderr == "its token is revoked\n"
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
    assert result.stderr.startswith("its token is revoked\nwarning: the change stands, but ")


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(403, "denied", 3), (404, "not_found", 4), (429, "limit", 6), (503, "unavailable", 6)],
)
def test_logout_without_revoking(
    status: int, code: str, exit_code: int, state: Path, node: Authority
) -> None:
    """Forgotten all the same; one sentence says what was in the way and until when the token may be
    used, and the exit code is of that. The whole token went out once."""
    node.said[END] = problem(status, code, "it is away")
    result = petsem(state, node, "logout", "acme", "-o", "json")
    assert json.loads(result.stdout) == {"org": "acme", "revoked": False}
    assert (result.exit_code, result.stderr) == (
        exit_code,
        "petsem: its token was not revoked: it is away; without a new sign-in it opens nothing "
        "after 2027-01-15T09:00:00Z\n",
    )
    assert len(node.requests) == 1
    assert not state.joinpath(*FILE).exists()


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
    assert (result.exit_code, result.stderr) == (0, "its token is revoked\n")
    assert len(node.requests) == 1


def test_logout_renews_what_is_over(state: Path, node: Authority) -> None:
    """Without a discharge that is good the token cannot end itself, so it gets one; where there is
    none to be had, nobody else can use it either."""
    node.said[END] = REVOKED
    node.clock.advance(3700)
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stderr) == (0, "its token is revoked\n")
    assert node.sessions_used == ["session-1"]
    node.session = None
    signed_in(state, node)
    node.clock.advance(3700)
    result = petsem(state, node, "logout")
    assert result.exit_code == 0
    assert result.stderr == (
        "its token was not revoked, and opens nothing any more without a new sign-in\n"
    )
    node.session = "session-9"
    signed_in(state, node)
    node.clock.advance(3700)
    node.said["POST /.well-known/petsem/3p"] = problem(503, "unavailable")
    result = petsem(state, node, "logout")
    assert result.exit_code == 6
    assert "no node that you signed in at could renew the sign-in for that" in result.stderr
    assert not state.joinpath(*FILE).exists()


def test_logout_by_a_clock_that_is_wrong(state: Path, node: Authority) -> None:
    """What is over for the node is the discharge, since nothing was narrowed by our clock: that is
    renewed, and not the same sent again."""
    later_ms = NOW_MS + 2 * HOUR_MS
    over = problem(401, "unauthenticated", reason="EXPIRED", server_time_ms=later_ms)
    node.said[END] = [over, REVOKED]
    result = petsem(state, node, "logout")
    assert (result.exit_code, result.stderr) == (0, "its token is revoked\n")
    assert node.sessions_used == ["session-1"]
    assert len(node.requests) == 3


def test_logout_of_what_cannot_be_read(state: Path, node: Authority) -> None:
    """A damaged sign-in is forgotten like another, and what cannot be done is an error; one that is
    over needs no revoking."""
    state.joinpath(*FILE).write_text("{}")
    result = petsem(state, node, "logout", "acme")
    assert (result.exit_code, result.stdout) == (2, "the sign-in to acme is forgotten\n")
    assert "its token was not revoked" in result.stderr
    assert node.requests == []
    signed_in(state, node)
    node.clock.advance(13 * 3600)
    result = petsem(state, node, "logout", "acme")
    assert (result.exit_code, result.stderr, node.requests) == (0, "", [])


def test_logout_of_which(state: Path, node: Authority) -> None:
    """Of several sign-ins, one has to be named."""
    other = state / "petsem" / "logins" / "beta.json"
    other.write_text(json.dumps({**kept(state), "org": "beta"}))
    other.chmod(0o600)
    result = petsem(state, node, "logout")
    assert result.exit_code == 2
    assert "petsem logout ORG" in result.stderr
    assert node.requests == []
