"""Reading values: one version, whole or not at all, and no older than was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server.policy import SECRETS_READ
from petsem.server.principal import Names, Principal, Request
from petsem.server.service.values import Wanted, values
from petsem.wire import http
from tests.support.following import follow
from tests.support.patience import PATIENCE_S
from tests.unit.server.cluster import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    found = Cluster(tmp_path / "node")
    async with found.running():
        await found.org("acme", "web")
        await found.set("acme", "web", A="one", B="beta")
        await found.set("acme", "web", A="two")
        yield found


async def _read(cluster: Cluster, **wanted: Any) -> http.SecretValues:
    node = cluster.node
    asked = Wanted("acme", "web", **wanted)

    def authorize(db: apsw.Connection) -> Principal:
        names = Names(asked.org, asked.app, filterable=True)
        return node.auth.authorize(db, Request(cluster.token, None), SECRETS_READ, names)

    return await values(
        asked,
        authorize,
        pool=node.pool,
        keys=node.keys,
        changes=node.changes,
        freshness=node.freshness,
    )


async def _fails(cluster: Cluster, **wanted: Any) -> PetsemError:
    with pytest.raises(PetsemError) as caught:
        await _read(cluster, **wanted)
    return caught.value


async def test_versions(cluster: Cluster) -> None:
    """The current version, any before it, and the empty one before all."""
    assert (await _read(cluster)).secrets == {"A": "two", "B": "beta"}
    assert (await _read(cluster, version=2)).secrets == {"A": "two", "B": "beta"}
    first = await _read(cluster, version=1, names=("A", "A"))
    assert (first.version, first.secrets) == (1, {"A": "one"})
    error = await _fails(cluster, version=3)
    assert (error.code, error.message) == (Code.NOT_FOUND, "acme/web has no version 3 yet")


async def test_a_replica_waits_for_a_version(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a leader does not have is not there; on a replica it may still come."""
    monkeypatch.setattr("petsem.server.service.waiting.WAIT_S", 0.0)
    follow(cluster.node)
    error = await _fails(cluster, version=3)
    assert (error.code, error.detail.have_version, error.detail.need_version) == (Code.STALE, 2, 3)


async def test_fences(cluster: Cluster) -> None:
    """A fence that holds lets the read through, and a lost one is told at once."""
    position = cluster.node.writer.position
    assert (await _read(cluster, min_position=position, min_version=2)).version == 2
    error = await _fails(cluster, min_position=Position(1, position.txid + 10))
    assert (error.code, error.detail.reason) == (Code.CONFLICT, "LOST")


async def test_waits_for_a_version(cluster: Cluster) -> None:
    """A read that asks for the next version waits until it is there."""
    reading = asyncio.create_task(_read(cluster, min_version=3))
    await asyncio.sleep(0)
    assert not reading.done()
    await cluster.set("acme", "web", A="three")
    async with asyncio.timeout(PATIENCE_S):
        found = await reading
    assert (found.version, found.secrets["A"]) == (3, "three")


async def test_durable(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `durable` only what a failover would keep is answered."""
    assert (await _read(cluster, durable=True)).version == 2
    monkeypatch.setattr("petsem.server.service.waiting.WAIT_S", 0.0)
    follow(cluster.node)
    error = await _fails(cluster, durable=True)
    assert (error.code, error.detail.have) == (Code.STALE, None)
    assert error.detail.need == cluster.node.writer.position
    assert (await _read(cluster)).version == 2


async def test_bytes(cluster: Cluster) -> None:
    """Text stays text; bytes that are not UTF-8 are base64."""
    await cluster.set("acme", "web", EMPTY="", TEXT="ü\0\n")
    found = (await _read(cluster, names=("EMPTY", "TEXT"))).secrets
    assert found == {"EMPTY": "", "TEXT": "ü\0\n"}
