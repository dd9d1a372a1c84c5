"""A real cluster: `petsem serve` processes on ports that they keep, made and joined as users do it.

A node is started, told to stop, killed, held and started again; the others are asked meanwhile.
Nothing here sleeps for a while and hopes: whatever is waited for is looked at until it is there.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from petsem.model import Position
from petsem.replication.image import PAGE_SIZE
from petsem.server.config_keys import Address
from petsem.server.init import init_cluster
from tests.support.daemon import PETSEM, SERVE, Daemon, Ran, configure, run, until
from tests.support.doors import Doors
from tests.support.offline import Disk
from tests.support.rebuilt import shown

WITHIN_S: Final = 20.0
_PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to clients, so that none is taken while its node is down."""
_given: set[int] = set()


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a node answers, for its whole life."""

    http: int
    grpc: int
    peer: int

    @classmethod
    def free(cls) -> Ports:
        """Three that nobody has."""
        return cls(free_port(), free_port(), free_port())


class Member:
    """One node, its process and its clients."""

    def __init__(self, daemon: Daemon, operator: str, ports: Ports) -> None:
        self.daemon = daemon
        self.operator = operator
        self.ports = ports
        # Known before the first start, and the same after each.
        daemon.http, daemon.grpc = ports.http, ports.grpc

    @property
    def directory(self) -> Path:
        """The data directory, as this process sees it."""
        return self.daemon.directory

    @property
    def database(self) -> Path:
        """The file."""
        return self.directory / "petsem.db"

    @property
    def node_id(self) -> str:
        """As its directory has it."""
        return str(json.loads((self.directory / "node.json").read_text())["node"])

    def doors(self) -> Doors:
        """Clients of it, for a `with`."""
        return Doors(self.daemon, self.operator)

    def status(self) -> dict[str, dict[str, Any]]:
        """Every node as this one sees it, by id."""
        with self.doors() as doors:
            nodes = doors.done("GET", "/v1/status")["nodes"]
        return {node["node"]: node for node in nodes}

    def own(self) -> dict[str, Any]:
        """What it says of itself."""
        return self.status()[self.node_id]

    def position(self) -> Position | None:
        """Where its own data is, as it says."""
        at = self.own().get("position")
        return None if at is None else Position.parse(at)

    def ready(self) -> tuple[int, str]:
        """Status and body of its readiness."""
        with self.doors() as doors:
            answer = doors.ask("GET", "/readyz", token=None)
            return answer.status, answer.raw.decode()

    def has(self, position: Position, within_s: float = WITHIN_S) -> Position:
        """Wait until readers of it see `position` or what came after it."""

        def look() -> Position | None:
            at = self.position()
            return at if at is not None and _order(at) >= _order(position) else None

        return until(look, f"{self.node_id} at {position}:\n{self.daemon.said()}", within_s)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its events of this name, of this run."""
        return [each for each in self.daemon.events() if each["event"] == event]

    def resident_mib(self) -> float:
        """Its memory now."""
        pages = int(Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """SIGSTOP, and SIGCONT in the end."""
        self.daemon.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemon.signal(signal.SIGCONT)


@dataclass
class Fleet:
    """A leader and the nodes that joined it."""

    root: Path
    operator: str
    leader: Member
    replicas: list[Member] = field(default_factory=list)

    @property
    def nodes(self) -> list[Member]:
        """All."""
        return [self.leader, *self.replicas]

    def invite(self, region: str) -> str:
        """A join token, by the command line."""
        with self.leader.doors() as doors:
            invited = doors.cli("node", "invite", "--region", region)
        assert invited.code == 0, invited
        return invited.out.decode().strip()

    def join(
        self,
        region: str,
        *,
        upstream: int | None = None,
        advertise: int | None = None,
        daemon: Daemon | None = None,
        command: Callable[..., Ran] = run,
        start: bool = True,
    ) -> Member:
        """One more replica. `upstream` is the peer port that it follows first, `advertise` the one
        it gives to others; `daemon` and `command`: somewhere else than under `root`."""
        ports = Ports.free()
        daemon = daemon or Daemon(self.root / f"{region}{len(self.replicas)}")
        directory = daemon.directory
        keyring = self.root / f"{region}{len(self.replicas)}.keyring.json"
        shutil.copy(_keyring_of(self.leader.directory), keyring)
        joined = command(
            *("join", directory, "--region", region, "--keyring", keyring),
            *("--http", f"127.0.0.1:{ports.http}", "--grpc", f"127.0.0.1:{ports.grpc}"),
            *("--peer", f"127.0.0.1:{ports.peer}"),
            environ={"PETSEM_JOIN_TOKEN": self.invite(region)},
        )
        assert joined.code == 0, joined
        member = Member(daemon, self.operator, ports)
        if upstream is not None:
            configure(directory, "peer", upstream=f"127.0.0.1:{upstream}")
        if advertise is not None:
            configure(directory, "peer", advertise=f"127.0.0.1:{advertise}")
        self.replicas.append(member)
        if start:
            daemon.start()
        return member

    def position(self) -> Position:
        """Where the leader is."""
        at = self.leader.position()
        assert at is not None
        return at

    def converged(self, *replicas: Member, within_s: float = WITHIN_S) -> Position:
        """Wait until these replicas, or all, are where the leader is, which nobody writes to; and
        see that their files are its canonical image, byte by byte."""
        for _ in range(5):
            at = self.position()
            for replica in replicas or self.replicas:
                replica.has(at, within_s)
            image = canonical(self.leader)
            differ = {r.node_id: apart(r, image) for r in replicas or self.replicas}
            if self.position() == at:
                assert not any(differ.values()), differ
                return at
        raise AssertionError("somebody writes all the time")

    def close(self) -> None:
        """End what still runs."""
        for node in reversed(self.nodes):
            with contextlib.suppress(ProcessLookupError):
                if node.daemon.alive:
                    node.daemon.signal(signal.SIGCONT)
                    node.daemon.kill()


@contextlib.contextmanager
def fleet(
    root: Path, replicas: int = 1, *, leader_seen_at: int | None = None, **peer: object
) -> Iterator[Fleet]:
    """A leader and so many replicas that have its data. The leader says that it is reached at
    `leader_seen_at`, if that is not its own port: through a proxy."""
    ports = Ports.free()
    directory = root / "leader"
    made = init_cluster(
        directory,
        region="ams",
        http=Address("127.0.0.1", ports.http),
        grpc=Address("127.0.0.1", ports.grpc),
        peer=Address("127.0.0.1", ports.peer),
    )
    operator = made.operator_token_file.read_text().strip()
    if leader_seen_at is not None:
        configure(directory, "peer", advertise=f"127.0.0.1:{leader_seen_at}")
    cluster = Fleet(root, operator, Member(Daemon(directory), operator, ports))
    try:
        cluster.leader.daemon.start()
        with cluster.leader.doors() as doors:
            doors.furnish("acme", "web")
            doors.set("acme/web", FIRST="1")
        for number in range(replicas):
            cluster.join(("fra", "nrt", "iad")[number % 3])
        if replicas:
            cluster.converged()
        yield cluster
    finally:
        cluster.close()


def free_port() -> int:
    """A port that nobody has and nobody was given here."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.add(port)
            return port


def canonical(leader: Member) -> bytes:
    """The leader's database and WAL as the file that every replica has at its position. Nobody may
    be writing."""
    return shown(leader.database)


def apart(replica: Member, image: bytes) -> list[int]:
    """The pages of the replica's file that are not those of `image`. Not through SQLite: it is the
    file that counts."""
    found = replica.database.read_bytes()
    size = max(len(found), len(image))
    return [
        at // PAGE_SIZE + 1
        for at in range(0, size, PAGE_SIZE)
        if found[at : at + PAGE_SIZE] != image[at : at + PAGE_SIZE]
    ]


def _order(position: Position) -> tuple[int, int]:
    return position.epoch, position.txid


def _keyring_of(directory: Path) -> Path:
    return directory.with_name(directory.name + ".keyring.json")
