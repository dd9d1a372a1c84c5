"""The one table of errors, on a running node: each code brought about for real, at every door."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from google.protobuf import json_format

from petsem.cli.exits import EXIT_CODES
from petsem.errors import Code
from petsem.wire import petsem_pb2 as pb
from tests.support import cluster
from tests.support.daemon import Daemon, configure
from tests.support.doors import Doors, Reply, fetch_request, narrowed
from tests.support.failing_node import FailingNode
from tests.support.offline import Disk

pytestmark = pytest.mark.xdist_group("errors_table")
"""In one process, so that what is made once for this file is."""

T = TypeVar("T")

TABLE: Final[dict[str, tuple[int, str, int, bool]]] = {
    "invalid": (400, "INVALID_ARGUMENT", 2, False),
    "unauthenticated": (401, "UNAUTHENTICATED", 3, False),
    "denied": (403, "PERMISSION_DENIED", 3, False),
    "not_found": (404, "NOT_FOUND", 4, False),
    "conflict": (409, "ABORTED", 5, False),
    "stale": (412, "FAILED_PRECONDITION", 7, False),
    "limit": (429, "RESOURCE_EXHAUSTED", 6, True),
    "unavailable": (503, "UNAVAILABLE", 6, True),
    "indeterminate": (504, "DEADLINE_EXCEEDED", 6, False),
    "corrupt": (500, "DATA_LOSS", 8, False),
    "internal": (500, "INTERNAL", 1, False),
}
"""Code → HTTP, gRPC, exit code, and whether `Retry-After` says when to try again."""

CONNECT_HTTP: Final = {"stale": 400}
"""Where Connect itself asks for another HTTP status than REST has."""

VALUES: Final = "/v1/orgs/acme/apps/web/secrets/values"
SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"
FETCH: Final = "/petsem.v1.Secrets/Fetch"
LOST: Final = pb.Position(epoch=1, txid=1_000)
SET: Final = {"set": {"NEW": "n"}}


@dataclass
class Trouble:
    """A node in all sorts of trouble: the app web is sound, `torn` has a damaged value, `keyless`
    a data key under a KEK that the node lacks, `broken` no table that its history is kept in."""

    doors: Doors
    node: FailingNode
    reader: str


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    made = cluster.make(tmp_path_factory.mktemp("errors"))
    configure(made.directory, "limits", watch_streams=1)
    with Daemon(made.directory) as node, Doors(node, made.operator) as doors:
        doors.furnish("acme", "web", "torn", "keyless")
        for app in ("web", "torn", "keyless"):
            doors.set(f"acme/{app}", A="value of A", B="value of B")
        reader = doors.mint("acme", "action = secrets:read", "app = web")
    disk = Disk(made.directory)
    disk.flip("secrets", "envelope", f"name = 'A' AND app = {_app(disk, 'torn')}")
    disk.run("DELETE FROM bundles WHERE app <> ?", _app(disk, "web"))
    kek = os.urandom(32)
    disk.run("INSERT INTO keks VALUES ('secrets', ?, 'retired')", kek)
    disk.run("UPDATE data_keys SET kek = ? WHERE app = ?", kek, _app(disk, "keyless"))
    with FailingNode(made.directory) as failing, Doors(failing, made.operator) as doors:
        yield Trouble(doors, failing, reader)


def _app(disk: Disk, name: str) -> int:
    found: int = disk.rows("SELECT id FROM apps WHERE name = ?", name)[0][0]
    return found


def test_the_table_is_whole() -> None:
    """Every code has its row here, and the exit code that the command line gives it."""
    assert TABLE.keys() == {code.value for code in Code}
    assert {code.value: number for code, number in EXIT_CODES.items()} == {
        code: row[2] for code, row in TABLE.items()
    }


def _limited(trouble: Trouble) -> Any:
    token = trouble.doors.mint("acme", "action = secrets:write")
    for _ in range(100):
        answer = trouble.doors.ask("POST", SECRETS + "/diff", SET, token=token)
        if answer.status != 200:
            return answer
    raise AssertionError("a hundred diffs were not too many")


def _full(trouble: Trouble) -> Any:
    trouble.node.free(0)
    try:
        return trouble.doors.ask("PATCH", SECRETS, SET)
    finally:
        trouble.node.heal()


def _unknown(trouble: Trouble) -> Any:
    trouble.node.fail("sync", "-wal", "io", times=1)
    answer = trouble.doors.ask("PATCH", SECRETS, SET)
    assert trouble.node.met
    return answer


def _broken(trouble: Trouble, ask: Callable[[], T]) -> T:
    """What is answered while a table is not where the program knows it to be."""
    disk = Disk(trouble.node.directory)
    disk.execute("ALTER TABLE bundles RENAME TO elsewhere")
    try:
        return ask()
    finally:
        disk.execute("ALTER TABLE elsewhere RENAME TO bundles")


HTTP: Final[dict[str, Callable[[Trouble], Any]]] = {
    "invalid": lambda t: t.doors.ask("PATCH", SECRETS, {"set": {"not a name": ""}}),
    "unauthenticated": lambda t: t.doors.ask("GET", SECRETS, token=None),
    "denied": lambda t: t.doors.ask("GET", SECRETS, token=t.reader),
    "not_found": lambda t: t.doors.ask("GET", "/v1/orgs/acme/apps/absent/secrets"),
    "conflict": lambda t: t.doors.ask("PATCH", SECRETS, {**SET, "if_version": 99}),
    "stale": lambda t: t.doors.ask("GET", VALUES + "?min_version=99"),
    "limit": _limited,
    "unavailable": _full,
    "indeterminate": _unknown,
    "corrupt": lambda t: t.doors.ask("GET", "/v1/orgs/acme/apps/torn/secrets/values"),
    "internal": lambda t: _broken(t, lambda: t.doors.ask("PATCH", SECRETS, SET)),
}


@pytest.mark.parametrize("code", TABLE)
def test_http(trouble: Trouble, code: str) -> None:
    """Status, body and `Retry-After` over HTTP."""
    answer = HTTP[code](trouble)
    status, _, _, later = TABLE[code]
    assert answer.error is not None, answer.raw
    assert answer.error[:2] == (status, code)
    assert ("retry-after" in answer.headers) == later
    told = answer.body["details"].get("retry_after_s")
    assert told == (int(answer.headers["retry-after"]) if later else None)
    # The reader's token lacks the action before its app counts.
    caveat = "action = secrets:read" if code == "denied" else None
    assert answer.body["details"].get("caveat") == caveat
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    message = answer.body["message"]
    assert "\n" not in message
    assert 0 < len(message) < 250
    # Whatever it was, the node goes on.
    assert trouble.doors.ask("GET", VALUES).status == 200


def _crowd(trouble: Trouble) -> Reply:
    """A second watch where one may be open."""
    path, asked = "/petsem.v1.Secrets/Watch", pb.WatchRequest(org="acme", app="web")
    first = trouble.doors.stream(path, asked)
    try:
        next(first)
        return trouble.doors.rpc(path, asked)
    finally:
        first.cancel()


FETCHES: Final[dict[str, Callable[[Trouble], tuple[pb.FetchRequest, str | None]]]] = {
    "invalid": lambda t: (fetch_request("ACME/web"), ""),
    "unauthenticated": lambda t: (fetch_request("acme/web"), None),
    "denied": lambda t: (fetch_request("acme/torn"), t.reader),
    "not_found": lambda t: (fetch_request("acme/absent"), ""),
    "conflict": lambda t: (fetch_request("acme/web", min_position=LOST), ""),
    "stale": lambda t: (fetch_request("acme/web", min_version=99), ""),
    "unavailable": lambda t: (fetch_request("acme/keyless"), ""),
    "corrupt": lambda t: (fetch_request("acme/torn"), ""),
    "internal": lambda t: (fetch_request("acme/web"), ""),
}


@pytest.mark.parametrize("code", TABLE)
def test_grpc(trouble: Trouble, code: str) -> None:
    """Status and detail over gRPC. The caller's own deadline is the client library's to report."""
    if code == "limit":
        reply = _crowd(trouble)
    elif code == "indeterminate":
        asked = fetch_request("acme/web", min_version=99)
        assert trouble.doors.rpc(FETCH, asked, timeout_s=0.1).status == TABLE[code][1]
        return
    else:
        asked, token = FETCHES[code](trouble)
        ask = partial(trouble.doors.rpc, FETCH, asked, token=token)
        reply = _broken(trouble, ask) if code == "internal" else ask()
    assert reply.error is not None
    assert reply.error[:2] == (TABLE[code][1], code)
    _check_detail(reply, code)
    assert 0 < len(reply.sentence) < 250
    assert trouble.doors.fetch("acme/web").error is None


@pytest.mark.parametrize("code", sorted(TABLE.keys() - {"limit"}))
def test_connect(trouble: Trouble, code: str) -> None:
    """Status, code and detail over Connect, in JSON whatever was sent. Unary calls have no limit
    of their own."""
    for proto in (True,) if code == "stale" else (True, False):
        _check_connect(trouble, code, proto=proto)


def _check_connect(trouble: Trouble, code: str, *, proto: bool) -> None:
    headers: dict[str, str] = {}
    token: str | None = ""
    if code == "indeterminate":
        asked = fetch_request("acme/web", min_version=99)
        headers = {"connect_timeout_ms": "100"}
    else:
        asked, token = FETCHES[code](trouble)
    body = asked if proto else _as_json(asked)
    ask = partial(trouble.doors.connect, FETCH, body, token=token, proto=proto, headers=headers)
    reply = _broken(trouble, ask) if code == "internal" else ask()
    status = CONNECT_HTTP.get(code, TABLE[code][0])
    assert reply.error is not None
    assert reply.error[:2] == (f"{status} {TABLE[code][1].lower()}", code)
    _check_detail(reply, code)


def _check_detail(reply: Reply, code: str) -> None:
    """The caveat that was not met, and when to try again, as in the body of the same over HTTP."""
    assert reply.detail is not None
    assert reply.detail.caveat == ("app = web" if code == "denied" else "")
    assert reply.detail.HasField("retry_after_s") == TABLE[code][3]
    assert reply.detail.retry_after_s == (1 if TABLE[code][3] else 0)


def _as_json(message: pb.FetchRequest) -> bytes:
    return json_format.MessageToJson(message).encode()


def test_what_is_too_large(trouble: Trouble) -> None:
    """The two exceptions of HTTP for `invalid`: 413 for bodies and what is in them, 431 and 414
    for headers."""
    large = {"set": {"A": "x" * 65_537}}
    assert trouble.doors.ask("PATCH", SECRETS, large).error == (413, "invalid", "TOO_LARGE")
    larger = b" " * (2 * 1024 * 1024 + 1)
    assert trouble.doors.ask("PATCH", SECRETS, larger).error == (413, "invalid", "TOO_LARGE")
    answer = trouble.doors.ask("GET", SECRETS, x="y" * 16_384)
    assert answer.error == (431, "invalid", "TOO_LARGE")
    answer = trouble.doors.ask("GET", SECRETS + "?" + "z" * 9_000)
    assert answer.error == (414, "invalid", "TOO_LARGE")
    # Refused by its header alone, before anyone looks what it was for, in the form of its door.
    reply = trouble.doors.connect(FETCH, larger)
    assert (reply.status, reply.code) == ("413 invalid_argument", "invalid")
    assert reply.reason == "TOO_LARGE"
    squeezed = trouble.doors.connect(FETCH, b"x", headers={"content-encoding": "gzip"})
    assert squeezed.status == "501 unimplemented"


def test_the_command_line(trouble: Trouble, tmp_path: Path) -> None:
    """Exit codes, one sentence on stderr, nothing on stdout. Two codes need a door that the
    command line does not open, and are looked up in its table above."""
    doors = trouble.doors
    runs: dict[str, Callable[[], Any]] = {
        "invalid": lambda: doors.cli("secrets", "get", "not a name", app="acme/web"),
        "unauthenticated": lambda: doors.cli(
            "secrets", "list", app="acme/web", token=narrowed(doors.operator, _LONG_AGO)
        ),
        "denied": lambda: doors.cli("secrets", "list", app="acme/web", token=trouble.reader),
        "not_found": lambda: doors.cli("boot", "env", app="acme/absent"),
        "conflict": lambda: doors.cli(
            "secrets", "unset", "A", "--if-version", "99", app="acme/web"
        ),
        "stale": lambda: doors.cli("boot", "env", "--min-version", "99", app="acme/web"),
        "unavailable": lambda: doors.cli("secrets", "get", "A", app="acme/keyless"),
        "corrupt": lambda: doors.cli("secrets", "get", "A", app="acme/torn"),
        "corrupt at boot": lambda: doors.cli("boot", "env", app="acme/torn"),
    }
    # Started together: most of their time is the interpreter's start and pauses between attempts.
    with ThreadPoolExecutor(3) as pool:
        started = {what: pool.submit(call) for what, call in runs.items()}
        ended = {what: future.result() for what, future in started.items()}
    ended["internal"] = _broken(trouble, lambda: doors.cli("boot", "env", app="acme/web"))
    codes = {what: ran.code for what, ran in ended.items()}
    assert codes == {what: TABLE[what.partition(" ")[0]][2] for what in ended}, ended
    for what, ran in ended.items():
        assert ran.out == b"", what
        assert ran.err.startswith("petsem: "), what
        assert ran.err.count("\n") == 1, ran.err
    assert "A" in ended["corrupt"].err
    assert "A" in ended["corrupt at boot"].err


_LONG_AGO: Final = "time < 2020-01-01T00:00:00Z"
