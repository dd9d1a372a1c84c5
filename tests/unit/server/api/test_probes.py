"""Probes, and a node that cannot do everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from petsem.crypto.keys import Purpose
from tests.unit.server.api.world import SECRETS, Api
from tests.unit.server.cluster import Cluster, flip


async def test_probes(api: Api) -> None:
    """A node that does everything is alive and ready, without a token."""
    assert (await api.get("/healthz", token=None)) == {"status": "ok"}
    assert (await api.get("/readyz", token=None)) == {"ready": True}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_by_head(api: Api, path: str) -> None:
    """As GET, whatever that says, but for the body; other routes do not take it."""
    for draining in (False, True):
        api.node.status.draining = draining
        told = await api.ask("GET", path, token=None)
        head = await api.ask("HEAD", path, token=None)
        assert (head.status, head.content) == (told.status, b"")
        assert head.headers == told.headers
        assert int(head.headers["content-length"]) == len(told.content) > 0
    assert (await api.ask("HEAD", SECRETS)).status == 405


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


async def test_strangers_do_not_hear_where_the_keyring_is(tmp_path: Path) -> None:
    """Which key is missing is told to whoever asks, and to those who may read the status where
    to put it."""
    cluster = Cluster(tmp_path / "node")
    async with cluster.running():
        await Api(cluster).furnish()
    missing = cluster.kek(Purpose.TOKENS)
    cluster.remove_kek(missing)
    async with cluster.running():
        api = Api(cluster)
        answer = await api.ask("GET", "/readyz", token=None)
        (reason,) = answer.json["details"]["reasons"]
        assert f"tokens key {missing}" in reason
        assert "add it to its keyring, then send the node SIGHUP" in reason
        assert str(tmp_path) not in answer.content.decode()
        (node,) = (await api.get("/v1/status"))["nodes"]
        assert str(cluster.datadir.default_keyring) in node["warnings"][0]


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
