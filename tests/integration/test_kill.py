"""`kill -9` at any moment, under load: what was acknowledged is there, once, after each restart.

The seed is printed on failure; `PETSEM_KILL_SEED` runs with another one and `PETSEM_KILLS` kills
that often.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from petsem.model import Position
from tests.support import cluster
from tests.support.daemon import Daemon, run
from tests.support.doors import Doors, in_seconds, narrowed, values_of
from tests.support.keep_alive import Answered, KeepAlive, Unanswered
from tests.support.offline import Disk, nonce_of

SEED: Final = int(os.environ.get("PETSEM_KILL_SEED", "20260103"))
KILLS: Final = int(os.environ.get("PETSEM_KILLS", "8"))
WRITERS: Final = 60
MINTERS: Final = 4
APPS: Final = 3
LOAD_S: Final = (0.05, 0.8)
"""How long the load goes on before a kill: from the first answer after the restart."""
PROGRESS_WITHIN_S: Final = 60


@dataclass
class History:
    """What the clients were told, all of it: the truth that the node is held to."""

    written: dict[tuple[str, int], str] = field(default_factory=dict)
    """By app and version: the key of the write that made it."""
    position: dict[str, Position] = field(default_factory=dict)
    """By key: where the write was done, the same each time it is asked."""
    epochs: dict[int, int] = field(default_factory=dict)
    """By TXID: its epoch."""
    answers: int = 0
    replays: int = 0

    def note(self, app: str, key: str, reply: Any) -> None:
        """One acknowledged write, or the same once more."""
        at = Position.parse(reply["position"])
        version = reply.get("version")
        self.answers += 1
        assert self.epochs.setdefault(at.txid, at.epoch) == at.epoch, f"TXID {at.txid} twice"
        assert self.position.setdefault(key, at) == at, f"{key} at two positions"
        if version is not None:
            assert self.written.setdefault((app, version), key) == key, (app, version)


@dataclass
class Run:
    """The load: clients that go on over every kill, and stop when they are told."""

    operator: str
    history: History = field(default_factory=History)
    port: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    enough: bool = False

    async def settled(
        self, line: KeepAlive, method: str, path: str, body: object, key: str
    ) -> Answered:
        """The answer to a write, asked for with one key until there is a plain one."""
        asked = 0
        while True:
            await self.up.wait()
            line.port = self.port
            try:
                answer = await line.ask(method, path, body, key)
            except Unanswered:
                asked += 1
                await asyncio.sleep(0.01)
                continue
            if answer.status in (503, 504):
                asked += 1
                await asyncio.sleep(0.01)
                continue
            self.history.replays += bool(asked)
            return answer


@dataclass
class Writer:
    """Sets one name to one value after another."""

    run: Run
    name: str
    app: str
    random: random.Random
    value: str | None = None
    wanted: str | None = None
    """What it has asked for and not heard of yet."""
    count: int = 0

    async def work(self) -> None:
        """Until there were enough kills; what was asked for is settled then."""
        line = KeepAlive(self.run.port, self.run.operator)
        while not self.run.enough:
            key = f"{self.name}-{self.count}"
            self.wanted = f"{key}:{self.random.randbytes(self.random.randrange(1, 600)).hex()}"
            body = {"set": {self.name: self.wanted}}
            answer = await self.run.settled(line, "PATCH", _secrets(self.app), body, key)
            assert answer.status == 200, answer
            self.run.history.note(self.app, key, answer.body)
            self.value, self.wanted = self.wanted, None
            self.count += 1
        line.drop()


@dataclass
class Minter:
    """Mints tokens and revokes every other one."""

    run: Run
    name: str
    live: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)

    async def work(self) -> None:
        """Until there were enough kills."""
        line = KeepAlive(self.run.port, self.run.operator)
        body = {"org": "acme", "caveats": ["action = secrets:read", in_seconds(3_600)]}
        count = 0
        while not self.run.enough:
            key = f"{self.name}-{count}"
            minted = await self.run.settled(line, "POST", "/v1/tokens", body, key)
            assert minted.status == 201, minted
            self.run.history.note("", key, minted.body)
            if count % 2:
                path = f"/v1/orgs/acme/tokens/{minted.body['id']}"
                gone = await self.run.settled(line, "DELETE", path, None, key)
                assert gone.status == 200, gone
                self.run.history.note("", f"{key}-revoked", gone.body)
                self.revoked.append(minted.body["token"])
            else:
                self.live.append(minted.body["token"])
            count += 1
        line.drop()


def _secrets(app: str) -> str:
    return f"/v1/orgs/acme/apps/{app}/secrets"


@pytest.mark.parametrize("kills", [KILLS])
async def test_kill_dash_nine(tmp_path: Path, kills: int) -> None:
    """A loop of kills under load, with every promise looked at after each."""
    print(f"PETSEM_KILL_SEED={SEED} PETSEM_KILLS={kills}")
    chance = random.Random(SEED)
    made = cluster.make(tmp_path)
    apps = [f"app-{number}" for number in range(APPS)]
    daemon = Daemon(made.directory)
    with daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", *apps)
        run_ = Run(made.operator)
        writers = [
            Writer(run_, f"W{number}", apps[number % APPS], random.Random(chance.random()))
            for number in range(WRITERS)
        ]
        minters = [Minter(run_, f"M{number}") for number in range(MINTERS)]
        daemon.kill()
    versions = dict.fromkeys(apps, 0)
    async with asyncio.timeout(max(120, 20 * kills)), asyncio.TaskGroup() as group:
        for work in (*(each.work() for each in writers), *(each.work() for each in minters)):
            group.create_task(work)
        for _ in range(kills):
            await asyncio.to_thread(daemon.start)
            _look(daemon, made.operator, writers, minters, versions)
            run_.port = daemon.http
            before = run_.history.answers
            run_.up.set()
            await _progress(run_.history, before)
            await asyncio.sleep(chance.uniform(*LOAD_S))
            run_.up.clear()
            await asyncio.to_thread(daemon.kill)
        await asyncio.to_thread(daemon.start)
        _look(daemon, made.operator, writers, minters, versions)
        run_.enough = True
        run_.port = daemon.http
        run_.up.set()
    with Doors(daemon, made.operator) as doors:
        _settle(doors, run_.history, writers, minters, apps)
    assert daemon.stop() == 0
    checked = run("check", made.directory, "--all")
    assert checked.code == 0, checked
    _check_disk(Disk(made.directory), run_.history, kills)
    # Without these the run would have shown little.
    assert run_.history.answers > 20 * kills
    assert run_.history.replays > kills


async def _progress(history: History, before: int) -> None:
    """Until somebody was answered again."""
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while history.answers == before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def _look(
    daemon: Daemon,
    operator: str,
    writers: list[Writer],
    minters: list[Minter],
    versions: dict[str, int],
) -> None:
    """Right after a start, before any client is let on again: nothing that was acknowledged is
    gone, and of what was not, either all or nothing is there."""
    with Doors(daemon, operator) as doors:
        for app in versions:
            fetched = doors.fetch(f"acme/{app}")
            stored = values_of(fetched)
            assert fetched.message.version >= versions[app], f"{app} went back"
            versions[app] = fetched.message.version
            for writer in writers:
                if writer.app == app:
                    found = stored.get(writer.name)
                    allowed = {None if v is None else v.encode() for v in (writer.value,)}
                    if writer.wanted is not None:
                        allowed.add(writer.wanted.encode())
                    assert found in allowed, f"{writer.name} was lost"
        for minter in minters:
            for token in minter.live[-2:]:
                assert doors.fetch("acme/app-0", token=token).error is None, minter.name
            for token in minter.revoked[-2:]:
                narrow = narrowed(token, "app = app-0")
                error = doors.fetch("acme/app-0", token=narrow).error
                assert error == ("PERMISSION_DENIED", "denied", "REVOKED"), minter.name


def _settle(
    doors: Doors,
    history: History,
    writers: list[Writer],
    minters: list[Minter],
    apps: list[str],
) -> None:
    """At the end every write is settled: each happened once, and nothing else did."""
    for app in apps:
        fetched = doors.fetch(f"acme/{app}")
        mine = [writer for writer in writers if writer.app == app]
        expected = {w.name: w.value.encode() for w in mine if w.value is not None}
        assert values_of(fetched) == expected
        made = [version for of, version in history.written if of == app]
        assert sorted(made) == list(range(1, fetched.message.version + 1)), "a write twice"
        assert len(made) == sum(writer.count for writer in mine)
        at = [history.position[history.written[app, version]] for version in sorted(made)]
        assert at == sorted(at, key=lambda position: (position.epoch, position.txid))
    for minter in minters:
        tokens = (*minter.live, *minter.revoked)
        assert len({nonce_of(token) for token in tokens}) == len(tokens)


def _check_disk(disk: Disk, history: History, kills: int) -> None:
    """Each start has its epoch, and TXIDs go on from one to the next."""
    epochs = disk.rows("SELECT epoch, first_txid FROM epochs ORDER BY epoch")
    # The one of init, the one that furnished, and one for each start after a kill.
    assert len(epochs) == kills + 3
    for txid, epoch in history.epochs.items():
        started = [number for number, first in epochs if first <= txid]
        assert started[-1] == epoch
    minted = disk.rows("SELECT count(*) FROM tokens WHERE created_by <> 'init'")[0][0]
    assert minted == sum(1 for key in history.position if key[0] == "M" and key[-1] != "d")
