"""`Peer.Compare`: what a log has at a transaction, and what it says where it cannot tell."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from petsem.clock import ManualClock
from petsem.errors import Code, PetsemError
from petsem.model import Position, Role
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_types import DamagedRecord
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import NodeIdentity
from petsem.server.peer.membership import Member
from petsem.server.replica.comparing import Comparing
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf

BASE, END = Position(1, 10, 1), Position(2, 20, 2)
MEMBER = Member("fra-1", "fra")


class Log:
    """One that knows its two ends."""

    base, end = BASE, END

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def position_of(self, txid: int) -> Position | None:
        if self.error is not None:
            raise self.error
        return {10: BASE, 20: END}.get(txid)


def comparing(log: Log | None, role: Role = Role.LEADER) -> Comparing:
    view = ClusterView(ManualClock())
    view.role = role
    return Comparing(NodeIdentity("ams-1", bytes(16), "ams"), view, lambda: cast("LogReader", log))


async def answer(node: Comparing, txid: int) -> Any:
    return await node.method.answer(MEMBER, pb.CompareRequest(txid=txid))


@pytest.mark.parametrize(("txid", "found"), [(20, END), (10, BASE), (9, None), (15, None)])
async def test_what_the_log_has(txid: int, found: Position | None) -> None:
    """The position with its checksum, or nothing; and in any case from where to where it reaches,
    so that whoever asks knows why."""
    said = await answer(comparing(Log()), txid)
    assert said == pb.CompareResponse(
        node="ams-1",
        leads=True,
        oldest=position_to_protobuf(BASE),
        position=position_to_protobuf(END),
        found=None if found is None else position_to_protobuf(found),
    )


async def test_a_replica_says_that_it_does_not_lead() -> None:
    """Its log may be behind, or of a branch that is gone."""
    assert not (await answer(comparing(Log(), Role.REPLICA), 20)).leads


async def test_a_log_without_data() -> None:
    """Nothing is made up."""
    log = Log()
    log.base = log.end = cast("Position", None)
    assert await answer(comparing(log), 7) == pb.CompareResponse(node="ams-1", leads=True)


@pytest.mark.parametrize("error", [DamagedRecord(BASE), OSError()])
async def test_a_damaged_log(error: Exception) -> None:
    """Whoever asks hears on which side the damage is."""
    with pytest.raises(PetsemError, match="this node's log cannot be read") as refused:
        await answer(comparing(Log(error)), 20)
    assert refused.value.code is Code.CORRUPT


async def test_while_the_role_changes() -> None:
    """There is no log then."""
    with pytest.raises(PetsemError) as refused:
        await answer(comparing(None), 20)
    assert refused.value.code is Code.UNAVAILABLE


class Crowded(Log):
    """Notes how many searches there are at once."""

    def __init__(self) -> None:
        super().__init__()
        self.searching = self.most = 0

    def position_of(self, txid: int) -> Position | None:
        self.searching += 1
        self.most = max(self.most, self.searching)
        for _ in range(1_000):
            time.sleep(0)
        self.searching -= 1
        return super().position_of(txid)


async def test_one_search_at_a_time() -> None:
    """However many ask, and hang up; a search takes until somebody else could have begun."""
    log = Crowded()
    node = comparing(log)
    gone = [asyncio.ensure_future(answer(node, 20)) for _ in range(4)]
    await asyncio.sleep(0)
    for each in gone:
        each.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    answers = await asyncio.gather(*(answer(node, 20) for _ in range(20)))
    assert log.most == 1
    assert all(each.found == position_to_protobuf(END) for each in answers)
