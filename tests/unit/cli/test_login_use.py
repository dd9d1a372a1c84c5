"""A sign-in in use: chosen for its org, renewed in silence, and what is said when it ends."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import petsem_client
from petsem.cli.logins import Logins
from petsem.errors import Code, Detail, PetsemError
from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import parse_token
from tests.unit.cli.signing_in import (
    HOUR_MS,
    LIST,
    LISTED,
    TOKEN_ID,
    USER,
    Authority,
    kept,
    petsem,
    signed_in,
)
from tests.unit.cli.support import ADDRESS, TOKEN, answer, problem

THIRD_PARTY = "POST /.well-known/petsem/3p"
AGAIN = "sign in again with: petsem login acme\n"
SECRETS = ("secrets", "list", "-a", "acme/web")


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


def rename(state: Path, org: str) -> None:
    """Another sign-in, to `org`."""
    file = state / "petsem" / "logins" / f"{org}.json"
    file.write_text(json.dumps({**kept(state), "org": org}))
    file.chmod(0o600)


def change(state: Path, **fields: Any) -> None:
    """Write other fields into the sign-in."""
    (state / "petsem" / "logins" / "acme.json").write_text(json.dumps({**kept(state), **fields}))


def sent(request: httpx.Request) -> Any:
    """The token that came."""
    return parse_token(request.headers["authorization"].removeprefix("Bearer "))


def test_what_is_sent(state: Path, node: Authority) -> None:
    """The root narrowed to the call, its discharge bound to that, and nothing else of the file."""
    result = petsem(state, node, *SECRETS)
    assert (result.exit_code, result.stderr.count("warning")) == (0, 0)
    assert node.paths() == ["/v1/orgs/acme/apps/web/secrets"]
    came = sent(node.requests[0])
    login = kept(state)
    root = parse_token(login["token"]).root
    assert came.root.caveats[: len(root.caveats)] == root.caveats
    narrowed = [each.cid for each in came.root.caveats[len(root.caveats) :]]
    assert narrowed[:3] == [b"org = acme", b"app = web", b"action = secrets:list"]
    unbound = parse_token(login["discharge"]).root
    assert came.discharges == (bind_discharge(came.root, unbound),)


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (("secrets", "list", "-a", "acme/web"), {}),
        (("secrets", "list"), {"PETSEM_APP": "acme/web"}),
        (("token", "list", "--org", "acme"), {}),
        (("token", "verify", "x:y", "--org", "acme"), {}),
        (("org", "settings", "acme"), {}),
        (("app", "list", "acme"), {"PETSEM_APP": "other/web"}),
    ],
)
def test_the_sign_in_of_the_org_that_is_named(
    args: tuple[str, ...], env: Mapping[str, str], state: Path, node: Authority
) -> None:
    """Of several, the one of the org that the command names, however it names it."""
    rename(state, "beta")
    change(state, org="acme")
    petsem(state, node, *args, env=env)
    assert len(node.requests) == 1
    assert sent(node.requests[0]).discharges


def test_the_only_sign_in(state: Path, node: Authority) -> None:
    """A command that names no org uses the only one there is; of several, none."""
    petsem(state, node, "status")
    assert len(node.requests) == 1
    rename(state, "beta")
    result = petsem(state, node, "status")
    assert result.exit_code == 3
    assert "petsem login ORG" in result.stderr
    assert len(node.requests) == 1
    petsem(state, node, "status", env={"PETSEM_APP": "acme/web"})
    assert len(node.requests) == 2


def test_no_sign_in_is_used_for_another_org(state: Path, node: Authority) -> None:
    """A token of acme does not go to calls about beta."""
    result = petsem(state, node, "secrets", "list", "-a", "beta/web")
    assert result.exit_code == 3
    assert result.stderr.endswith("or sign in with: petsem login beta\n")
    assert node.requests == []


def test_a_token_that_is_named_counts_first(state: Path, node: Authority, tmp_path: Path) -> None:
    """PETSEM_TOKEN, then PETSEM_TOKEN_FILE, then the sign-in."""
    file = tmp_path / "a.token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    for env in ({"PETSEM_TOKEN": TOKEN}, {"PETSEM_TOKEN_FILE": str(file)}):
        petsem(state, node, *SECRETS, env=env)
        assert sent(node.requests[-1]).discharges == ()


def test_offline_commands_renew_nothing(state: Path, node: Authority) -> None:
    """`inspect` and `attenuate` read the sign-in as it is kept, near its end too."""
    node.clock.advance(3500)
    shown = petsem(state, node, "token", "inspect", "-o", "json")
    assert json.loads(shown.stdout)["identifier"]["token_id"] == TOKEN_ID
    made = petsem(state, node, "token", "attenuate", "-a", "acme/web").stdout.strip()
    assert parse_token(made).discharges[0] == parse_token(kept(state)["discharge"]).root
    assert node.requests == []


def test_a_young_discharge_is_left_alone(state: Path, node: Authority) -> None:
    """Nine tenths of its life, nobody is asked for another."""
    node.clock.advance(3600 * 0.9)
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert node.sessions_used == []


@pytest.mark.parametrize("after_s", [3600 * 0.9 + 1, 3600, 3600 * 5])
def test_silent_renewal(after_s: float, state: Path, node: Authority) -> None:
    """In the last tenth, or after it, the session gives a new discharge before the call; both are
    kept, and the next command asks nobody."""
    node.clock.advance(after_s)
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 0
    assert "warning" not in result.stderr
    assert node.paths() == ["/.well-known/petsem/3p", "/v1/orgs/acme/apps/web/secrets"]
    assert node.sessions_used == ["session-1"]
    login = kept(state)
    assert login["session"] == "session-2"
    assert login["discharge_until_ms"] == node.clock.unix_ms() + HOUR_MS
    unbound = parse_token(login["discharge"]).root
    came = sent(node.requests[1])
    assert came.discharges == (bind_discharge(came.root, unbound),)
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert len(node.requests) == 3


def test_the_session_goes_only_where_the_person_signed_in(state: Path, node: Authority) -> None:
    """PETSEM_ADDR may name another node since: it gets a narrowed token, and never the session."""
    node.clock.advance(3500)
    env = {"PETSEM_ADDR": "http://127.0.0.1:7499"}
    assert petsem(state, node, *SECRETS, env=env).exit_code == 0
    assert [(each.url.port, each.url.path) for each in node.requests] == [
        (7400, "/.well-known/petsem/3p"),
        (7499, "/v1/orgs/acme/apps/web/secrets"),
    ]
    assert "authorization" not in node.requests[0].headers


def test_a_provider_that_takes_its_time(state: Path, node: Authority, pauses: list[float]) -> None:
    """What a session gave is polled for: it may be good for one renewal only."""
    node.slow = True
    node.clock.advance(3700)
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert len(pauses) == 3
    assert kept(state)["session"] == "session-2"
    assert [sorted(each) for each in node.bodies("/.well-known/petsem/3p/poll")][-1] == [
        "flow",
        "secret",
    ]


def test_a_provider_that_does_not_answer(state: Path, node: Authority, pauses: list[float]) -> None:
    """The command does not wait for ever; while the discharge is good, it goes on."""
    node.slow, node.polls_until_ready = True, 10**6
    node.clock.advance(3500)
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert 20 <= sum(pauses) <= 30
    node.clock.advance(200)
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 6


def test_a_renewal_that_fails_costs_nothing_yet(state: Path, node: Authority) -> None:
    """While the discharge is good, a node that is away only means a word on it."""
    node.clock.advance(3500)
    node.said[THIRD_PARTY] = problem(503, "unavailable")
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 0
    assert result.stderr.startswith(
        f"warning: the sign-in to acme ends at 2027-01-15T09:00:00Z; {AGAIN}"
    )
    assert node.paths().count("/.well-known/petsem/3p") == 1
    assert kept(state)["session"] == "session-1"


def test_a_renewal_that_fails_too_late(state: Path, node: Authority) -> None:
    """When the discharge is over, it is said that no node could renew it: exit code 6."""
    node.clock.advance(3700)
    node.said[THIRD_PARTY] = problem(503, "unavailable")
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 6
    assert result.stderr.endswith("petsem login acme\n")
    assert "try again later" in result.stderr
    assert node.paths() == ["/.well-known/petsem/3p"]


PAGE = {"user_url": f"{ADDRESS}/sso", "poll_url": f"{ADDRESS}/poll", "flow": "f", "code": None}


@pytest.mark.parametrize(
    "said",
    [{"user_interactive": PAGE}, problem(401, "unauthenticated"), problem(403, "denied")],
    ids=["a page", "unauthenticated", "denied"],
)
def test_a_session_that_is_over(said: Any, state: Path, node: Authority) -> None:
    """The person has to sign in; until then, and as long as the discharge is good, commands work,
    and the session is not tried again."""
    node.clock.advance(3500)
    node.said[THIRD_PARTY] = said
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert kept(state)["session"] is None
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert node.paths().count("/.well-known/petsem/3p") == 1
    node.clock.advance(200)
    result = petsem(state, node, *SECRETS)
    assert (result.exit_code, result.stderr) == (3, f"petsem: the sign-in to acme is over; {AGAIN}")


def test_the_permission_token_is_over(state: Path, node: Authority) -> None:
    """Nothing renews it: the sentence says when it ended, and no call is made."""
    node.clock.advance(12 * 3600)
    result = petsem(state, node, *SECRETS)
    assert (result.exit_code, result.stderr) == (
        3,
        f"petsem: the sign-in to acme ended at 2027-01-15T20:00:00Z; {AGAIN}",
    )
    assert node.requests == []


def test_another_command_renewed_it(state: Path, node: Authority) -> None:
    """What another command has just made is used, and the session not a second time."""
    old = kept(state)
    node.clock.advance(3500)
    assert petsem(state, node, *SECRETS).exit_code == 0
    newer = kept(state)
    seen: list[int] = []

    class Stale(Logins):
        """Reads what was there before, the first time."""

        def load(self, org: str) -> Any:
            seen.append(1)
            text = old if len(seen) == 1 else newer
            change(state, **text)
            return super().load(org)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petsem.cli.credentials.Logins", Stale)
        patch.setattr("petsem.cli.renewal.Logins", Stale)
        assert petsem(state, node, *SECRETS).exit_code == 0
    assert node.sessions_used == ["session-1"]
    came = sent(node.requests[-1])
    unbound = parse_token(newer["discharge"]).root
    assert came.discharges == (bind_discharge(came.root, unbound),)


def test_a_lock_that_is_held(state: Path, node: Authority, pauses: list[float]) -> None:
    """It is waited for, within bounds; then the command goes on with what it has, or says so."""
    node.clock.advance(3500)
    with (state / "petsem" / "logins" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = petsem(state, node, *SECRETS)
        assert result.exit_code == 0
        assert (len(pauses), node.sessions_used) == (300, [])
        node.clock.advance(200)
        assert petsem(state, node, *SECRETS).exit_code == 6
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert node.sessions_used == ["session-1"]


def test_a_sign_in_that_was_forgotten_meanwhile_is_not_kept_again(
    state: Path, node: Authority
) -> None:
    """A renewal that waited for a logout brings nothing back."""
    node.clock.advance(3500)
    kept_text = kept(state)

    class Forgotten(Logins):
        def load(self, org: str) -> Any:
            self.forget(org)
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petsem.cli.renewal.Logins", Forgotten)
        assert petsem(state, node, *SECRETS).exit_code == 0
    assert node.sessions_used == []
    assert kept_text["session"] == "session-1"
    assert Logins.of_environ({"XDG_STATE_HOME": str(state)}).orgs() == []


def test_a_renewal_that_cannot_be_kept(
    state: Path, node: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This command has its new discharge; that the next one has not is said."""

    def full(*_: object) -> None:
        raise PetsemError(Code.UNAVAILABLE, "the disk is full")

    node.clock.advance(3700)
    monkeypatch.setattr(Logins, "save", full)
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 0
    assert "good for this command only, since the disk is full" in result.stderr


