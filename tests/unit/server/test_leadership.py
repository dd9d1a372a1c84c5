"""Epochs: one is raised at each start, bound before it is used, and none is used twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem import limits
from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server import leadership, sql
from petsem.server.database import open_writer, read_position
from petsem.server.leadership import open_epoch
from petsem.server.node import build_node
from petsem.server.schema import SCHEMA_VERSION
from tests.support.failing_vfs import FULL, IO, FailingVfs
from tests.support.nodes import Running, Site

ADDRESSES = ("127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "node")


@pytest.fixture
def db(site: Site) -> Iterator[apsw.Connection]:
    db = open_writer(site.datadir.database)
    yield db
    db.close()


def start(site: Site, db: apsw.Connection) -> Position:
    """Begin an epoch as this node's next start would."""
    return open_epoch(db, site.datadir, "ams-1", 1_000, ADDRESSES)


def epochs(db: apsw.Connection) -> list[sql.Row]:
    return sql.rows(db, "SELECT epoch, first_txid, leader FROM epochs WHERE epoch > 1")


def test_each_start_begins_an_epoch_in_a_transaction_of_its_own(
    site: Site, db: apsw.Connection
) -> None:
    """The number and the TXID go up by one, and the row says whose epoch it is."""
    assert start(site, db) == read_position(db) == Position(2, 2)
    assert start(site, db) == read_position(db) == Position(3, 3)
    assert epochs(db) == [(2, 2, "ams-1"), (3, 3, "ams-1")]
    state = site.datadir.read_state()
    assert (state.bound_epoch, state.bound_leader) == (3, "ams-1")


async def test_the_cluster_learns_where_a_node_answers_now(site: Site) -> None:
    """An address that was changed in petsem.toml is the one that status and node list show."""
    config = site.datadir.config_file
    config.write_text(
        config.read_text().replace('# bind = "127.0.0.1:7400"', 'bind = "[::1]:8400"')
    )
    async with site.running() as node:
        listed = node.node.status.nodes().nodes[0]
        told = node.node.status.status().nodes[0]
    assert (listed.http, listed.grpc) == (told.http, told.grpc) == ("[::1]:8400", "127.0.0.1:7401")
    assert listed.peer == "127.0.0.1:7402"


