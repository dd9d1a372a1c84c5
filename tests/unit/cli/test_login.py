"""Signing in: the page, the code, the browser, the wait, and what is refused on the way."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result

from petsem.cli import login as login_module
from petsem.cli import tokens_discharge
from petsem.cli.loopback import Loopback
from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_part, encode_token, parse_token
from petsem.tokens.ticket import discharge
from tests.unit.cli.signing_in import (
    CAVEAT_KEY,
    CODE,
    END,
    HOUR_MS,
    RELEASE,
    REVOKED,
    TICKET,
    TOKEN_ID,
    USER,
    Authority,
    discharged,
    kept,
    person_token,
    petsem,
    signed_in,
    spelt,
)
from tests.unit.cli.support import ADDRESS, NOW_MS, answer, problem
from tests.unit.tokens.build import required

THIRD_PARTY = "POST /.well-known/petsem/3p"
POLL = "POST /.well-known/petsem/3p/poll"
FLOW = {"poll_url": f"{ADDRESS}/.well-known/petsem/3p/poll", "flow": "flow-1"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where sign-ins are kept."""
    return tmp_path / "state"


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Puts a browser on this machine."""

    def put(found: Any) -> None:
        for module in (login_module, tokens_discharge):
            monkeypatch.setattr(module, "local_browser", lambda _: found)

    return put


class Elsewhere:
    """A browser that does not open."""

    def open(self, _: str) -> bool:
        return False


def test_with_a_code(state: Path, pauses: list[float]) -> None:
    """Without a browser here: a page and a code on stderr, a wait, and a token in a file only."""
    node = Authority()
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        f"signed in to acme as {USER}, until 2027-01-15T20:00:00Z at the latest\n"
    )
    assert f"{ADDRESS}/sso?flow=1" in result.stderr
    assert CODE in result.stderr
    assert node.asked.keys() == {"ticket", "commitment"}
    assert len(pauses) == 3
    login = kept(state)
    assert login["token_id"] == TOKEN_ID
    assert login["session"] == "session-1"
    assert login["nodes"] == [ADDRESS]
    assert login["discharge"] == discharged(NOW_MS + HOUR_MS)
    for secret in (login["token"], login["discharge"], "session-1"):
        assert secret not in result.stdout + result.stderr


def test_nothing_is_sent_but_what_is_needed(state: Path) -> None:
    """No call of a sign-in carries a token, and the poll secret goes out once, at the end."""
    node = Authority()
    assert petsem(state, node, "login", "acme", env={"PETSEM_TOKEN": "petsem_x"}).exit_code == 0
    assert not [each for each in node.requests if "authorization" in each.headers]
    assert [sorted(body) for body in node.bodies("/.well-known/petsem/3p/poll")] == [
        ["flow"],
        ["flow"],
        ["flow"],
        ["flow", "secret"],
    ]


def test_with_a_browser_here(
    state: Path, browser: Callable[[Any], None], pauses: list[float]
) -> None:
    """The browser comes back to a port of ours, and what it brings collects the discharge."""
    node = Authority(polls_until_ready=1)
    browser(node)
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 0, result.stderr
    assert node.opened == [f"{ADDRESS}/sso?flow=1"]
    assert node.asked["redirect_port"] > 1024
    assert node.bodies("/.well-known/petsem/3p/poll")[-1]["release"] == RELEASE
    assert pauses == []
    assert CODE not in result.stderr
    assert RELEASE not in result.stdout + result.stderr


def test_nothing_is_collected_before_the_browser_is_back(
    state: Path, browser: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow that somebody else finished elsewhere is ready, and gives this machine nothing."""
    monkeypatch.setattr(Loopback, "wait", lambda *_: None)
    node = Authority(polls_until_ready=1)
    browser(Elsewhere())
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 3
    assert "on this machine" in result.stderr
    assert "nobody signed in for 10 minutes" in result.stderr
    assert "--no-browser" in result.stderr
    assert not [b for b in node.bodies("/.well-known/petsem/3p/poll") if "secret" in b]