@pytest.mark.parametrize("reason", ["EXPIRED", "DISCHARGE_MISSING", "DISCHARGE_INVALID"])
def test_a_refusal_is_answered_with_one_renewal(reason: str, state: Path, node: Authority) -> None:
    """A node that finds the discharge over, by its own clock or key, is asked once more."""
    refusal = problem(401, "unauthenticated", reason=reason)
    node.said[LIST] = [refusal, LISTED]
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert node.sessions_used == ["session-1"]
    assert len(node.requests) == 3
    node.said[LIST] = [refusal, refusal, refusal]
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 3
    assert node.sessions_used == ["session-1", "session-2"]
    assert len(node.requests) == 6


def test_one_renewal_a_command(state: Path, node: Authority) -> None:
    """A node that refuses whatever it is sent does not use up session after session."""
    refusal = problem(401, "unauthenticated", reason="EXPIRED")
    page = {"tokens": [], "next": "more"}
    node.said["GET /v1/orgs/acme/tokens"] = [refusal, page, refusal, page]
    assert petsem(state, node, "token", "list", "--org", "acme").exit_code == 3
    assert node.sessions_used == ["session-1"]


def test_a_refusal_with_no_session_left(state: Path, node: Authority) -> None:
    """The sentence says to sign in, whatever the node said."""
    change(state, session=None)
    node.said[LIST] = problem(401, "unauthenticated", reason="EXPIRED")
    result = petsem(state, node, *SECRETS)
    assert (result.exit_code, result.stderr) == (3, f"petsem: the sign-in to acme is over; {AGAIN}")
    assert len(node.requests) == 1


