"""The API server of `docs/examples`, in JavaScript, against a real node and against bad ones."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support import cluster
from tests.support.daemon import ROOT, Daemon, clean_environ
from tests.support.doors import Doors, narrowed
from tests.support.offline import Disk, nonce_of
from tests.support.patience import PATIENCE_S

pytestmark = [
    pytest.mark.xdist_group("example-api-server"),
    pytest.mark.skipif(
        shutil.which("node") is None,
        reason="THE EXAMPLE IN JAVASCRIPT IS NOT TESTED: there is no node here; install it",
    ),
]

SERVER: Final = ROOT / "docs" / "examples" / "api-server.mjs"
LOGS: Final = "/orgs/acme/apps/web/logs"
RESTARTS: Final = "/orgs/acme/apps/web/restarts"


@dataclass
class Example:
    """The API server, running, and what it writes to stderr."""

    http: httpx.Client
    log: Path

    def ask(self, token: str | None, path: str = LOGS, method: str = "GET") -> httpx.Response:
        """One request of a caller."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.http.request(method, path, headers=headers)


@contextmanager
def serving(directory: Path, address: str, token: str, timeout_ms: int) -> Iterator[Example]:
    """The example in front of whatever answers at `address`."""
    own = directory / "own.token"
    own.write_text(token + "\n")
    own.chmod(0o600)
    environ = clean_environ(
        PETSEM_ADDR=address, PETSEM_TOKEN_FILE=str(own), PETSEM_TIMEOUT_MS=str(timeout_ms), PORT="0"
    )
    log = directory / "example.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            ["node", str(SERVER)], stdout=subprocess.PIPE, stderr=sink, env=environ, text=True
        )
    try:
        assert child.stdout is not None
        said = child.stdout.readline()
        assert said.startswith("listening on http://127.0.0.1:"), (said, log.read_text())
        base = said.removeprefix("listening on ").strip()
        with httpx.Client(base_url=base, timeout=PATIENCE_S, trust_env=False) as client:
            yield Example(client, log)
    finally:
        child.terminate()
        child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0


@dataclass
class Site:
    """A real node with the example in front of it."""

    doors: Doors
    example: Example
    own: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("example")
    made = cluster.make(directory)
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web", "api")
        doors.furnish("umbrella", "web")
        own = doors.mint(None, "action = tokens:verify")
        address = f"http://127.0.0.1:{daemon.http}"
        with serving(directory, address, own, int(PATIENCE_S * 1000)) as example:
            yield Site(doors, example, directory / "own.token")
        assert own[-12:] not in example.log.read_text()


def test_a_token_that_may(site: Site) -> None:
    """It is served, and told by whom: the token's subject."""
    token = site.doors.mint("acme", "action = logs:read")
    answer = site.example.ask(token)
    assert answer.status_code == 200
    assert answer.json() == {
        "done": "logs:read",
        "org": "acme",
        "app": "web",
        "by": f"org:{nonce_of(token).hex()}",
    }
    assert site.example.ask(narrowed(token, "app = web", "ip = 127.0.0.1")).status_code == 200


def test_tokens_that_may_not(site: Site) -> None:
    """401 where another token may do and 403 where not, with Petsem's reason and the caveat."""
    token = site.doors.mint("acme", "action = logs:read")
    elsewhere = site.doors.mint("umbrella", "action = logs:read")
    revoked = site.doors.mint("acme", "action = logs:read")
    assert site.example.ask(revoked).status_code == 200
    site.doors.done("DELETE", f"/v1/orgs/acme/tokens/{nonce_of(revoked).hex()}")
    disk = Disk(site.doors.daemon.directory)
    for given, status, reason, caveat in (
        (narrowed(token, "app = api"), 403, "CAVEAT", "app = api"),
        (narrowed(token, "moon = full"), 403, "CAVEAT", "moon = full"),
        (elsewhere, 403, "WRONG_ORG", None),
        (revoked, 403, "REVOKED", None),
        (narrowed(token, "time < 2020-01-01T00:00:00Z"), 401, "EXPIRED", None),
        (token[:-1], 401, "TRUNCATED", None),
        ("nonsense", 401, "MALFORMED", None),
        (disk.forged("acme", "action = logs:read"), 401, "NOT_ISSUED", None),
    ):
        answer = site.example.ask(given)
        body = answer.json()
        assert (answer.status_code, body["reason"]) == (status, reason)
        assert body["error"]
        if caveat is not None:
            assert body["caveat"] == caveat
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert given[-12:] not in answer.text + site.example.log.read_text()
    for given, path, method in (
        (token, RESTARTS, "POST"),
        (narrowed(token, "app = web"), LOGS.replace("web", "api"), "GET"),
    ):
        answer = site.example.ask(given, path, method)
        assert (answer.status_code, answer.json()["reason"]) == (403, "CAVEAT")


