"""What a call sends, when it is sent again, and what its failures become."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from petsem.cli.exits import EXIT_CODES
from petsem.cli.narrowing import OFFSET_MAX_MS
from petsem.clock import rfc3339
from petsem.errors import Code
from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.verifier import verify_signatures
from tests.unit.cli.support import (
    APP,
    FRESHNESS,
    NOW_MS,
    PATCHED,
    TOKEN,
    Node,
    answer,
    problem,
    run,
    sent,
    token,
)
from tests.unit.tokens.build import SECRET, derived, made, required

LIST = f"GET {APP}/secrets"
PATCH = f"PATCH {APP}/secrets"
LISTED = {"version": 3, "secrets": [], "filtered": False, "freshness": FRESHNESS}
SET = ("secrets", "set", "A")


def test_the_token_is_narrowed_to_the_call() -> None:
    """What leaves the machine allows one action in one app for a minute, and still verifies."""
    node = Node({LIST: LISTED})
    assert run("secrets", "list", node=node).exit_code == 0
    assert node.scopes == [
        ["org = acme", "app = web", "action = secrets:list", f"time < {rfc3339(NOW_MS + 60_000)}"]
    ]
    text = node.requests[0].headers["authorization"].removeprefix("Bearer ")
    assert len(verify_signatures(parse_token(text), derived(SECRET))) == 6


def test_discharges_are_bound_to_what_is_sent() -> None:
    """A token with a discharge is kept unbound, and goes out narrowed and bound."""
    root = required(made(SECRET, b"id"), b"caveat key", b"ticket")
    discharge = made(b"caveat key", b"ticket")
    node = Node({LIST: LISTED})
    result = run(
        "secrets", "list", node=node, env={"PETSEM_TOKEN": encode_token(root, [discharge])}
    )
    assert result.exit_code == 0
    came = parse_token(node.requests[0].headers["authorization"].removeprefix("Bearer "))
    assert came.discharges == (bind_discharge(came.root, discharge),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hunter2", "base64url"),
        (TOKEN[:-9], "cut short"),
        (TOKEN.replace("petsem_", "petsum_"), "does not start like one"),
    ],
)
def test_a_token_that_is_none_is_not_sent(text: str, says: str) -> None:
    """What cannot be narrowed is refused here, in the parser's words and without the text."""
    node = Node({LIST: LISTED})
    result = run("secrets", "list", node=node, env={"PETSEM_TOKEN": text})
    assert result.exit_code == 3
    assert says in result.stderr
    assert text not in result.stderr
    assert node.requests == []


def test_no_token_at_all() -> None:
    """The sentence says where one belongs."""
    result = run("secrets", "list", env={"PETSEM_TOKEN": None})
    assert (result.exit_code, result.stderr) == (
        3,
        "petsem: there is no token; set PETSEM_TOKEN_FILE or PETSEM_TOKEN, or sign in with: "
        "petsem login acme\n",
    )


def test_a_token_file(tmp_path: Path) -> None:
    """A private file is read, and a loose one refused with the command that mends it."""
    file = tmp_path / "a token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    node = Node({LIST: LISTED})
    env = {"PETSEM_TOKEN": None, "PETSEM_TOKEN_FILE": str(file)}
    refused = run("secrets", "list", node=node, env=env)
    assert refused.exit_code == 2
    assert f"chmod 600 '{file}'" in refused.stderr
    file.chmod(0o600)
    assert run("secrets", "list", node=node, env=env).exit_code == 0
    assert len(node.requests) == 1


def test_a_token_in_place_of_a_path_is_not_repeated() -> None:
    """PETSEM_TOKEN_FILE holding the token itself is a mistake that must not end in a log."""
    result = run("secrets", "list", env={"PETSEM_TOKEN": None, "PETSEM_TOKEN_FILE": TOKEN})
    assert result.exit_code == 2
    assert "holds a token where the path" in result.stderr
    assert TOKEN not in result.stderr


def test_a_change_is_sent_again_under_one_key(pauses: list[float]) -> None:
    """Unavailable and indeterminate answers are tried again with the same Idempotency-Key."""
    node = Node(
        {
            PATCH: [
                problem(503, "unavailable"),
                problem(504, "indeterminate"),
                lambda _: answer(PATCHED),
            ]
        }
    )
    result = run(*SET, node=node, stdin="x")
    assert result.exit_code == 0
    keys = {request.headers["idempotency-key"] for request in node.requests}
    assert len(node.requests) == 3
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert len(pauses) == 2


