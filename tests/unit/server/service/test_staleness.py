"""How old an answer of a replica may be, and what bounds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from petsem.clock import ManualClock
from petsem.errors import Code, PetsemError
from petsem.model import Position, Role
from petsem.server import policy
from petsem.server.cluster_view import ClusterView
from petsem.server.freshness import FreshnessSource
from petsem.server.principal import Names, Request
from petsem.server.service import waiting
from petsem.server.service.boot import Fetch
from petsem.server.service.staleness import check_verdict
from petsem.server.service.values import Wanted, values
from petsem.server.service.verify import VerifyItem
from petsem.server.stale import UNHEARD
from petsem.wire import http
from tests.support.following import follow
from tests.unit.server.cluster import Cluster, call

HERE = Position(1, 5)
DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that wait give up at once."""
    monkeypatch.setattr(waiting.until_fresh, "__defaults__", (0.0,))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A running node with acme/web in it."""
    cluster = Cluster(tmp_path / "node")
    async with cluster.running():
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="one")
        yield cluster


async def reads(cluster: Cluster) -> list[object]:
    """What each way to boot says: the value of A, or code and reason."""
    node = cluster.node
    request = Request(cluster.token, None)

    def authorize(db: Any) -> Any:
        return node.auth.authorize(db, request, policy.SECRETS_READ, Names("acme", "web"))

    async def fetch() -> object:
        return (await cluster.get("acme", "web"))["A"]

    async def over_http() -> object:
        found = await values(
            Wanted("acme", "web"),
            authorize,
            pool=node.pool,
            keys=node.keys,
            changes=node.changes,
            freshness=node.freshness,
        )
        return found.secrets["A"]

    said: list[object] = []
    for read in (fetch, over_http):
        try:
            said.append(await read())
        except PetsemError as e:
            said.append((e.code, e.detail.reason))
    return said


SERVED: list[object] = ["one", "one"]
REFUSED: list[object] = [(Code.STALE, UNHEARD)] * 2


@pytest.mark.parametrize(
    ("heard_s", "bound_s", "expected"),
    [
        (0, None, SERVED),
        (DAY_S, None, SERVED),
        (DAY_S + 1, None, REFUSED),
        (None, None, REFUSED),
        (2, 0, SERVED),
        (4, 0, REFUSED),
        (DAY_S + 1, 2 * DAY_S, SERVED),
    ],
)
async def test_boot_reads_end_with_the_org_s_bound(
    cluster: Cluster, heard_s: float | None, bound_s: int | None, expected: list[object]
) -> None:
    """A day without the leader by default; a leader that was heard just now is never too long
    ago."""
    patch = http.SettingsPatch(boot_max_staleness_s=bound_s)
    await cluster.node.orgs.patch_settings(cluster.operator, call(), "acme", patch)
    follow(cluster.node, heard_s=heard_s)
    assert await reads(cluster) == expected


async def test_the_leader_needs_no_word_of_itself(cluster: Cluster) -> None:
    """However long ago anything was heard."""
    cluster.node.freshness.view.remember_leader(10 * DAY_S * 1000)
    assert await reads(cluster) == SERVED


@pytest.mark.parametrize(
    ("age_s", "bound_s", "served"),
    [(0, None, True), (30, None, True), (31, None, False), (31, 60, True), (0.1, 0, False),
     (0, 0, True)],
)  # fmt: skip
async def test_verdicts_end_with_the_asker_s_bound(
    cluster: Cluster, age_s: float, bound_s: int | None, served: bool
) -> None:
    """Thirty seconds unless he says otherwise, in a verdict, a dry run and a batch."""
    follow(cluster.node, heard_s=age_s)
    request = Request(cluster.token, None)
    item = VerifyItem(cluster.token, {"org": "acme", "action": "web:deploy"}, bound_s)
    patient = VerifyItem(item.token, item.access, 10**6)
    verification = cluster.node.verification

    for ask in (
        lambda: verification.verify(request, [item]),
        lambda: verification.verify(request, [patient, item]),
        lambda: verification.can(request, item),
    ):
        if served:
            assert ask()
            continue
        with pytest.raises(PetsemError) as refused:
            ask()
        assert (refused.value.code, refused.value.detail.reason) == (Code.STALE, UNHEARD)


def test_a_leader_s_verdict_is_never_too_old_and_an_unknown_age_always() -> None:
    """A replica that hears the leader and does not get his data is old too."""
    clock = ManualClock()
    view = ClusterView(clock, role=Role.LEADER, synced=True)
    source = FreshnessSource("n", "r", clock, view)
    check_verdict(source, 0, HERE)
    view.role = Role.REPLICA
    view.leader_heard(HERE, ago_ms=0, epoch_seen=1)
    with pytest.raises(PetsemError, match="unknown age"):
        check_verdict(source, 10**6, HERE)


async def test_an_app_that_is_not_here_yet_is_waited_for(cluster: Cluster) -> None:
    """Whoever knows a version or position of it is not told that there is no such app."""
    follow(cluster.node)
    request = Request(cluster.token, None)
    for asked in (Fetch("acme", "new", min_version=1), Fetch("acme", "new", version=1)):
        with pytest.raises(PetsemError) as refused:
            await cluster.node.boot.fetch(request, "", asked)
        detail = refused.value.detail
        assert (refused.value.code, detail.have_version, detail.need_version) == (Code.STALE, 0, 1)
    have = cluster.node.writer.position
    need = Position(have.epoch, have.txid + 1)
    with pytest.raises(PetsemError) as refused:
        await cluster.node.boot.fetch(request, "", Fetch("acme", "new", min_position=need))
    assert refused.value.detail.need == need
    with pytest.raises(PetsemError) as refused:
        await cluster.node.boot.fetch(request, "", Fetch("acme", "new"))
    assert refused.value.code is Code.NOT_FOUND


async def test_a_durable_boot_read(cluster: Cluster) -> None:
    """The leader alone holds what a failover would find; a replica needs to be told."""
    request, asked = Request(cluster.token, None), Fetch("acme", "web", durable=True)
    await cluster.node.boot.fetch(request, "", asked)
    follow(cluster.node)
    with pytest.raises(PetsemError) as refused:
        await cluster.node.boot.fetch(request, "", asked)
    assert refused.value.code is Code.STALE
    cluster.node.freshness.view.replicated = cluster.node.writer.position
    await cluster.node.boot.fetch(request, "", asked)