def test_no_token_and_no_route(site: Site) -> None:
    """No token, two of them or one that is too long is 401, and no question is asked; a path that
    is not offered is nothing, whoever asks."""
    token = site.doors.mint("acme", "action = logs:read")
    twice = [("authorization", f"Bearer {token}")] * 2
    for answer in (
        site.example.ask(None),
        site.example.http.get(LOGS, headers={"authorization": "Bearer"}),
        site.example.ask("A" * 6_145),
        site.example.http.get(LOGS, headers={"authorization": f"Basic {token}"}),
        site.example.http.get(LOGS, headers=twice),
    ):
        assert answer.status_code == 401
        assert answer.json() == {"error": "send a token"}
    for path in ("/", LOGS + "/", "/orgs/acme/apps/web%2f/logs", "/orgs/ACME/apps/web/logs"):
        assert site.example.ask(token, path).status_code == 404
    assert site.example.ask(token, LOGS, "DELETE").status_code == 404
    assert site.example.ask(token, LOGS + "?org=umbrella").status_code == 200


def test_its_own_token_is_its_own_trouble(site: Site) -> None:
    """Without a token that may ask, or with one that others may read, there is no verdict: 503,
    and not the 401 or 403 that would blame the caller. A good one in the file counts at once."""
    token = site.doors.mint("acme", "action = logs:read")
    own = site.own.read_text()
    for text, mode in ((token, 0o600), ("nonsense", 0o600), ("", 0o600), (own, 0o640)):
        site.own.write_text(text)
        site.own.chmod(mode)
        answer = site.example.ask(token)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json() == {"error": "the token could not be checked; try again"}
    site.own.write_text(own)
    site.own.chmod(0o600)
    assert site.example.ask(token).status_code == 200


# Nodes that give no verdict

ALLOWED: Final = {"allowed": True, "subject": "org:x"}
Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


def _answer(status: int, body: bytes, **headers: str) -> Reply:
    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def _hang(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.connection.settimeout(PATIENCE_S)
    handler.connection.recv(1)


def _hang_in_the_body(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"allowed":true')
    _hang(handler)


def _hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


_YES: Final = json.dumps(ALLOWED).encode()
NO_VERDICTS: Final[dict[str, Reply]] = {
    "an error": _answer(500, b'{"code":"internal","message":"x","details":{}}'),
    "a yes with an error's status": _answer(503, _YES),
    "another success": _answer(202, _YES),
    "a redirect": _answer(307, b"", location="/yes"),
    "nothing": _answer(200, b""),
    "no JSON": _answer(200, b"allowed"),
    "null": _answer(200, b"null"),
    "no verdict": _answer(200, b"{}"),
    "a yes in quotes": _answer(200, b'{"allowed":"true"}'),
    "a yes in a dry run": _answer(200, b'{"would_allow":true}'),
    "a yes that is too long": _answer(200, _YES + b" " * 70_000),
    "a yes cut short": _answer(200, _YES[:-1]),
    "silence": _hang,
    "half a yes": _hang_in_the_body,
    "a hang-up": _hang_up,
}


@contextmanager
def _bad_node(replies: dict[str, Reply]) -> Iterator[str]:
    """Something at an address that answers as the app's name in the question says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.close_connection = True
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            replies[asked["access"]["app"] if self.path == "/v1/tokens/verify" else "yes"](self)

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_fails_closed(tmp_path: Path) -> None:
    """Whatever is not a verdict, in full and in time, is 503; a yes beside it still is a yes."""
    named = {f"n{number}": reply for number, reply in enumerate(NO_VERDICTS.values())}
    with (
        _bad_node({**named, "yes": _answer(200, _YES)}) as address,
        serving(tmp_path, address, "own", 300) as example,
    ):
        got = {
            what: example.ask("token", f"/orgs/acme/apps/{name}/logs").status_code
            for what, name in zip(NO_VERDICTS, named, strict=True)
        }
        assert got == dict.fromkeys(NO_VERDICTS, 503)
        assert example.ask("token", "/orgs/acme/apps/yes/logs").status_code == 200


def test_nobody_there(tmp_path: Path) -> None:
    """A node that is down is 503, too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with serving(tmp_path, f"http://127.0.0.1:{port}", "own", 2_000) as example:
        assert example.ask("token").status_code == 503
