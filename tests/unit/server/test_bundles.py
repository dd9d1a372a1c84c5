"""Boot bundles: what they hold, when they are made, and that losing one loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from petsem.crypto.digest import etag
from petsem.crypto.envelope import Record
from petsem.errors import Code, PetsemError
from petsem.server.bundles import ETAG_BYTES, Bundles
from petsem.server.changes import REVOCATIONS
from petsem.server.keys import Owner
from petsem.server.store import orgs, secrets
from petsem.server.writer import Txn
from petsem.wire import petsem_pb2 as pb
from tests.support.nodes import Running, running


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        await node.patch({"B": "beta", "A": b"\xff"})
        yield node


def owner_of(node: Running) -> Owner:
    with node.node.pool.reading() as db:
        org, app = orgs.get_app(db, "acme", "web")
    return app.owner(org.uid)


def opened(node: Running, owner: Owner, version: int) -> tuple[bytes, bytes] | None:
    """What is in the stored bundle, if it is this owner's of this version."""
    with node.node.pool.reading() as db:
        stored = secrets.read_bundle(db, owner.app or 0)
        assert stored is not None
        return Bundles(node.node.keys).open(db, owner, version, stored[1])


async def finish(node: Running, *topics: object) -> None:
    """Run the writer's last step for these topics alone."""

    def job(txn: Txn) -> None:
        for topic in topics:
            Bundles(node.node.keys).finish(txn, topic, [None])

    await node.node.writer.submit(job)


async def test_a_bundle_is_the_whole_answer(node: Running) -> None:
    """The etag over the reply, then the reply with every value."""
    owner = owner_of(node)
    found = opened(node, owner, 1)
    assert found is not None
    with node.node.pool.reading() as db:
        key = node.node.keys.primary(db, owner)
    assert found[0] == etag(key, owner.incarnation, found[1])
    assert len(found[0]) == ETAG_BYTES
    assert pb.FetchResponse.FromString(found[1]) == pb.FetchResponse(
        version=1,
        secrets=[
            pb.Secret(name="A", value=b"\xff", version=1),
            pb.Secret(name="B", value=b"beta", version=1),
        ],
    )


async def test_a_bundle_opens_in_its_place_only(node: Running) -> None:
    """For another version, app or org it is damaged: that is said once for an app, and nothing of
    it is told."""
    await node.create_app("acme", "api")
    owner = owner_of(node)
    with structlog.testing.capture_logs() as logs:
        assert opened(node, owner, 2) is None
        with node.node.pool.reading() as db:
            _, envelope = secrets.read_bundle(db, owner.app or 0) or (0, b"")
            org, api = orgs.get_app(db, "acme", "api")
            bundles = Bundles(node.node.keys)
            for place in (api.owner(org.uid), api.owner(bytes(16))):
                assert bundles.open(db, place, 1, envelope) is None
    assert opened(node, owner, 1) is not None
    assert [record["event"] for record in logs] == ["bundle_damaged", "bundle_damaged"]


async def test_a_value_is_not_taken_for_a_bundle(node: Running) -> None:
    """Each record type is sealed as such, so none answers for another."""
    owner = owner_of(node)
    forged = bytes(ETAG_BYTES) + pb.FetchResponse(version=1).SerializeToString()

    def job(txn: Txn) -> None:
        sealed = node.node.keys.seal(txn.db, owner, owner.place(Record.VALUE, b"", 1), forged)
        secrets.write_bundle(txn.db, owner.app or 0, 1, sealed)

    await node.node.writer.submit(job)
    assert opened(node, owner, 1) is None
    assert await node.values() == {"A": b"\xff", "B": b"beta"}


async def test_only_apps_have_bundles(node: Running) -> None:
    """Other topics of a group, and apps that are gone by its end, are nothing to be made."""
    before = node.rows("SELECT * FROM bundles")
    await finish(node, REVOCATIONS, 10_000)
    assert node.rows("SELECT * FROM bundles") == before


async def test_a_lost_bundle_can_be_made_again(node: Running) -> None:
    """From the rows, with the same content."""
    owner = owner_of(node)
    before = opened(node, owner, 1)
    await node.tamper("DELETE FROM bundles")
    await finish(node, owner.app)
    assert opened(node, owner, 1) == before


async def test_one_that_cannot_be_made_is_dropped(node: Running) -> None:
    """A damaged value leaves no bundle behind, not even the one before, and the log names no
    value."""
    owner = owner_of(node)
    await node.flip("secrets", "envelope", "name = 'A'")
    with structlog.testing.capture_logs() as logs:
        await finish(node, owner.app)
    assert node.rows("SELECT * FROM bundles") == []
    assert [(record["event"], "beta" in repr(record)) for record in logs] == [
        ("bundle_dropped", False)
    ]


async def test_a_value_that_was_destroyed_is_not_found(node: Running) -> None:
    """It is no damage, and it is no empty value."""
    await node.patch({"A": "new"})
    await node.destroy("A", version=1)
    owner = owner_of(node)
    with node.node.pool.reading() as db:
        old = secrets.at_version(db, owner.app or 0, 1)[0]
        with pytest.raises(PetsemError) as error:
            Bundles(node.node.keys).value(db, owner, old)
    assert (error.value.code, old.name) == (Code.NOT_FOUND, "A")


async def from_rows(node: Running) -> tuple[bytes, bytes]:
    """What the bundle of the app is when it is made from the rows."""
    owner = owner_of(node)
    with node.node.pool.reading() as db:
        _, app = orgs.get_app(db, "acme", "web")
        current = secrets.current(db, app.id)
        return Bundles(node.node.keys).from_rows(db, owner, app.version, current)


async def test_batches_make_the_next_bundle_out_of_the_last(node: Running) -> None:
    """Whatever batches set and unset, alone or several in one group, the bundle is to the byte what
    the rows would give."""
    await asyncio.gather(
        node.patch({"A": "again", "C": "new"}),
        node.patch({"A": "once more", "B": "b"}, unset=["C"]),
        node.patch({"D": b""}, unset=["B"]),
    )
    assert opened(node, owner_of(node), 4) == await from_rows(node)
    await node.patch({"0_IS_NO_NAME".lstrip("0"): "sorts first", "Z": "z"})
    assert opened(node, owner_of(node), 5) == await from_rows(node)


async def test_a_damaged_value_does_not_keep_a_batch_from_the_bundle(node: Running) -> None:
    """The bundle is whole, so a batch that touches another name goes on from it."""
    await node.flip("secrets", "envelope", "name = 'A'")
    await node.patch({"B": "changed"})
    found = opened(node, owner_of(node), 2)
    assert found is not None
    values = {each.name: each.value for each in pb.FetchResponse.FromString(found[1]).secrets}
    assert values == {"A": b"\xff", "B": b"changed"}


async def test_a_bundle_of_another_version_is_not_gone_on_from(node: Running) -> None:
    """One that was left behind, by a restore of some rows say, is made anew."""
    await node.tamper("UPDATE bundles SET version = 0")
    await node.patch({"B": "changed"})
    assert opened(node, owner_of(node), 2) == await from_rows(node)
