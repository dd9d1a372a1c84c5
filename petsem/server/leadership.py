"""Becoming leader of a database: the epoch is raised before the first write.

Guarantees: the number is bound durably in `state.json` before the transaction that uses it, so a
crash between the two leaves a number unused, never one used twice. A promotion records the role
together with the number, and what the node was bound to before, until `settle` says that it leads:
up to then it can be undone. Leases and elections are not here; with the embedded `static` leaser
the directory's only process leads.
"""

from __future__ import annotations

import dataclasses

import apsw

from petsem import limits
from petsem.errors import Code, PetsemError, conflict, unavailable
from petsem.model import Position
from petsem.replication.steps import ROLE_BEGIN, ROLE_RECORD, Reached, nothing
from petsem.server import sql
from petsem.server.database import read_position, read_refusal
from petsem.server.datadir import DataDir, NodeState
from petsem.server.schema import migrate, refuse_newer, version_of


def open_epoch(
    db: apsw.Connection,
    datadir: DataDir,
    node_id: str,
    now_ms: int,
    addresses: tuple[str, str, str],
    *,
    beyond: int | None = None,
    reached: Reached = nothing,
) -> Position:
    """Migrate the database if it is older, and begin this start's epoch in a transaction.

    `addresses` (HTTP, gRPC, peer) are where the node answers from this start on: `petsem.toml` may
    have changed since the last one. With `beyond` a replica is promoted: to an epoch well beyond
    that and all that it knows of.

    Raises `conflict` for a database that is not this node's to lead, `corrupt` for one that cannot
    be read, and `unavailable` if it cannot be written; then it may be called again.
    """
    state = datadir.read_state()
    if state.role != "leader" and beyond is None:
        raise conflict("this node is a replica; it follows the leader and cannot be started as one")
    try:
        _refuse_foreign(db, datadir)
        before = read_position(db)
        epoch = next_epoch(max(before.epoch, state.bound_epoch, beyond or 0), state)
        if state.role == "replica":
            reached(ROLE_RECORD)
            state = dataclasses.replace(
                state,
                role="leader",
                synced_txid=None,
                whole_in=None,
                undo_epoch=state.bound_epoch,
                undo_leader=state.bound_leader,
            )
        datadir.write_state(dataclasses.replace(state, bound_epoch=epoch, bound_leader=node_id))
        reached(ROLE_BEGIN)
        db.execute("BEGIN IMMEDIATE")
        migrate(db)
        position = begin_epoch(db, Position(epoch, before.txid + 1), node_id, now_ms)
        sql.run(
            db,
            "UPDATE nodes SET http = ?, grpc = ?, peer = ? WHERE id = ?",
            (*addresses, node_id),
        )
        db.execute("COMMIT")
    except (apsw.Error, PetsemError) as e:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if isinstance(e, apsw.FullError):
            raise unavailable("the disk is full; free space on it") from e
        refusal = None if isinstance(e, PetsemError) else read_refusal(e)
        if refusal is None:
            raise
        raise refusal from e
    return position


def next_epoch(highest: int, state: NodeState) -> int:
    """The epoch that this node begins after `highest`; `conflict` if there is none left."""
    epoch = highest + (1 if state.role == "leader" else limits.EPOCHS_SKIPPED)
    if epoch > limits.EPOCH_MAX:
        raise conflict(
            f"after epoch {highest} there is none left, so nobody can lead this cluster any more; "
            "make a new one and import into it what this one holds"
        )
    return epoch


def settle(datadir: DataDir) -> None:
    """A promotion is finished: from now on the node leads, whatever happens."""
    state = datadir.read_state()
    if state.undo_epoch is not None:
        datadir.write_state(dataclasses.replace(state, undo_epoch=None, undo_leader=None))


def as_replica(datadir: DataDir, position: Position) -> None:
    """Record that this node follows, with its database at `position` on the disk. An epoch that it
    began and never led in is not one that it is bound to."""
    state = datadir.read_state()
    if state.undo_epoch is not None and position.epoch < state.bound_epoch:
        state = dataclasses.replace(
            state, bound_epoch=state.undo_epoch, bound_leader=state.undo_leader
        )
    datadir.write_state(
        dataclasses.replace(
            state,
            role="replica",
            synced_txid=position.txid,
            whole_in=None,
            undo_epoch=None,
            undo_leader=None,
        )
    )


def _refuse_foreign(db: apsw.Connection, datadir: DataDir) -> None:
    """Refuse a database that is not the one that `node.json` was made with."""
    refuse_newer(db)
    if version_of(db) == 0:
        raise PetsemError(
            Code.CORRUPT, "the database is empty; restore the data directory from a backup"
        )
    cluster_id = sql.rows(db, "SELECT cluster_id FROM cluster")[0][0]
    if cluster_id != datadir.read_identity().cluster_id:
        raise conflict(
            "the database is another cluster's than node.json; restore both from one backup"
        )


def begin_epoch(db: apsw.Connection, position: Position, node_id: str, now_ms: int) -> Position:
    """Write the epoch's row and move to its first position, inside the caller's transaction."""
    sql.run(
        db,
        "INSERT INTO epochs (epoch, first_txid, leader, at) VALUES (?, ?, ?, ?)",
        (position.epoch, position.txid, node_id, now_ms),
    )
    sql.run(
        db,
        "INSERT INTO position (id, epoch, txid) VALUES (1, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, txid = excluded.txid",
        (position.epoch, position.txid),
    )
    return position
