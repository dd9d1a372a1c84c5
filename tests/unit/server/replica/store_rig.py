"""A replica's disk in a directory of its own, with everything that the node would give it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from petsem.clock import ManualClock
from petsem.model import Position, Role
from petsem.replication import steps
from petsem.replication.drivers.database_file import PageReader
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.database import ReadPool, read_position
from petsem.server.datadir import DataDir, NodeState
from petsem.server.replica.store import ReplicaStore
from petsem.server.replica.telling import Listeners
from petsem.server.space import Space
from tests.support.leader_source import LeaderSource, Record


class Rig:
    """`store` is the replica; `told` what its listeners heard."""

    store: ReplicaStore
    listeners: Listeners

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.datadir = DataDir(directory)
        if not self.datadir.state_file.exists():
            self.datadir.make_directories()
            self.datadir.write_state(NodeState(role="replica"))
        self.helper = ThreadPoolExecutor(max_workers=1)
        self.pool = ReadPool(self.datadir.database)
        self.view = ClusterView(ManualClock(), role=Role.REPLICA)
        self.free = 2**40
        self.space = Space(directory, ballast_bytes=4096, free=lambda _: self.free)
        self.segment_bytes = 256 * 1024
        self.told: list[tuple[str, object]] = []

    async def open(self, reached: steps.Reached = steps.nothing) -> ReplicaStore:
        told = self.told

        def tell(what: str):  # type: ignore[no-untyped-def]
            return [lambda *about: told.append((what, *about))]

        self.listeners = Listeners(
            tell("durable"), tell("applied"), tell("jumped"), tell("trouble"), tell("lost")
        )
        self.store = await ReplicaStore.open(
            self.datadir,
            helper=self.helper,
            pool=self.pool,
            changes=Changes(),
            view=self.view,
            clock=self.view.clock,
            space=self.space,
            listeners=self.listeners,
            accept_command="petsem accept",
            segment_bytes=self.segment_bytes,
            reached=reached,
        )
        return self.store

    async def crash(self) -> None:
        """Let go of everything as a killed process does: nothing is synced, saved or noted."""
        store = self.store
        await store._applying.stop()
        await store._upkeep.stop()
        store._reader.close()
        store._applier.close()
        self.pool.close()

    async def close(self) -> None:
        await self.store.close()
        self.pool.close()

    async def take(self, leader: LeaderSource) -> None:
        """The whole snapshot of where the leader is."""
        image = leader.image()
        await self.store.begin_snapshot(leader.position, len(image) // 4096, 1)
        for first, data in leader.snapshot():
            await self.store.snapshot_pages(first, data)
        await self.store.end_snapshot(leader.position, b"")

    async def follow(self, records: Sequence[Record]) -> None:
        await self.store.receive(records)
        await self.store._applying.settled()

    def image(self) -> bytes:
        """The database file, as it is."""
        reader = PageReader(self.datadir.database)
        try:
            return b"".join(page for _, page in reader.pages(1, reader.size_pages()))
        finally:
            reader.close()

    def read(self, query: str) -> list[tuple[object, ...]]:
        with self.pool.reading() as db:
            return sql.rows(db, query)

    def position(self) -> Position:
        with self.pool.reading() as db:
            return read_position(db)

    def heard(self, what: str) -> list[object]:
        return [about[0] if about else None for each, *about in self.told if each == what]


async def rest() -> None:
    """Let other tasks run a few times."""
    for _ in range(20):
        await asyncio.sleep(0)