def test_each_change_has_its_own_key() -> None:
    """Two runs are two changes."""
    node = Node({PATCH: PATCHED})
    run(*SET, node=node, stdin="x")
    run(*SET, node=node, stdin="x")
    first, second = (request.headers["idempotency-key"] for request in node.requests)
    assert first != second


def test_a_read_has_no_key() -> None:
    """Only changes are recorded by the node."""
    node = Node({LIST: LISTED})
    run("secrets", "list", node=node)
    assert "idempotency-key" not in node.requests[0].headers


def test_it_gives_up_after_a_few_attempts() -> None:
    """A node that stays unavailable ends in exit code 6 and its own sentence."""
    node = Node({PATCH: problem(503, "unavailable", "the disk is full; free some space")})
    result = run(*SET, node=node, stdin="x")
    assert result.exit_code == 6
    assert result.stderr.endswith("petsem: the disk is full; free some space\n")
    assert len(node.requests) == 4


def test_retry_after_is_honoured(pauses: list[float]) -> None:
    """The node's pause counts, not ours."""
    body = {"code": "limit", "message": "too much", "details": {}}
    node = Node(
        {LIST: [lambda _: answer(body, 429, **{"retry-after": "7"}), lambda _: answer(LISTED)]}
    )
    assert run("secrets", "list", node=node).exit_code == 0
    (pause,) = pauses
    assert 7.0 <= pause <= 8.75


def test_a_long_retry_after_is_not_waited_for(pauses: list[float]) -> None:
    """An hour is for the caller to wait."""
    body = {"code": "limit", "message": "too much; wait an hour", "details": {}}
    node = Node({LIST: lambda _: answer(body, 429, **{"retry-after": "3600"})})
    result = run("secrets", "list", node=node)
    assert (result.exit_code, pauses, len(node.requests)) == (6, [], 1)
    assert "wait an hour" in result.stderr


def test_addresses_are_tried_in_order() -> None:
    """A node that does not connect is passed over, before anything was sent to it."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "127.0.0.1":
            raise httpx.ConnectError("refused")
        return answer(LISTED)

    result = run(
        "secrets",
        "list",
        transport=httpx.MockTransport(handle),
        env={"PETSEM_ADDR": "http://127.0.0.1:7400, http://[::1]:7400,http://127.0.0.3:7400/"},
    )
    assert result.exit_code == 0
    assert asked == ["127.0.0.1", "::1"]


def test_nobody_there(pauses: list[float]) -> None:
    """No address connects: a few rounds, then one sentence."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("too slow")

    result = run("secrets", "list", transport=httpx.MockTransport(handle))
    assert result.exit_code == 6
    assert "no node answered at PETSEM_ADDR" in result.stderr
    assert len(pauses) == 3


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("x"), httpx.ReadError("x"), httpx.RemoteProtocolError("x")]
)
def test_a_change_whose_answer_is_lost_is_indeterminate(error: Exception) -> None:
    """It may have happened; the sentence says so."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise error

    result = run(*SET, transport=httpx.MockTransport(handle), stdin="x")
    assert result.exit_code == 6
    assert "not known whether it was done" in result.stderr
    read = run("secrets", "list", transport=httpx.MockTransport(handle))
    assert read.exit_code == 6
    assert "was lost" in read.stderr


def test_over_tls_a_lost_connection_may_be_a_certificate_that_is_missing() -> None:
    """With TLS 1.3 a node that wants another certificate just ends the connection."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("x")

    https = {"PETSEM_ADDR": "https://127.0.0.1:7400"}
    read = run("secrets", "list", transport=httpx.MockTransport(handle), env=https)
    assert "wants another PETSEM_CERT and PETSEM_KEY" in read.stderr
    changed = run(*SET, transport=httpx.MockTransport(handle), stdin="x", env=https)
    assert "wants another PETSEM_CERT and PETSEM_KEY" in changed.stderr


def test_a_certificate_that_is_not_trusted_is_said() -> None:
    """TLS trouble is told apart from a node that is down."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x") from ssl.SSLCertVerificationError("no")

    result = run("secrets", "list", transport=httpx.MockTransport(handle))
    assert "TLS certificate was not accepted" in result.stderr


def test_a_wrong_clock_is_learnt_once() -> None:
    """EXPIRED with the node's time: narrowed again by that time, under the same key."""
    ahead_ms = NOW_MS + 600_000
    expired = problem(401, "unauthenticated", reason="EXPIRED", server_time_ms=ahead_ms)
    node = Node({PATCH: [expired, lambda _: answer(PATCHED)]})
    assert run(*SET, node=node, stdin="x").exit_code == 0
    assert [scope[-1] for scope in node.scopes] == [
        f"time < {rfc3339(NOW_MS + 60_000)}",
        f"time < {rfc3339(ahead_ms + 60_000)}",
    ]
    assert len({request.headers["idempotency-key"] for request in node.requests}) == 1


