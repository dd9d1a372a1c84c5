"""Clients that write and remember what they were told, over every kill of the node they ask."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from petsem.model import Position
from tests.support.fleet import Member
from tests.support.keep_alive import KeepAlive, Unanswered
from tests.support.patience import PATIENCE_S

PATH = "/v1/orgs/acme/apps/web/secrets"
_LATER = (429, 503, 504)
PAUSE_S = 0.01


@dataclass
class WriteLoad:
    """What the writers were told. Each sets a name of its own to one value after another."""

    member: Member
    chance: random.Random
    values: dict[str, str] = field(default_factory=dict)
    """By name: the value of the last write that was acknowledged."""
    epochs: dict[int, int] = field(default_factory=dict)
    """By TXID: its epoch."""
    keys: dict[int, str] = field(default_factory=dict)
    """By version: the key of the write that made it."""
    latencies_s: list[float] = field(default_factory=list)
    retried: int = 0
    enough: bool = False

    @property
    def answers(self) -> int:
        """How many writes were acknowledged."""
        return len(self.keys)

    async def more(self, count: int, within_s: float = 2 * PATIENCE_S) -> None:
        """Until so many more writes were acknowledged."""
        goal = self.answers + count
        async with asyncio.timeout(within_s):
            while self.answers < goal:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def writer(self, name: str, pause_s: float) -> None:
        """Write until there was enough; what was asked for is settled then."""
        line = KeepAlive(self.member.ports.http, self.member.operator)
        dice = random.Random(self.chance.random())
        count = 0
        while not self.enough:
            key = f"{name}-{count}"
            value = f"{key}:{dice.randbytes(dice.randrange(1, 600)).hex()}"
            await self._settle(line, key, {"set": {name: value}})
            self.values[name] = value
            count += 1
            await asyncio.sleep(pause_s)
        line.drop()

    async def _settle(self, line: KeepAlive, key: str, body: object) -> None:
        while True:
            began_s = time.perf_counter()
            try:
                answer = await line.ask("PATCH", PATH, body, key)
            except Unanswered:
                self.retried += 1
                await asyncio.sleep(0.02)
                continue
            if answer.status not in _LATER:
                break
            self.retried += 1
            await asyncio.sleep(0.02)
        self.latencies_s.append(time.perf_counter() - began_s)
        assert answer.status == 200, answer
        at = Position.parse(answer.body["position"])
        assert self.epochs.setdefault(at.txid, at.epoch) == at.epoch, f"TXID {at.txid} twice"
        version = answer.body["version"]
        assert self.keys.setdefault(version, key) == key, f"version {version} twice"


@contextlib.asynccontextmanager
async def writing(
    member: Member, *, writers: int = 6, seed: int = 1, pause_s: float = PAUSE_S
) -> AsyncIterator[WriteLoad]:
    """Such clients, for as long as the block lasts; then they finish what they began."""
    load = WriteLoad(member, random.Random(seed))
    async with asyncio.TaskGroup() as group:
        for number in range(writers):
            group.create_task(load.writer(f"W{number}", pause_s))
        try:
            yield load
        finally:
            load.enough = True


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]
