"""Where a write is when it is answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from petsem.model import Position
from petsem.server.service.durability import (
    NO_FOLLOWERS,
    REMOVAL_WAIT_S,
    REPLICATED_WAIT_S,
    durability,
)
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.cluster import Cluster, call

AT = Position(2, 7)
TWO = http.ReplicatedDurability(2)
ONE = http.ReplicatedDurability(1)


class Some:
    """Followers who hold everything at once."""

    def __init__(self, *holders: str) -> None:
        self.connected: Collection[str] = holders
        self.asked: list[tuple[Position, int, float]] = []

    async def wait(self, position: Position, count: int, timeout_s: float) -> Collection[str]:
        self.asked.append((position, count, timeout_s))
        return self.connected

    def live(self) -> Mapping[str, pb.NodeReport]:
        return {}


async def test_local_waits_for_nobody() -> None:
    """It is met as soon as the leader has the write."""
    some = Some("a")
    assert await durability(some, "local", AT) == http.DurabilityReport("local", True, [])
    assert some.asked == []


@pytest.mark.parametrize(
    ("holders", "met"), [(("b", "a"), True), (("c", "b", "a"), True), (("a",), False), ((), False)]
)
async def test_replicated_says_who_holds_it(holders: tuple[str, ...], met: bool) -> None:
    """What was not met in time is said, with those that have it. Where nobody follows, nobody is
    waited for."""
    some = Some(*holders)
    report = await durability(some, TWO, AT)
    assert report == http.DurabilityReport(TWO, met, sorted(holders))
    assert some.asked == [(AT, 2, REPLICATED_WAIT_S if holders else 0)]


async def test_nobody_follows_a_node_alone() -> None:
    """It answers at once."""
    assert await durability(NO_FOLLOWERS, ONE, AT) == http.DurabilityReport(ONE, False, [])


async def test_removals_ask_for_one_node_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revocations and deletions, at the position at which they were committed."""
    cluster = Cluster(tmp_path / "node")
    some = Some("fra-1")
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="one")
        mint = http.Mint(
            org="acme",
            kind="host",
            caveats=["action = secrets:read", "time < 2027-01-16T00:00:00Z"],
        )
        minted = await node.tokens.mint(cluster.operator, call(), mint)
        alone = await node.tokens.revoke(cluster.operator, call(), "acme", minted.id)
        assert alone.durability == http.DurabilityReport("local", True, [])
        monkeypatch.setattr(node.tokens._writes, "_followers", some)
        spread = http.DurabilityReport(ONE, True, ["fra-1"])
        revoked = await node.tokens.revoke(cluster.operator, call(), "acme", minted.id)
        destroyed = await node.secrets.destroy(
            cluster.operator, call(), "acme", "web", http.Destroy(names=["A"])
        )
        app = await node.orgs.delete_app(cluster.operator, call(), "acme", "web", True)
        org = await node.orgs.delete_org(cluster.operator, call(), "acme", False)
        for done in (revoked, destroyed, app, org):
            assert done.durability == spread
        positions = [str(position) for position, _, _ in some.asked]
        assert positions[:2] == [revoked.position, destroyed.position]
        assert positions[3] == str(node.writer.position)
        assert [rest for _, *rest in some.asked] == [[1, REMOVAL_WAIT_S]] * 4