@pytest.mark.parametrize(("server_ms", "calls"), [(NOW_MS + 10, 1), (NOW_MS + 10**12, 2)])
def test_an_expired_token_stays_expired(server_ms: int, calls: int) -> None:
    """With clocks that agree there is nothing to learn; a lying node moves us 2 h at most."""
    node = Node({LIST: problem(401, "unauthenticated", reason="EXPIRED", server_time_ms=server_ms)})
    assert run("secrets", "list", node=node).exit_code == 3
    assert len(node.requests) == calls
    if calls == 2:
        assert node.scopes[1][-1] == f"time < {rfc3339(NOW_MS + OFFSET_MAX_MS + 60_000)}"


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_its_exit_code(code: Code) -> None:
    """The table of the contract, walked; the message arrives, with the caveat that failed."""
    node = Node({LIST: problem(500, code.value, "so it is", caveat="app = api")})
    result = run("secrets", "list", node=node)
    assert result.exit_code == EXIT_CODES[code]
    assert result.stderr == "petsem: so it is (caveat: app = api)\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(200, content=b"<html>"), 1),
        (httpx.Response(200, content=b"\xff"), 1),
        (httpx.Response(200, json={"version": "x"}), 1),
        (httpx.Response(200, content=b" " * (16 * 1024 * 1024 + 1)), 1),
        (httpx.Response(200, content=b"{}", headers={"content-encoding": "br"}), 1),
        (httpx.Response(404, content=b"<html>"), 1),
        (httpx.Response(302, headers={"location": "http://evil.example/"}), 1),
        (httpx.Response(502, content=b"<html>"), 6),
        (httpx.Response(400, json={"code": "nonsense", "message": "", "details": {}}), 1),
    ],
)
def test_answers_that_no_node_gives(response: httpx.Response, code: int) -> None:
    """Anything else that answers is an error in our words, never followed, never repeated."""
    hosts: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(
            response.status_code, headers=response.headers, content=response.content
        )

    result = run("secrets", "list", transport=httpx.MockTransport(handle))
    assert result.exit_code == code
    assert set(hosts) == {"127.0.0.1"}
    assert "<html>" not in result.stderr


def test_a_message_cannot_move_the_cursor() -> None:
    """Control characters in what a node says are shown, not obeyed."""
    node = Node({LIST: problem(404, "not_found", "gone\x1b[2J\r\nall is well\u202e")})
    result = run("secrets", "list", node=node)
    assert result.stderr == "petsem: gone\\x1b[2J\\r\\nall is well\\u202e\n"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "no node is named"),
        (" , ", "no node is named"),
        ("127.0.0.1:7400", "address 1"),
        ("ftp://127.0.0.1", "address 1"),
        ("http://hunter2@127.0.0.1:7400", "address 1"),
        ("http://127.0.0.1:hunter2", "address 1"),
        ("http://127.0.0.1:7400/?hunter2", "address 1"),
        ("http://[::1", "address 1"),
        ("http://127.0.0.1:7400,http://petsem.example:7400", "address 2 of PETSEM_ADDR is plain"),
        ("http://10.0.0.1:7400", "plain http to another machine"),
        ("http://127.0.0.1.nip.example:7400", "plain http to another machine"),
    ],
)
def test_addresses_that_are_refused(address: str, says: str) -> None:
    """Nothing is sent in clear to another machine, and no address is quoted."""
    node = Node({LIST: LISTED})
    result = run("secrets", "list", node=node, env={"PETSEM_ADDR": address})
    assert result.exit_code == 2
    assert says in result.stderr
    assert "hunter2" not in result.stderr
    assert node.requests == []


@pytest.mark.parametrize(
    "address",
    ["http://localhost:7400", "http://[::1]", "http://[::ffff:127.0.0.1]:1", "http://127.9.9.9"],
)
def test_this_machine_is_asked_in_clear(address: str) -> None:
    """Loopback by any of its names."""
    result = run("secrets", "list", node=Node({LIST: LISTED}), env={"PETSEM_ADDR": address})
    assert result.exit_code == 0


def test_insecure_sends_in_clear() -> None:
    """Only when it was said."""
    env = {"PETSEM_ADDR": "http://petsem.example:7400"}
    node = Node({LIST: LISTED})
    assert run("secrets", "list", "--insecure", node=node, env=env).exit_code == 0
    assert node.requests[0].url.host == "petsem.example"