@pytest.mark.parametrize("reason", ["CAVEAT", "WRONG_ORG", None])
def test_other_refusals_are_not(reason: str | None, state: Path, node: Authority) -> None:
    """A newer discharge would not help, and the node's own sentence stands."""
    status, code = (401, "unauthenticated") if reason is None else (403, "denied")
    details = {} if reason is None else {"reason": reason}
    node.said[LIST] = problem(status, code, "so it is", **details)
    result = petsem(state, node, *SECRETS)
    assert (result.exit_code, result.stderr) == (3, "petsem: so it is\n")
    assert node.sessions_used == []


def test_a_sign_in_that_was_revoked(state: Path, node: Authority) -> None:
    """Nothing renews it, and the sentence says what does help; another token's says less."""
    node.said[LIST] = problem(403, "denied", "so it is", reason="REVOKED")
    result = petsem(state, node, *SECRETS)
    assert (result.exit_code, result.stderr) == (
        3,
        "petsem: the sign-in to acme was revoked; sign in again with: petsem login acme\n",
    )
    named = petsem(state, node, *SECRETS, env={"PETSEM_TOKEN": TOKEN})
    assert (named.exit_code, named.stderr) == (3, "petsem: so it is\n")
    assert (node.sessions_used, len(node.requests)) == ([], 2)