def test_the_browser_may_be_back_before_the_result_is(
    state: Path, browser: Callable[[Any], None], pauses: list[float]
) -> None:
    """An answer that says pending is no answer yet, whatever was sent for it."""
    node = Authority(polls_until_ready=3)
    browser(node)
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 0, result.stderr
    assert [b.get("release") for b in node.bodies("/.well-known/petsem/3p/poll")] == [RELEASE] * 3
    assert len(pauses) == 2


def test_a_refusal_is_heard_though_the_browser_stays_away(
    state: Path, browser: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who may not sign in is shown so in the browser, and the command ends."""
    monkeypatch.setattr(Loopback, "wait", lambda *_: None)
    node = Authority()
    node.said[POLL] = [{"state": "ready"}, problem(403, "denied", "not of that domain")]
    browser(Elsewhere())
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 3
    assert result.stderr.endswith("petsem: not of that domain\n")


def test_no_browser_was_asked_for(state: Path, browser: Callable[[Any], None]) -> None:
    """--no-browser shows the code although there is one."""
    node = Authority()
    browser(node)
    result = petsem(state, node, "login", "acme", "--no-browser")
    assert result.exit_code == 0
    assert node.opened == []
    assert CODE in result.stderr


@pytest.mark.parametrize("way", ["at once", "poll"])
def test_without_a_page(way: str, state: Path) -> None:
    """A discharge at once, or one that is only to be waited for."""
    node = Authority(way=way)
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 0, result.stderr
    assert "page" not in result.stderr
    assert kept(state)["user"] == USER


def test_waiting_ends(state: Path, pauses: list[float]) -> None:
    """After ten minutes, at a growing pace, in one sentence."""
    node = Authority(polls_until_ready=10**6)
    result = petsem(state, node, "login", "acme")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        3,
        "petsem: nobody signed in for 10 minutes; begin again",
    )
    assert 1.0 <= pauses[0] <= 1.2
    assert 5.0 <= pauses[-1] <= 6.0
    assert 600 <= sum(pauses) <= 730
    assert not (state / "petsem" / "logins" / "acme.json").exists()


def test_a_node_may_ask_for_a_pause(state: Path, pauses: list[float]) -> None:
    """Retry-After counts, with a refusal and with an answer; a node that is away is asked again."""
    busy = {"code": "limit", "message": "too often", "details": {}}
    node = Authority(polls_until_ready=0)
    node.said[POLL] = [
        lambda _: answer(busy, 429, **{"retry-after": "7"}),
        lambda _: answer({"state": "pending"}, 200, **{"retry-after": "9"}),
        lambda _: answer(busy, 429, **{"retry-after": "100000"}),
        problem(503, "unavailable"),
    ]
    assert petsem(state, node, "login", "acme").exit_code == 0
    assert [round(each / 1.1) for each in pauses[1:4]] == pytest.approx([7, 9, 60], rel=0.15)
    assert len(pauses) == 5


def test_a_refusal_ends_the_wait(state: Path, pauses: list[float]) -> None:
    """What the node says is what is said."""
    node = Authority()
    node.said[POLL] = problem(403, "denied", "people of that domain may not sign in")
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 3
    assert "people of that domain may not sign in" in result.stderr
    assert len(pauses) == 1


@pytest.mark.parametrize(
    "poll_url",
    [
        "http://evil.example/poll",
        "https://evil.example/poll",
        "http://127.0.0.1:7401/.well-known/petsem/3p/poll",
        "https://127.0.0.1:7400/.well-known/petsem/3p/poll",
        "//evil.example/poll",
        "http://127.0.0.1:7400@evil.example/poll",
        "http://127.0.0.1:7400.evil.example/poll",
        "http://127.0.0.1:7400\\@evil.example/",
        "file:///etc/passwd",
        "",
        "http://127.0.0.1:7400/" + "x" * 9000,
        "http://127.0.0.1:7400/poll?x=1",
        "http://127.0.0.1:99999/poll",
        "http://127.0.0.1:7400/a b",
    ],
)
def test_the_poll_secret_goes_nowhere_else(poll_url: str, state: Path) -> None:
    """An answer that points elsewhere is refused before anybody is polled or any page is shown."""
    node = Authority()
    page = {"user_url": f"{ADDRESS}/sso", "flow": "f", "code": CODE, "poll_url": poll_url}
    node.said[THIRD_PARTY] = {"user_interactive": page}
    result = petsem(state, node, "login", "acme")
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("petsem: the ")
    assert len(result.stderr.splitlines()) == 1
    assert node.paths() == ["/v1/login", "/.well-known/petsem/3p"]


@pytest.mark.parametrize(
    ("user_url", "shown"),
    [
        ("https://sso.example/sso?f=1", "https://sso.example/sso?f=1"),
        ("/sso?f=1", f"{ADDRESS}/sso?f=1"),
        ("http://evil.example/sso", None),
        ("http://127.0.0.1:7401/sso", None),
        ("javascript:alert(1)", None),
        ("https://me:pw@sso.example/", None),
        ("https://sso.example/\x1b[2J", None),
        ("https://", None),
    ],
)
def test_where_the_person_is_sent(user_url: str, shown: str | None, state: Path) -> None:
    """A page at a node of PETSEM_ADDR, or behind https; nothing else is shown or opened."""
    node = Authority()
    node.said[THIRD_PARTY] = {"user_interactive": {"user_url": user_url, "code": None, **FLOW}}
    node.said[POLL] = problem(403, "denied")
    result = petsem(state, node, "login", "acme")
    if shown is None:
        assert result.exit_code in (1, 2)
        assert len(result.stderr.splitlines()) == 1
        assert node.polls == 0
    else:
        assert f"\n{shown}\n" in result.stderr


def test_a_poll_at_another_node_of_petsem_addr(state: Path) -> None:
    """The addresses that PETSEM_ADDR names are all good to poll, by path or in full."""
    node = Authority(base="http://127.0.0.1:7410")
    env = {"PETSEM_ADDR": f"{ADDRESS},http://127.0.0.1:7410/"}
    node.said[THIRD_PARTY] = {
        **FLOW,
        "poll_url": "http://127.0.0.1:7410/.well-known/petsem/3p/poll",
    }
    node.said[POLL] = problem(403, "denied")
    assert petsem(state, node, "login", "acme", env=env).exit_code == 3
    assert str(node.requests[-1].url) == "http://127.0.0.1:7410/.well-known/petsem/3p/poll"


def test_a_page_at_another_node_of_petsem_addr(state: Path) -> None:
    """Asked of a replica, the page may be at the leader, in clear too if both are named."""
    leader = "http://127.0.0.1:7410"
    node = Authority(base=leader)
    node.said[POLL] = problem(403, "denied")
    for named, code in ((f"{ADDRESS},{leader}", 3), (ADDRESS, 2)):
        result = petsem(state, node, "login", "acme", env={"PETSEM_ADDR": named})
        assert result.exit_code == code
        assert (f"\n{leader}/sso?flow=1\n" in result.stderr) == (code == 3)
    assert result.stderr.endswith("which PETSEM_ADDR does not name; add it there if it is yours\n")


ANOTHER_TOKEN = encode_part(person_token(NOW_MS + HOUR_MS))
ENDLESS = encode_part(discharge(TICKET, CAVEAT_KEY, [f"user = {USER}"]))
ASKING = encode_part(
    required(parse_token(discharged(NOW_MS + HOUR_MS)).root, CAVEAT_KEY, b"a ticket in it")
)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"discharge": discharged(NOW_MS + HOUR_MS), **FLOW},
        {"discharge": discharged(NOW_MS + HOUR_MS, b"another ticket")},
        {"discharge": "petsem_x"},
        {"discharge": ANOTHER_TOKEN},
        {"discharge": ENDLESS},
        {"discharge": ASKING},
        {"discharge": ",".join([discharged(NOW_MS + HOUR_MS)] * 2)},
        {"discharge": discharged(NOW_MS + HOUR_MS), "session": ""},
        {"discharge": discharged(NOW_MS + HOUR_MS), "session": "x" * 20_000},
        {"poll_url": FLOW["poll_url"]},
        {"poll_url": FLOW["poll_url"], "flow": ""},
        {"poll_url": FLOW["poll_url"], "flow": "x" * 5_000},
        {"user_interactive": {"user_url": f"{ADDRESS}/sso", "code": "say this", **FLOW}},
        {"user_interactive": {"user_url": f"{ADDRESS}/sso", "code": None}},
        [],
    ],
)
def test_answers_that_no_authenticator_gives(said: Any, state: Path) -> None:
    """One sentence, exit code 1, and nothing kept."""
    node = Authority()
    node.said[THIRD_PARTY] = lambda _: answer(said)
    result = petsem(state, node, "login", "acme", "--debug")
    assert result.exit_code == 1
    assert "the answer was not understood" in result.stderr
    assert "petsem_" not in result.stderr
    assert not (state / "petsem" / "logins" / "acme.json").exists()


@pytest.mark.parametrize(
    "token",
    [
        encode_part(person_token(NOW_MS + HOUR_MS, b"another ticket")),
        discharged(NOW_MS + HOUR_MS),
        "petsem_x",
    ],
)
def test_a_token_that_is_not_of_this_sign_in(token: str, state: Path) -> None:
    """A token that does not ask for the discharge just made is not taken."""
    minted = {
        "token": token,
        "id": TOKEN_ID,
        "expires_at": "2027-01-15T20:00:00Z",
        "position": "00000001-0000000000000009",
    }
    node = Authority(way="at once")
    node.said["POST /v1/login/token"] = minted
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 1
    assert "petsem_" not in result.stderr
    assert not (state / "petsem" / "logins" / "acme.json").exists()


@pytest.mark.parametrize("end", ["Q==", "R"])
def test_a_ticket_that_is_spelt_in_another_way(end: str, state: Path) -> None:
    """Padded, or with spare bits set: no authenticator takes it, nor do we."""
    text = spelt(TICKET + b"!")
    assert text.endswith("Q")
    node = Authority(way="at once")
    node.said["POST /v1/login"] = {"ticket": text[:-1] + end}
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 1
    assert "the answer was not understood" in result.stderr
    assert node.paths() == ["/v1/login", "/.well-known/petsem/3p"]


def test_a_sign_in_that_was_refused(state: Path) -> None:
    """The poll says that there is an answer, and the answer is no: one sentence, at once."""
    node = Authority(polls_until_ready=2)
    no = "the sign-in was refused on its page; begin it again if that was a mistake"
    polls = [{"state": "pending"}, {"state": "ready"}, problem(403, "denied", no)]
    node.said[POLL] = polls
    result = petsem(state, node, "login", "acme")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (3, f"petsem: {no}")
    bodies = node.bodies("/.well-known/petsem/3p/poll")
    assert ["secret" in each for each in bodies] == [False, False, True]
    assert not (state / "petsem" / "logins" / "acme.json").exists()


def test_fewer_actions(state: Path) -> None:
    """--action asks for part of what the org allows, in one call."""
    node = Authority(way="at once")
    args = ("login", "acme", "--action", "secrets:list,x:y", "--action", "x:y")
    assert petsem(state, node, *args).exit_code == 0
    assert node.bodies("/v1/login/token") == [
        {
            "ticket": spelt(TICKET),
            "discharge": discharged(NOW_MS + HOUR_MS),
            "actions": ["secrets:list", "x:y"],
        }
    ]


@pytest.mark.parametrize("action", ["nodes:admin", "secrets:list,orgs:admin", "apps:hunter2"])
def test_actions_of_nobody(action: str, state: Path) -> None:
    """What no org can let its people do is refused before anybody signs in."""
    node = Authority(way="at once")
    result = petsem(state, node, "login", "acme", "--action", action)
    assert (result.exit_code, node.requests) == (2, [])
    assert "leave the rest out of --action" in result.stderr
    assert "hunter2" not in result.stderr


def test_actions_that_the_org_does_not_allow(state: Path) -> None:
    """That is known at the end: the node's sentence says that there was a sign-in, and what for one
    can be had; nothing is kept."""
    node = Authority(way="at once")
    said = "you have signed in, but no token was made: the org's people may do secrets:list"
    node.said["POST /v1/login/token"] = problem(403, "denied", said, reason="CAVEAT")
    result = petsem(state, node, "login", "acme", "--action", "secrets:read")
    assert (result.exit_code, result.stderr) == (3, f"petsem: {said}\n")
    assert node.bodies("/v1/login") == [{"org": "acme"}]
    assert not (state / "petsem" / "logins" / "acme.json").exists()


def test_a_copy_for_elsewhere(state: Path, tmp_path: Path) -> None:
    """--out writes token and discharge to a new private file; one that is there is not touched."""
    node = Authority(way="at once")
    out = tmp_path / "my.token"
    result = petsem(state, node, "login", "acme", "--out", str(out))
    assert result.exit_code == 0
    login = kept(state)
    assert out.read_text() == f"{login['token']},{login['discharge']}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    node.requests.clear()
    assert petsem(state, node, "login", "acme", "--out", str(out)).exit_code == 5
    assert node.requests == []


def test_files_are_private(state: Path) -> None:
    """0700 and 0600 whatever the umask; looser ones are refused with what mends them."""
    node = Authority(way="at once")
    signed_in(state, node)
    directory = state / "petsem" / "logins"
    file = directory / "acme.json"
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (directory.parent, directory, file)]
    assert modes == [0o700, 0o700, 0o600]
    for path, loose, mends in ((file, 0o640, "chmod 600"), (directory, 0o755, "chmod 700")):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(loose)
        result = petsem(state, node, "secrets", "list", "-a", "acme/web")
        assert result.exit_code == 2
        assert f"{mends} {path}" in result.stderr
        assert node.requests == []
        path.chmod(before)


def test_a_directory_that_others_can_use_is_not_filled(state: Path) -> None:
    """Nobody is sent to sign in for something that cannot be kept."""
    directory = state / "petsem"
    directory.mkdir(parents=True, mode=0o755)
    node = Authority(way="at once")
    result = petsem(state, node, "login", "acme")
    assert result.exit_code == 2
    assert f"chmod 700 {directory}" in result.stderr
    assert node.requests == []


@pytest.mark.parametrize("env", [{}, {"HOME": "relative"}, {"HOME": ""}])
def test_no_home(env: dict[str, str | None]) -> None:
    """Without a place, there is no sign-in, and the sentence says what to set."""
    node = Authority(way="at once")
    result = petsem(Path("relative"), node, "login", "acme", env=env)
    assert (result.exit_code, result.stderr) == (
        2,
        "petsem: there is no place to keep a sign-in; set HOME or XDG_STATE_HOME\n",
    )
    assert node.requests == []


def test_the_usual_place(tmp_path: Path) -> None:
    """Without XDG_STATE_HOME, ~/.local/state."""
    env: dict[str, str | None] = {"XDG_STATE_HOME": None, "HOME": str(tmp_path)}
    node = Authority(way="at once")
    assert petsem(tmp_path, node, "login", "acme", env=env).exit_code == 0
    assert kept(tmp_path / ".local" / "state")["org"] == "acme"


def test_who_is_signed_in(state: Path) -> None:
    """`petsem login` alone: org, person, nodes, until when; never what could be used."""
    node = Authority()
    assert petsem(state, node, "login").stderr.startswith("nobody is signed in here")
    signed_in(state, node)
    (state / "petsem" / "logins" / "broken.json").write_text("{")
    (state / "petsem" / "logins" / "broken.json").chmod(0o600)
    (state / "petsem" / "logins" / "No Org.json").write_text("{")
    result = petsem(state, node, "login")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == [
        "acme", USER, ADDRESS, "renews", "itself", "2027-01-15T20:00:00Z", "2027-01-15T09:00:00Z",
    ]  # fmt: skip
    assert "petsem login broken" in result.stderr
    told = petsem(state, node, "login", "-o", "json").stdout
    assert json.loads(told)["logins"] == [
        {
            "org": "acme",
            "user": USER,
            "token_id": TOKEN_ID,
            "nodes": [ADDRESS],
            "expires_at": "2027-01-15T20:00:00Z",
            "discharge_expires_at": "2027-01-15T09:00:00Z",
            "renews": True,
        }
    ]
    assert "petsem_" not in result.stdout + told
    assert node.requests == []


@pytest.mark.parametrize("args", [("--action", "a:b"), ("--no-browser",), ("--out", "f")])
def test_an_org_has_to_be_named(args: tuple[str, ...], state: Path) -> None:
    """Options of a sign-in without one are a mistake."""
    result = petsem(state, Authority(), "login", *args)
    assert result.exit_code == 2
    assert "petsem login ORG" in result.stderr


@pytest.mark.parametrize("path", ["/v1/login", "/.well-known/petsem/3p", "/v1/login/token"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 503])
def test_what_a_node_refuses(path: str, status: int, state: Path) -> None:
    """The node's sentence and an exit code of the table; no ticket, secret or discharge."""
    codes = {400: "invalid", 401: "unauthenticated", 403: "denied", 404: "not_found"}
    codes |= {409: "conflict", 429: "limit", 500: "internal", 503: "unavailable"}
    node = Authority(way="at once")
    node.said[f"POST {path}"] = problem(status, codes[status], "so it is")
    result = petsem(state, node, "login", "acme", "--debug")
    assert result.exit_code in (1, 2, 3, 4, 5, 6)
    assert result.stderr.startswith("petsem: so it is\n")
    assert spelt(TICKET) not in result.stderr
    assert "petsem_" not in result.stderr
    assert "session-1" not in result.stderr


def test_what_was_typed_for_an_org_is_not_repeated(state: Path) -> None:
    """It may be a secret."""
    for verb in ("login", "logout"):
        result = petsem(state, Authority(), verb, "Hunter2==")
        assert result.exit_code == 2
        assert "Hunter2" not in result.stderr


def test_a_sign_in_shows_nothing_of_itself(state: Path) -> None:
    """Its repr names org and person only."""
    from petsem.cli.logins import Login, Logins

    signed_in(state, Authority())
    login = Logins.of_environ({"XDG_STATE_HOME": str(state)}).load("acme")
    assert isinstance(login, Login)
    assert repr(login) == f"Login(org='acme', user='{USER}')"
    assert dict(login.__rich_repr__()) == {"org": "acme", "user": USER}


def test_a_token_that_was_signed_in_before_is_replaced(state: Path) -> None:
    """A second sign-in takes the first one's place; the same token again is not ended by that."""
    node = Authority(way="at once")
    signed_in(state, node)
    node.session = "another"
    result = petsem(state, node, "login", "acme")
    assert (result.exit_code, result.stderr) == (0, "")
    assert kept(state)["session"] == "another"
    assert not [each for each in node.requests if each.method == "DELETE"]


def again(state: Path, node: Authority, said: Any, *args: str) -> Result:
    """Sign in once more, with another token; the node answers `said` where the first is to end."""
    node.way, node.token_id = "at once", "3b" * 16
    node.said[END] = said
    result = petsem(state, node, "login", "acme", *args)
    assert result.exit_code == 0
    assert kept(state)["token_id"] == node.token_id
    return result


def test_what_is_replaced_ends(state: Path) -> None:
    """As `logout` ends it: whole, once, where it was made; and it is said."""
    node = Authority()
    signed_in(state, node)
    before = kept(state)
    result = again(state, node, REVOKED)
    assert result.stderr == (
        "the token of the sign-in before this one is revoked, and with it any service token and "
        "boot grant that came of it\n"
    )
    root, made = parse_token(before["token"]).root, parse_token(before["discharge"]).root
    assert [each.headers["authorization"] for each in node.requests if each.method == "DELETE"] == [
        f"Bearer {encode_token(root, [bind_discharge(root, made)])}"
    ]


def test_what_is_replaced_is_renewed_to_end(state: Path) -> None:
    """Who has a copy of its file could renew it too. What comes of that is kept nowhere."""
    node = Authority()
    signed_in(state, node)
    node.clock.advance(3700)
    result = again(state, node, REVOKED)
    assert "before this one is revoked" in result.stderr
    assert node.sessions_used == ["session-1"]
    assert kept(state)["session"] == "session-1"


@pytest.mark.parametrize(
    ("said", "session", "after_s", "stderr"),
    [
        (
            problem(503, "unavailable", "it is away"),
            "session-1",
            0,
            "warning: the token of the sign-in before this one was not revoked: it is away; it "
            "opens nothing after 2027-01-15T20:00:00Z\n",
        ),
        (
            REVOKED,
            None,
            3700,
            "the token of the sign-in before this one was not revoked; it opens nothing any more "
            "without a new sign-in, and any service token that came of it nothing after "
            "2027-01-15T20:00:00Z\n",
        ),
        (problem(403, "denied", reason="REVOKED"), "session-1", 0, ""),
        (REVOKED, "session-1", 13 * 3600, ""),
    ],
)
def test_what_is_replaced_and_does_not_end(
    said: Any, session: str | None, after_s: float, stderr: str, state: Path
) -> None:
    """The new sign-in stands; what could still be used, and until when, is said."""
    node = Authority(session=session)
    signed_in(state, node)
    node.clock.advance(after_s)
    assert again(state, node, said).stderr == stderr


def test_what_is_replaced_and_cannot_be_read(state: Path) -> None:
    """Its token cannot be ended, which is said."""
    node = Authority()
    signed_in(state, node)
    (state / "petsem" / "logins" / "acme.json").write_text("{")
    result = again(state, node, REVOKED)
    assert result.stderr.startswith("warning: the sign-in before this one could not be read")
    assert "petsem token list --org acme" in result.stderr


def test_a_node_that_was_away_while_somebody_waited(state: Path) -> None:
    """What was completed at it may be lost: the page is to be opened again, says a remark, once."""
    node = Authority(polls_until_ready=4)
    away, pending = problem(503, "unavailable"), {"state": "pending"}
    polls = [pending, away, away, pending, away, pending]
    node.said[POLL] = polls
    result = petsem(state, node, "login", "acme")
    assert (result.exit_code, polls) == (0, [])
    assert result.stderr.count("open the page again") == 1
    node.said[POLL] = [problem(429, "limit"), pending]
    node.polls = 0
    assert "again" not in petsem(state, node, "login", "acme").stderr


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    """The sentence says what else can be done, before anybody signs in."""
    place = tmp_path / "a file"
    place.write_text("")
    node = Authority(way="at once")
    result = petsem(place / "state", node, "login", "acme")
    assert (result.exit_code, node.requests) == (2, [])
    assert result.stderr.startswith(f"petsem: cannot make {place / 'state'}: Not a directory; ")
    assert "XDG_STATE_HOME" in result.stderr


def test_unknown_fields_of_answers_are_ignored(state: Path) -> None:
    """A newer node may say more."""
    node = Authority(way="at once")

    def more(request: httpx.Request) -> httpx.Response:
        node.asked = json.loads(request.content)
        return answer({**node.done(), "new": {"x": 1}})

    node.said[THIRD_PARTY] = more
    assert petsem(state, node, "login", "acme").exit_code == 0