def test_tls_files(tmp_path: Path) -> None:
    """Bad PEM, a lone certificate and a loose key are refused before anything is sent."""
    file = tmp_path / "x.pem"
    file.write_text("no pem")
    file.chmod(0o644)
    https = {"PETSEM_ADDR": "https://petsem.example:7400"}
    bad = run("secrets", "list", env={**https, "PETSEM_CA": str(file)})
    assert (bad.exit_code, "must be PEM" in bad.stderr) == (2, True)
    lone = run("secrets", "list", env={**https, "PETSEM_CERT": str(file)})
    assert "belong together" in lone.stderr
    loose = run("secrets", "list", env={**https, "PETSEM_CERT": str(file), "PETSEM_KEY": str(file)})
    assert "chmod 600" in loose.stderr


def test_the_environments_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token goes to the address named, whatever HTTP_PROXY says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    made_with: dict[str, Any] = {}
    original = httpx.Client.__init__

    def remember(self: httpx.Client, **options: Any) -> None:
        made_with.update(options)
        original(self, **options)

    monkeypatch.setattr(httpx.Client, "__init__", remember)
    assert run("secrets", "list", node=Node({LIST: LISTED})).exit_code == 0
    assert made_with["trust_env"] is False


def test_a_token_without_room_for_caveats() -> None:
    """It cannot be narrowed, which is said; it is not sent whole instead."""
    full = token(*(f"k{n} = v" for n in range(62)))
    node = Node({LIST: LISTED})
    result = run("secrets", "list", node=node, env={"PETSEM_TOKEN": full})
    assert result.exit_code == 2
    assert "at most 64 caveats" in result.stderr
    assert node.requests == []


def test_unexpected_exceptions_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence without a traceback; with --debug where it was, but not what it said."""

    def burst(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("".join(("hun", "ter2")))

    plain = run("secrets", "list", transport=httpx.MockTransport(burst))
    assert plain.exit_code == 1
    assert plain.stderr.startswith("petsem: internal error")
    assert "Traceback" not in plain.stderr
    assert 'File "' not in plain.stderr
    debug = run("secrets", "list", "--debug", transport=httpx.MockTransport(burst))
    assert debug.exit_code == 1
    assert 'File "' in debug.stderr
    assert "builtins.RuntimeError" in debug.stderr
    assert "hunter2" not in plain.stderr + debug.stderr


def test_the_root_takes_the_common_options_too() -> None:
    """`petsem -o json …` is `petsem … -o json`."""
    node = Node({LIST: LISTED})
    first = run("-o", "json", "secrets", "list", node=node)
    second = run("secrets", "list", "-o", "json", node=node)
    assert first.stdout == second.stdout
    assert first.stdout.startswith("{")


def test_the_narrowed_token_belongs_to_the_same_root() -> None:
    """Identifier and earlier caveats are untouched."""
    node = Node({LIST: LISTED})
    run("secrets", "list", node=node)
    root = parse_token(TOKEN).root
    came = sent(node.requests[0])
    assert came.identifier == root.identifier
    assert came.caveats[: len(root.caveats)] == root.caveats


def test_a_refusal_names_the_action() -> None:
    """Where the token's actions are why, it is said which the call takes; and where the call asks
    about a token, that this is no verdict on it, nor is any other refusal of who asks."""
    caveat = "action in secrets:list, secrets:write"
    refused = problem(403, "denied", "it does not allow this", reason="CAVEAT", caveat=caveat)
    asking = Node({"POST /v1/tokens/can": refused})
    result = run("token", "can", "secrets:write", "--org", "acme", node=asking)
    assert result.exit_code == 3
    assert result.stderr == (
        "petsem: no verdict: the token that asks lacks the action tokens:verify "
        f"({caveat}); ask with one that has it, and give the other with --token-file\n"
    )
    over = problem(401, "unauthenticated", "it has expired", reason="EXPIRED")
    asking = Node({"POST /v1/tokens/verify": over})
    result = run("token", "verify", "secrets:write", "--org", "acme", node=asking)
    assert (result.exit_code, result.stderr) == (
        3,
        "petsem: no verdict: the token that asks was refused itself: it has expired\n",
    )
    away = Node({"POST /v1/tokens/verify": problem(412, "stale", "it does not know")})
    assert "no verdict" not in run("token", "verify", "x:y", "--org", "acme", node=away).stderr
    listing = Node({"GET /v1/orgs/acme/tokens": refused})
    result = run("token", "list", "--org", "acme", node=listing)
    assert "it does not allow this; it takes tokens:list" in result.stderr
    machine = problem(403, "denied", "not there", reason="CAVEAT", caveat="machine = m1")
    elsewhere = run("secrets", "list", node=Node({LIST: machine}))
    assert "it takes" not in elsewhere.stderr