def test_a_number_is_bound_on_the_disk_before_it_is_used(
    site: Site, db: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between binding and the transaction leaves a number unused, never one used twice."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(leadership, "begin_epoch", crash)
        with pytest.raises(KeyboardInterrupt):
            start(site, db)
    db.execute("ROLLBACK")
    assert site.datadir.read_state().bound_epoch == 2
    assert read_position(db) == Position(1, 1)
    assert start(site, db) == Position(3, 2)
    assert epochs(db) == [(3, 2, "ams-1")]


def test_a_database_ahead_of_the_binding_is_followed(site: Site, db: apsw.Connection) -> None:
    """A state file older than the database (a restored one) does not make an epoch come again."""
    start(site, db)
    start(site, db)
    state = site.datadir.read_state()
    site.datadir.write_state(dataclasses.replace(state, bound_epoch=1))
    assert start(site, db) == Position(4, 4)


def test_a_binding_ahead_of_the_database_is_honoured(site: Site, db: apsw.Connection) -> None:
    """A database older than what the node bound itself to goes on above the binding."""
    state = site.datadir.read_state()
    site.datadir.write_state(dataclasses.replace(state, bound_epoch=9))
    assert start(site, db) == Position(10, 2)


def test_a_replica_does_not_lead(site: Site, db: apsw.Connection) -> None:
    """A directory whose role is replica is refused, and nothing is bound."""
    state = dataclasses.replace(site.datadir.read_state(), role="replica")
    site.datadir.write_state(state)
    with pytest.raises(PetsemError) as refused:
        start(site, db)
    assert refused.value.code is Code.CONFLICT
    assert site.datadir.read_state() == state


def test_a_newer_schema_is_refused_before_anything_is_bound(
    site: Site, db: apsw.Connection
) -> None:
    """A program that is too old changes neither the state file nor the database."""
    sql.run(db, "UPDATE schema SET version = ?", (SCHEMA_VERSION + 1,))
    before = site.datadir.read_state()
    with pytest.raises(PetsemError) as refused:
        start(site, db)
    assert refused.value.code is Code.CONFLICT
    assert site.datadir.read_state() == before
    assert read_position(db) == Position(1, 1)


def test_the_database_of_another_cluster_is_refused(site: Site, tmp_path: Path) -> None:
    """A database that was put under another cluster's node.json is not led by mistake."""
    other = Site(tmp_path / "other")
    db = open_writer(other.datadir.database)
    with pytest.raises(PetsemError) as refused:
        start(site, db)
    db.close()
    assert refused.value.code is Code.CONFLICT
    assert site.datadir.read_state().bound_epoch == 1


def test_an_empty_database_is_corrupt(site: Site, tmp_path: Path) -> None:
    """A database file that lost its content is not filled anew under an old identity."""
    db = open_writer(tmp_path / "petsem.db", create=True)
    with pytest.raises(PetsemError) as refused:
        start(site, db)
    assert refused.value.code is Code.CORRUPT
    assert sql.rows(db, "SELECT * FROM sqlite_schema") == []
    db.close()


@pytest.mark.parametrize("error", [FULL, IO])
def test_a_disk_that_fails_is_unavailable_and_can_be_asked_again(
    site: Site, error: type[apsw.Error]
) -> None:
    """When the epoch's transaction fails, its number is skipped and the next try succeeds."""
    vfs = FailingVfs()
    db = open_writer(site.datadir.database, vfs=vfs.name)
    vfs.fail("write", "-wal", 0, error)
    with pytest.raises(PetsemError) as refused:
        start(site, db)
    assert refused.value.code is Code.UNAVAILABLE
    vfs.heal()
    assert start(site, db) == Position(3, 2)
    db.close()


async def test_a_node_starts_on_a_full_disk_and_serves_reads(tmp_path: Path) -> None:
    """With the ballast given back there is room for the epoch; writes are refused, reads go on."""
    vfs = FailingVfs()
    site = Site(tmp_path / "node", vfs=vfs.name)
    async with site.running() as node:
        await node.furnish()
        await node.patch({"A": "alpha"})
        ballast = node.node.datadir.ballast
    assert ballast.exists()
    node = build_node(site.datadir, {}, clock=site.clock, vfs=vfs.name)
    node.space._free = lambda _: 0 if ballast.exists() else 4096

    def exhausted() -> None:
        ballast.unlink()
        node.space._exhausted = True
        vfs.heal()

    node.space.exhausted = exhausted  # type: ignore[method-assign]
    vfs.fail("write", "-wal", 0, FULL)
    await node.start()
    running = Running(site, node)
    assert await running.values() == {"A": b"alpha"}
    with pytest.raises(PetsemError) as refused:
        await running.patch({"B": "beta"})
    assert refused.value.code is Code.UNAVAILABLE
    await node.stop()


def test_a_promotion_leaves_room_for_an_old_leader(site: Site, db: apsw.Connection) -> None:
    """Which begins the next number at each start: the promoted one is far beyond all that is known,
    and what the node was bound to before is there until it leads."""
    state = dataclasses.replace(site.datadir.read_state(), role="replica", synced_txid=1)
    for known, beyond in ((1, 0), (1, 7), (9, 7)):
        site.datadir.write_state(dataclasses.replace(state, bound_epoch=known, bound_leader="x-1"))
        epoch = read_position(db).epoch
        highest = max(known, beyond, epoch)
        at = open_epoch(db, site.datadir, "ams-1", 1_000, ADDRESSES, beyond=beyond)
        assert at.epoch == highest + limits.EPOCHS_SKIPPED
        now = site.datadir.read_state()
        assert (now.role, now.bound_epoch, now.bound_leader) == ("leader", at.epoch, "ams-1")
        assert (now.synced_txid, now.undo_epoch, now.undo_leader) == (None, known, "x-1")
        # Tried again before it is settled: it is undone to the same.
        again = open_epoch(db, site.datadir, "ams-1", 1_000, ADDRESSES, beyond=beyond)
        assert again.epoch == at.epoch + 1
        assert site.datadir.read_state().undo_epoch == known
        leadership.settle(site.datadir)
        assert site.datadir.read_state().undo_epoch is None


def test_an_unfinished_promotion_is_undone(site: Site) -> None:
    """The node is bound to what it was, unless its data is of the new epoch; one that had led stays
    bound to what it led in."""
    begun = dataclasses.replace(
        site.datadir.read_state(), bound_epoch=1_030, undo_epoch=6, undo_leader="x-1"
    )
    for state, at, bound in (
        (begun, Position(5, 9), (6, "x-1")),
        (begun, Position(1_030, 10), (1_030, begun.bound_leader)),
        (dataclasses.replace(begun, undo_epoch=None), Position(5, 9), (1_030, begun.bound_leader)),
    ):
        site.datadir.write_state(state)
        leadership.as_replica(site.datadir, at)
        found = site.datadir.read_state()
        assert (found.bound_epoch, found.bound_leader) == bound
        assert (found.role, found.synced_txid) == ("replica", at.txid)
        assert (found.undo_epoch, found.undo_leader) == (None, None)


def test_there_is_an_end_to_epochs(site: Site, db: apsw.Connection) -> None:
    """The last one may be used; after it the start is refused in a sentence, with nothing bound."""
    state = dataclasses.replace(site.datadir.read_state(), bound_epoch=limits.EPOCH_MAX - 1)
    site.datadir.write_state(state)
    assert start(site, db).epoch == limits.EPOCH_MAX
    with pytest.raises(PetsemError) as refused:
        start(site, db)
    assert refused.value.code is Code.CONFLICT
    assert site.datadir.read_state().bound_epoch == limits.EPOCH_MAX
