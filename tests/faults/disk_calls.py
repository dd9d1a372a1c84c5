"""A replica whose disk fails at the n-th write, sync or cut of all that it does, once or from then
on: for every n while it takes a snapshot, follows, is started again and shrinks.

After each: what is on the disk is a sound database whose content is that of its position, and a
healthy process on it catches up to the leader's canonical image.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw
import httpx

from petsem.model import Position
from petsem.replication.drivers.log_reader import LogReader
from tests.faults.kills import Tell
from tests.support import stock
from tests.support.daemon import Daemon, until
from tests.support.failing_calls import OPERATIONS, command, counted, met
from tests.support.fleet import Fleet, Member, fleet
from tests.support.rebuilt import rolling_of

KINDS: Final = ("snapshot", "restart")
"""From nothing; and from a run that was killed, with a leader whose database is shorter now."""
TRANSACTIONS: Final = 3
_NOISE: Final = 12
_STUCK_S: Final = 30.0
TOLD_EVERY: Final = 20


@dataclass(frozen=True, slots=True)
class Case:
    """Which call fails, of which kind, in which run; `on`: and all of the kind after it."""

    kind: str
    operation: str
    call: int
    on: bool


@dataclass
class Sweep:
    """A leader that runs, and a replica that begins each case from the same files."""

    cluster: Fleet
    replicas: dict[str, Member]
    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    _known: dict[object, int | None] = field(default_factory=dict)
    _count: int = 0

    def cases(self) -> list[Case]:
        """All there are, by the calls of a run in which nothing fails."""
        for kind in KINDS:
            if kind not in self.calls:
                self.calls[kind] = self._calls(kind)
        return [
            Case(kind, operation, call, on)
            for kind in KINDS
            for operation in OPERATIONS
            for call in range(1, self.calls[kind].get(operation, 0) + 1)
            for on in (False, True)
        ]

    def run(self, case: Case) -> None:
        """One run that fails, and one that does not, on what it left."""
        replica = self._begin(case.kind, command(case.operation, case.call, on=case.on))
        try:
            self._fail(replica, case)
        finally:
            if replica.daemon.alive:
                replica.daemon.kill()
        self._sound(replica)
        healthy = self._member(case.kind, Daemon(replica.directory))
        with healthy.daemon:
            self.cluster.converged(healthy)
            assert healthy.daemon.stop() == 0, healthy.daemon.said()

    def _fail(self, replica: Member, case: Case) -> None:
        self._drive(replica)
        if case.on:
            self._write()
        else:
            # It gets over it by itself, or ends; whoever supervises it starts it again.
            self._settled(replica, self.cluster.position(), fails=False)
        lives = replica.daemon.alive
        if not lives:
            replica.daemon.wait()
        elif case.on:
            replica.daemon.kill()
        else:
            replica.daemon.stop()
        failed = met(replica.directory).exists()
        self.outcomes["not come to" if not failed else "lived on" if lives else "ended"] += 1

    def learn(self) -> None:
        """The checksum of each position that the leader's log has."""
        log = LogReader.open_read_only(self.cluster.leader.directory / "ltx")
        for info in log.infos():
            self._known[info.after.epoch, info.after.txid] = info.after.checksum

    def _calls(self, kind: str) -> dict[str, int]:
        replica = self._begin(kind, command("write", 0, on=False))
        self._drive(replica)
        replica.has(self.cluster.position())
        assert replica.daemon.stop() == 0, replica.daemon.said()
        return counted(replica.directory)

    def _member(self, kind: str, daemon: Daemon) -> Member:
        like = self.replicas[kind]
        return Member(daemon, like.directory, like.operator, like.ports)

    def _begin(self, kind: str, program: tuple[str, ...]) -> Member:
        directory = self.replicas[kind].directory
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(_kept(directory), directory)
        met(directory).unlink(missing_ok=True)
        replica = self._member(kind, Daemon(directory, command=program))
        replica.daemon.begin()
        return replica

    def _drive(self, replica: Member) -> None:
        """Transactions, one after the other, until it failed or has all of them."""
        for _ in range(TRANSACTIONS):
            self._settled(replica, self._write(), fails=True)

    def _settled(self, replica: Member, at: Position, *, fails: bool) -> None:
        """Wait until it has `at` or has ended; with `fails`, or a call has failed."""

        def come() -> bool:
            if not replica.daemon.alive or (fails and met(replica.directory).exists()):
                return True
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                now = replica.position()
                return now is not None and now.txid >= at.txid
            return False

        until(come, f"{at} or an end:\n{replica.daemon.said()}", _STUCK_S)

    def _write(self) -> Position:
        self._count += 1
        with self.cluster.leader.doors() as doors:
            doors.set("acme/web", FIRST=f"{self._count}:" + "x" * 9_000 * (self._count % 3))
        return self.cluster.position()

    def _sound(self, replica: Member) -> None:
        """What SQLite finds, in a copy: the next start is to find it as it was left."""
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name) / "petsem.db"
            for path in replica.directory.glob("petsem.db*"):
                shutil.copyfile(path, copy.with_name(path.name))
            if not copy.exists() or copy.stat().st_size == 0:
                return
            db = apsw.Connection(str(copy))
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = db.execute("SELECT epoch, txid FROM position").fetchall()
            db.close()
            content = copy.read_bytes()
        if content:
            self.learn()
            assert rolling_of(content) == self._known[rows[0]]


async def of_every_call(root: Path, _kills: int, seed: int, tell: Tell = print) -> list[str]:
    """All cases, in an order of chance."""
    return await asyncio.to_thread(_every_call, root, seed, tell)


def _every_call(root: Path, seed: int, tell: Tell) -> list[str]:
    with sweep(root) as made:
        cases = made.cases()
        random.Random(seed).shuffle(cases)
        for number, case in enumerate(cases, 1):
            try:
                made.run(case)
            except Exception as e:
                raise AssertionError(str(case)) from e
            if number % TOLD_EVERY == 0 or number == len(cases):
                tell(f"{number} of {len(cases)} failing calls")
        outcomes = ", ".join(f"{count} {how}" for how, count in sorted(made.outcomes.items()))
    calls = [
        f"{count} {operation}s ({kind})"
        for kind, each in made.calls.items()
        for operation, count in each.items()
    ]
    return [
        f"each of {', '.join(calls)} failed, once and from then on: the process {outcomes}",
        "each time a sound database was left with the content of its position, and a healthy "
        "process ended byte-identical with the leader's canonical image",
    ]


@contextlib.contextmanager
def sweep(root: Path) -> Iterator[Sweep]:
    """The cluster and the files from which the replicas begin."""
    noise = random.Random(1)
    with fleet(root, 1) as cluster:
        leader, (killed,) = cluster.leader, cluster.replicas
        made = Sweep(cluster, {})
        with leader.doors() as doors:
            doors.furnish("gone", "web")
            for number in range(_NOISE):
                doors.set("gone/web", **{f"N{number}": noise.randbytes(9_000)})
            doors.done("DELETE", "/v1/orgs/gone?now=true")
        cluster.converged()
        killed.daemon.kill()
        made.learn()
        stock.ask(stock.commands(leader.database)[0], "VACUUM")
        fresh = cluster.join("nrt")
        for kind, replica in zip(KINDS, (fresh, killed), strict=True):
            shutil.copytree(replica.directory, _kept(replica.directory))
            made.replicas[kind] = replica
        cluster.replicas.clear()
        yield made


def _kept(directory: Path) -> Path:
    return directory.with_name(directory.name + ".kept")
