"""Probes, and a node that cannot do everything."""

from __future__ import annotations

from pathlib import Path

from petsem.crypto.keys import Purpose
from tests.unit.server.api.world import SECRETS, Api
from tests.unit.server.cluster import Cluster, flip


async def test_probes(api: Api) -> None:
    """A node that does everything is alive and ready, without a token."""
    assert (await api.get("/healthz", token=None)) == {"status": "ok"}
    assert (await api.get("/readyz", token=None)) == {"ready": True}


async def test_stopping(api: Api) -> None:
    """A node that is stopping is alive and not ready, and says why."""
    api.node.status.draining = True
    assert (await api.ask("GET", "/healthz", token=None)).status == 200
    answer = await api.ask("GET", "/readyz", token=None)
    assert answer.error == (503, "unavailable", None)
    assert answer.json["details"] == {"reasons": ["the node is stopping"], "retry_after_s": 1}


async def test_without_a_kek(tmp_path: Path) -> None:
    """A node that lacks a KEK names it, refuses what needs it, and serves the rest."""
    cluster = Cluster(tmp_path / "node")
    async with cluster.running():
        await Api(cluster).furnish()
    missing = cluster.kek(Purpose.SECRETS)
    cluster.remove_kek(missing)
    async with cluster.running():
        api = Api(cluster)
        assert (await api.ask("GET", "/readyz", token=None)).status == 200
        assert [s["name"] for s in (await api.get(SECRETS))["secrets"]] == ["A", "B"]
        for answer in (
            await api.ask("GET", SECRETS + "/values"),
            await api.ask("PATCH", SECRETS, body={"set": {"C": "c"}}),
        ):
            assert answer.error == (503, "unavailable", None)
            assert missing in answer.json["message"]


async def test_damage(tmp_path: Path) -> None:
    """A flipped byte in a value is `corrupt` and names the secret; in the boot bundle, nothing."""
    cluster = Cluster(tmp_path / "node")
    async with cluster.running():
        await Api(cluster).furnish()
    with cluster.stopped() as db:
        flip(db, "bundles", "envelope", "1")
    async with cluster.running():
        values = await Api(cluster).get(SECRETS + "/values")
        assert values["secrets"] == {"A": "alpha", "B": "beta"}
    with cluster.stopped() as db:
        flip(db, "secrets", "envelope", "name = 'B'")
    async with cluster.running():
        api = Api(cluster)
        answer = await api.ask("GET", SECRETS + "/values")
        assert answer.error == (500, "corrupt", None)
        assert "B is damaged" in answer.json["message"]
        assert (await api.get(SECRETS + "/values", names="A"))["secrets"] == {"A": "alpha"}
        assert (await api.set(C="c"))["version"] == 2
