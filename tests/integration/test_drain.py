"""SIGTERM: what was accepted is answered, what waits is ended, and the exit code is 0."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from petsem.wire import petsem_pb2 as pb
from tests.support import cluster
from tests.support.daemon import Daemon, configure, until
from tests.support.doors import Doors, fetch_request, grpc_error, values_of
from tests.support.keep_alive import KeepAlive, Unanswered
from tests.support.patience import PATIENCE_S

WRITERS: Final = 32
DRAIN_S: Final = 45
"""Much longer than a drain takes when no client is slow."""
PROMPT_S: Final = 15.0
"""How long that may take, on a busy machine."""
SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"


@dataclass
class Site:
    """A running node with acme/web."""

    daemon: Daemon
    operator: str


@contextlib.contextmanager
def running(root: Path, drain_s: int) -> Iterator[Site]:
    """A node in `root` whose drains last so long at most."""
    made = cluster.make(root)
    configure(made.directory, "limits", drain_s=drain_s)
    with Daemon(made.directory) as daemon:
        with Doors(daemon, made.operator) as doors:
            doors.furnish("acme", "web")
            doors.set("acme/web", A="value of A")
        yield Site(daemon, made.operator)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(tmp_path, DRAIN_S) as found:
        yield found


@dataclass
class Writer:
    """Writes one number after the other under a name of its own, and remembers what it heard."""

    name: str
    acknowledged: int = -1
    statuses: list[int] = field(default_factory=list)

    async def run(self, line: KeepAlive) -> None:
        """Until the node no longer answers."""
        number = 0
        while True:
            try:
                answer = await line.ask("PATCH", SECRETS, {"set": {self.name: str(number)}})
            except Unanswered:
                return
            self.statuses.append(answer.status)
            if answer.status == 200:
                self.acknowledged = number
            number += 1


def test_under_load(site: Site) -> None:
    """Every write that was taken is answered: what was answered is there, and what was not is
    not there."""
    writers = [Writer(f"W{number}") for number in range(WRITERS)]
    code, took_s = asyncio.run(_load_and_stop(site, writers))
    assert code == 0
    assert took_s < PROMPT_S
    assert {status for writer in writers for status in writer.statuses} == {200}
    assert all(writer.statuses for writer in writers)
    assert site.daemon.events()[-1]["event"] == "stopped"
    errors = [each for each in site.daemon.events() if each["level"] not in ("info", "warning")]
    assert errors == []
    with Daemon(site.daemon.directory) as again, Doors(again, site.operator) as doors:
        stored = values_of(doors.fetch("acme/web"))
    expected = {writer.name: str(writer.acknowledged).encode() for writer in writers}
    assert {name: stored.get(name) for name in expected} == expected


async def _load_and_stop(site: Site, writers: list[Writer]) -> tuple[int, float]:
    lines = [KeepAlive(site.daemon.http, site.operator) for _ in writers]
    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
        for writer, line in zip(writers, lines, strict=True):
            group.create_task(writer.run(line))
        while min(len(writer.statuses) for writer in writers) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        site.daemon.signal(signal.SIGTERM)
        started_s = time.monotonic()
        code = await asyncio.to_thread(site.daemon.wait)
        took_s = time.monotonic() - started_s
    return code, took_s


class Waiting(threading.Thread):
    """A call that waits for news, and how it ended."""

    def __init__(self, call: Any) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.outcome: Any = None
        self.ended_s = 0.0
        self.start()

    def run(self) -> None:
        """Until the call ends."""
        try:
            self.outcome = self._call()
        except Exception as error:
            self.outcome = error
        self.ended_s = time.monotonic()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_waits(site: Site, number: signal.Signals) -> None:
    """Streams are told to go elsewhere, a long poll is answered, idle connections are closed; and
    a second signal changes nothing."""
    with Doors(site.daemon, site.operator) as doors:
        watch = doors.stream("/petsem.v1.Secrets/Watch", pb.WatchRequest(org="acme", app="web"))
        feed = doors.stream("/petsem.v1.Tokens/WatchRevocations", pb.WatchRevocationsRequest())
        health: Any = doors.channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
        healthy = health(b"", timeout=PATIENCE_S)
        for stream in (watch, feed, healthy):
            next(stream)
        position = doors.done("GET", "/v1/revocations")["next"]
        address = ("127.0.0.1", site.daemon.http)
        idle = socket.create_connection(address)
        poll = socket.create_connection(address)
        poll.sendall(
            f"GET /v1/revocations?after={position}&wait_s=30 HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {site.operator}\r\n\r\n".encode()
        )
        # Under way; and the idle connection, which was there before, is the node's as well.
        _until_read(poll)
        fetch: Any = doors.channel.unary_unary("/petsem.v1.Secrets/Fetch", None, None)
        fenced = fetch.future(
            fetch_request("acme/web", min_version=99).SerializeToString(),
            metadata=(("authorization", f"Bearer {site.operator}"),),
            timeout=PATIENCE_S,
        )
        # Asked later over the same connection, so the node has the one before as well.
        assert doors.fetch("acme/web").error is None
        waiting = [
            Waiting(lambda: list(watch)),
            Waiting(lambda: list(feed)),
            Waiting(lambda: list(healthy)),
            Waiting(lambda: _answer(poll)),
            Waiting(fenced.result),
        ]
        asked_s = time.monotonic()
        site.daemon.signal(number)
        site.daemon.signal(number)
        assert site.daemon.wait() == 0
        took_s = time.monotonic() - asked_s
        for each in waiting:
            each.join(PATIENCE_S)
            assert not each.is_alive()
        idle.settimeout(PATIENCE_S)
        assert idle.recv(1) == b""
        idle.close()
        poll.close()
    assert took_s < PROMPT_S
    assert max(each.ended_s for each in waiting) - asked_s < PROMPT_S
    ended = [each.outcome for each in waiting]
    for outcome in (*ended[:2], ended[4]):
        assert isinstance(outcome, grpc.RpcError)
    for outcome in ended[:2]:
        assert grpc_error(outcome).error == ("UNAVAILABLE", "unavailable", None)
    assert (ended[3][0], ended[3][1]["revocations"]) == (200, [])
    assert grpc_error(ended[4]).status in ("FAILED_PRECONDITION", "UNAVAILABLE")


def _answer(link: socket.socket) -> tuple[int, Any]:
    """Status and body of the answer that comes over `link`."""
    answer = http.client.HTTPResponse(link)
    answer.begin()
    return answer.status, json.load(answer)


def _until_read(link: socket.socket) -> None:
    """Until the other end of `link`, on this machine, has read all that was sent to it."""
    near, far = (f"{port:04X}" for port in (link.getsockname()[1], link.getpeername()[1]))
    until(lambda: _waiting(near, far)[0] == 0, "arrival")
    until(lambda: _waiting(far, near)[1] == 0, "reader")


def _waiting(local: str, remote: str) -> tuple[int, int]:
    """Bytes on their way out of that end of a connection, and those that it has not read yet."""
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, *_ = row.split()
        if (here[-4:], there[-4:]) == (local, remote):
            out, come = queues.split(":")
            return int(out, 16), int(come, 16)
    raise AssertionError("the connection has ended")


def test_a_client_that_never_finishes(tmp_path: Path) -> None:
    """A body that does not come holds the drain up until `drain_s` and no longer, and counts for
    nothing; a header that does not come, not even that long."""
    body = b'{"set":{"HALF":"x"}}'
    drain_s = 2
    with running(tmp_path, drain_s) as site:
        head = (
            f"PATCH {SECRETS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.operator}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        address = ("127.0.0.1", site.daemon.http)
        with socket.create_connection(address) as half, socket.create_connection(address) as less:
            half.sendall(head + body[:-1])
            less.sendall(head[:-10])
            for each in (half, less):
                _until_read(each)
            started_s = time.monotonic()
            assert site.daemon.stop() == 0
            assert time.monotonic() - started_s < drain_s + PROMPT_S
        with Daemon(site.daemon.directory) as again, Doors(again, site.operator) as doors:
            assert values_of(doors.fetch("acme/web")) == {"A": b"value of A"}
