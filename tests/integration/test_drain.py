"""SIGTERM: what was accepted is answered, what waits is ended, and the exit code is 0."""

from __future__ import annotations

import asyncio
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
from tests.support.daemon import Daemon, configure
from tests.support.doors import Doors, grpc_error, values_of
from tests.support.keep_alive import KeepAlive, Unanswered

WRITERS: Final = 32
PROMPT_S: Final = 3.0
"""How long a drain may take when no client is slow."""
SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"


@dataclass
class Site:
    """A running node with acme/web."""

    daemon: Daemon
    operator: str


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = cluster.make(tmp_path)
    configure(made.directory, "limits", drain_s=2)
    with Daemon(made.directory) as daemon:
        with Doors(daemon, made.operator) as doors:
            doors.furnish("acme", "web")
            doors.set("acme/web", A="value of A")
        yield Site(daemon, made.operator)


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
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
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
    with Doors(site.daemon, site.operator) as doors, Doors(site.daemon, site.operator) as other:
        watch = doors.stream("/petsem.v1.Secrets/Watch", pb.WatchRequest(org="acme", app="web"))
        feed = doors.stream("/petsem.v1.Tokens/WatchRevocations", pb.WatchRevocationsRequest())
        health: Any = doors.channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
        healthy = health(b"", timeout=30)
        for stream in (watch, feed, healthy):
            next(stream)
        position = doors.done("GET", "/v1/revocations")["next"]
        poll = f"/v1/revocations?after={position}&wait_s=30"
        waiting = [
            Waiting(lambda: list(watch)),
            Waiting(lambda: list(feed)),
            Waiting(lambda: list(healthy)),
            Waiting(lambda: other.ask("GET", poll)),
            Waiting(lambda: doors.fetch("acme/web", min_version=99)),
        ]
        idle = socket.create_connection(("127.0.0.1", site.daemon.http))
        asked_s = time.monotonic()
        # The long poll is under way once the node has its connection, the idle one's and ours.
        _until_connected(site.daemon, 3)
        site.daemon.signal(number)
        site.daemon.signal(number)
        assert site.daemon.wait() == 0
        took_s = time.monotonic() - asked_s
        for each in waiting:
            each.join(10)
            assert not each.is_alive()
        idle.settimeout(5)
        assert idle.recv(1) == b""
        idle.close()
    assert took_s < PROMPT_S
    assert max(each.ended_s for each in waiting) - asked_s < PROMPT_S
    ended = [each.outcome for each in waiting]
    for outcome in ended[:2]:
        assert isinstance(outcome, grpc.RpcError)
        assert grpc_error(outcome).error == ("UNAVAILABLE", "unavailable", None)
    assert (ended[3].status, ended[3].body["revocations"]) == (200, [])
    assert ended[4].status in ("FAILED_PRECONDITION", "UNAVAILABLE")


def _until_connected(daemon: Daemon, count: int) -> None:
    """Until so many connections to the HTTP port stand."""
    local = f":{daemon.http:04X}"
    deadline_s = time.monotonic() + 10
    while True:
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = [row.split() for row in rows]
        if sum(each[1].endswith(local) and each[3] == "01" for each in fields) >= count:
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_client_that_never_finishes(site: Site) -> None:
    """A body that does not come holds the drain up until `drain_s` and no longer, and counts for
    nothing; a header that does not come, not even that long."""
    body = b'{"set":{"HALF":"x"}}'
    head = (
        f"PATCH {SECRETS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.operator}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    address = ("127.0.0.1", site.daemon.http)
    with socket.create_connection(address) as half, socket.create_connection(address) as less:
        half.sendall(head + body[:-1])
        less.sendall(head[:-10])
        _until_connected(site.daemon, 2)
        with Doors(site.daemon, site.operator) as doors:
            # Answered after what the two sent had arrived.
            assert doors.ask("GET", "/healthz").status == 200
        started_s = time.monotonic()
        assert site.daemon.stop() == 0
        assert time.monotonic() - started_s < 2 + PROMPT_S
    with Daemon(site.daemon.directory) as again, Doors(again, site.operator) as doors:
        assert values_of(doors.fetch("acme/web")) == {"A": b"value of A"}