def test_a_token_without_its_discharge(state: Path, node: Authority) -> None:
    """For one that is from no sign-in, the node's sentence stands; it names the commands."""
    node.said[LIST] = problem(401, "unauthenticated", "it lacks one", reason="DISCHARGE_MISSING")
    env = {"PETSEM_TOKEN": kept(state)["token"]}
    result = petsem(state, node, *SECRETS, env=env)
    assert (result.exit_code, result.stderr) == (3, "petsem: it lacks one\n")
    assert node.sessions_used == []


def test_boot_uses_the_sign_in(
    state: Path, node: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching too is with the sign-in: renewed before, and once more after a refusal."""
    tokens: list[str] = []

    class Refusing:
        """A reader that finds the first two discharges over."""

        def __init__(self, endpoints: object, *, token: str, **_: object) -> None:
            tokens.append(token)

        def __enter__(self) -> Refusing:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def fetch(self, *_: object, **__: object) -> Any:
            raise PetsemError(Code.UNAUTHENTICATED, "over", Detail(reason="EXPIRED"))

    monkeypatch.setattr(petsem_client, "SyncSecretReader", Refusing)
    node.clock.advance(3500)
    result = petsem(state, node, "boot", "env", "-a", "acme/web")
    assert (result.exit_code, result.stderr) == (3, "petsem: over\n")
    assert node.sessions_used == ["session-1", "session-2"]
    assert len(set(tokens)) in (1, 2)
    assert tokens[-1] == f"{kept(state)['token']},{kept(state)['discharge']}"


def test_a_token_about_itself_travels_bound(state: Path, node: Authority) -> None:
    """`token verify` of one's own: the discharge is bound, or no node would take it."""
    no = {"allowed": False, "reason": "CAVEAT", "message": "no", "freshness": LISTED["freshness"]}
    node.said["POST /v1/tokens/verify"] = no
    assert petsem(state, node, "token", "verify", "x:y", "--org", "acme").exit_code == 3
    login = kept(state)
    root, unbound = parse_token(login["token"]).root, parse_token(login["discharge"]).root
    asked = parse_token(node.bodies("/v1/tokens/verify")[0]["token"])
    assert asked.root == root
    assert asked.discharges == (bind_discharge(root, unbound),)


def test_a_token_that_was_sent_is_verified_as_it_is(
    state: Path, node: Authority, tmp_path: Path
) -> None:
    """One from a file is tried as it would be sent, and if that does not fit, as it stands."""
    denied = {
        "allowed": False,
        "reason": "DISCHARGE_INVALID",
        "message": "no",
        "freshness": LISTED["freshness"],
    }
    node.said["POST /v1/tokens/verify"] = denied
    login = kept(state)
    text = f"{login['token']},{login['discharge']}"
    args = ("token", "verify", "x:y", "--org", "acme", "--token-file", "-")
    assert petsem(state, node, *args, stdin=text).exit_code == 3
    asked = [each["token"] for each in node.bodies("/v1/tokens/verify")]
    assert len(asked) == 2
    assert asked[0] != text
    assert asked[1] == text


def test_a_killed_command_leaves_no_copy(state: Path, node: Authority) -> None:
    """What was half written is removed by the next that writes."""
    left = state / "petsem" / "logins" / ".petsem-x.tmp"
    left.write_text("a sign-in")
    signed_in(state, node)
    assert sorted(each.name for each in left.parent.iterdir()) == [".lock", "acme.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"org": "beta"}', "\xff"])
def test_a_damaged_sign_in(text: str, state: Path, node: Authority) -> None:
    """One sentence with the command that makes a new one, and nothing of the file."""
    file = state / "petsem" / "logins" / "acme.json"
    file.write_text(text, encoding="latin-1")
    result = petsem(state, node, *SECRETS)
    assert result.exit_code == 2
    assert "petsem login acme" in result.stderr
    assert node.requests == []


def test_a_sign_in_in_the_place_of_another(state: Path, node: Authority) -> None:
    """A file that was renamed is no sign-in to the org that it is named for."""
    (state / "petsem" / "logins" / "acme.json").rename(state / "petsem" / "logins" / "beta.json")
    result = petsem(state, node, "secrets", "list", "-a", "beta/web")
    assert result.exit_code == 2
    assert "petsem login beta" in result.stderr
    assert node.requests == []


def test_a_renewal_that_is_somebody_else_s(state: Path, node: Authority) -> None:
    """It is none: the old discharge is kept, and is used while it is good."""
    before = kept(state)
    node.user = "bob@acme.example"
    node.clock.advance(3500)
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert kept(state) == before
    assert before["user"] == USER


def test_answers_after_a_renewal_are_judged_as_ever(state: Path, node: Authority) -> None:
    """A discharge of another ticket is not taken for a renewal."""
    node.clock.advance(3500)
    node.said[THIRD_PARTY] = lambda _: answer({"discharge": kept(state)["token"]})
    before = kept(state)
    assert petsem(state, node, *SECRETS).exit_code == 0
    assert kept(state) == before
