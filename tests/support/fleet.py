"""A real cluster: `petsem serve` processes on ports that they keep, made and joined as users do it.

A node is started, told to stop, killed, held and started again; the others are asked meanwhile.
Nothing here sleeps for a while and hopes: whatever is waited for is looked at until it is there.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from petsem.model import Position
from petsem.replication.image import PAGE_SIZE
from petsem.server.address import Address
from petsem.server.init import init_cluster
from tests.support.daemon import Daemon, Ran, configure, run, until
from tests.support.doors import Doors
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.rebuilt import shown


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

    def __init__(self, daemon: Daemon, directory: Path, operator: str, ports: Ports) -> None:
        self.daemon = daemon
        self.directory = directory
        """The data directory, as this process sees it."""
        self.operator = operator
        self.ports = ports
        # Known before the first start, and the same after each.
        daemon.http, daemon.grpc = ports.http, ports.grpc

    @property
    def database(self) -> Path:
        """The file."""
        return self.directory / "petsem.db"

    @property
    def node_id(self) -> str:
        """As its directory has it."""
        return str(json.loads((self.directory / "node.json").read_text())["node_id"])

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

    def has(self, position: Position, within_s: float = PATIENCE_S) -> Position:
        """Wait until readers of it see `position` or what came after it."""

        def look() -> Position | None:
            with self.doors() as doors:
                answer = doors.ask("GET", "/v1/status")
            if answer.status == 503:
                # It has its database for itself while it takes much in.
                return None
            at = next(n.get("position") for n in answer.body["nodes"] if n["node"] == self.node_id)
            found = None if at is None else Position.parse(at)
            return found if found is not None and _order(found) >= _order(position) else None

        return until(look, f"{self.node_id} at {position}:\n{self.daemon.said()}", within_s)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its events of this name, of this run."""
        return [each for each in self.daemon.events() if each["event"] == event]

    def says(self, event: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for the first such event of this run."""

        def look() -> dict[str, Any] | None:
            return next(iter(self.logged(event)), None)

        return until(look, f"{event} in the log of {self.node_id}", within_s)

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
    """A leader and the nodes that joined it. With a `proxy`, every way to the leader that a node
    knows of goes through that."""

    root: Path
    operator: str
    leader: Member
    replicas: list[Member] = field(default_factory=list)
    proxy: Proxy | None = None

    @property
    def nodes(self) -> list[Member]:
        """All."""
        return [self.leader, *self.replicas]

    @property
    def link(self) -> Proxy:
        """The proxy, where there is one."""
        assert self.proxy is not None
        return self.proxy

    def join(
        self,
        name: str,
        *,
        daemon: Daemon | None = None,
        seen: Path | None = None,
        command: Callable[..., Ran] = run,
    ) -> Member:
        """One more replica, by the command line, not started yet. `daemon`, `seen` and `command`:
        on another disk than `root`, as its processes and as this one see it."""
        daemon = daemon or Daemon(self.root / name)
        seen = seen or daemon.directory
        shutil.copy(_keyring_of(self.leader.directory), _keyring_of(seen))
        with self.leader.doors() as doors:
            invited = doors.cli("node", "invite", "--region", name)
        assert invited.code == 0, invited
        token = self.root / f"{name}.join"
        token.touch(0o600)
        token.write_bytes(invited.out)
        ports = Ports.free()
        joined = command(
            *("join", daemon.directory, "--region", name, "--join-token-file", token),
            *("--http", f"127.0.0.1:{ports.http}", "--grpc", f"127.0.0.1:{ports.grpc}"),
            *("--peer", f"127.0.0.1:{ports.peer}"),
        )
        assert joined.code == 0, joined
        self.replicas.append(Member(daemon, seen, self.operator, ports))
        return self.replicas[-1]

    def start(self) -> None:
        """Every node, side by side."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda node: node.daemon.start(), self.nodes))

    def position(self) -> Position:
        """Where the leader is."""
        at = self.leader.position()
        assert at is not None
        return at

    def converged(self, *replicas: Member, within_s: float = PATIENCE_S) -> Position:
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
            if node.daemon.alive:
                node.daemon.kill()
        if self.proxy is not None:
            self.proxy.close()


REGIONS: Final = ("fra", "nrt")


@contextlib.contextmanager
def fleet(
    root: Path, replicas: int = 1, *, proxied: bool = False, start: bool = True
) -> Iterator[Fleet]:
    """A leader and so many replicas that have its data, all in step. `start` False: none runs."""
    template = _template()
    cluster = template.copy(root, replicas)
    try:
        if proxied:
            behind = free_port()
            front = cluster.leader.ports.peer
            configure(cluster.leader.directory, "peer", bind=f"127.0.0.1:{behind}")
            configure(cluster.leader.directory, "peer", advertise=f"127.0.0.1:{front}")
            cluster.proxy = Proxy(front, behind).start()
        if start:
            cluster.start()
            cluster.converged()
        yield cluster
    finally:
        cluster.close()


@dataclass(frozen=True, slots=True)
class _Template:
    """A cluster that was made once, and stopped in order: joining costs seconds."""

    root: Path
    operator: str
    ports: dict[str, Ports]

    def copy(self, root: Path, replicas: int) -> Fleet:
        members = []
        for name in ("leader", *REGIONS[:replicas]):
            shutil.copytree(self.root / name, root / name)
            shutil.copy(_keyring_of(self.root / name), _keyring_of(root / name))
            daemon = Daemon(root / name)
            members.append(Member(daemon, root / name, self.operator, self.ports[name]))
        return Fleet(root, self.operator, members[0], members[1:])


@functools.cache
def _template() -> _Template:
    root = Path(tempfile.mkdtemp(prefix="petsem-fleet-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
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
    cluster = Fleet(root, operator, Member(Daemon(directory), directory, operator, ports))
    try:
        cluster.leader.daemon.start()
        with cluster.leader.doors() as doors:
            doors.furnish("acme", "web")
            doors.set("acme/web", FIRST="1")
        for name in REGIONS:
            cluster.join(name).daemon.start()
        cluster.converged()
        for node in reversed(cluster.nodes):
            assert node.daemon.stop() == 0, node.daemon.said()
    finally:
        cluster.close()
    return _Template(root, operator, {n.directory.name: n.ports for n in cluster.nodes})


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
