"""Which role this node has: taking one up, leaving it, and what makes it change.

Guarantees: one role at a time, and while it changes neither; a change that was cut off is finished
or undone by the next start; no epoch is used twice. With the embedded `static` leaser a node leads
because its directory says so, until it is promoted, or hears that somebody leads in a higher epoch:
then it becomes a replica, and what only it had is saved. Two that began the same epoch, cut off
from each other, do not stay so: the one with the greater id begins another.

It decides. The parts that it starts and stops do the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from petsem.errors import PetsemError, conflict, invalid
from petsem.model import Position, Role
from petsem.replication.drivers.role_change import DatabaseInUse, enter_wal
from petsem.replication.steps import ROLE_DRAIN, ROLE_RECORD, Reached, nothing
from petsem.server.leading import log_what_is_left, take_up
from petsem.server.mode_change import create_empty, needs_change, to_replica, was_replica
from petsem.server.schema import refuse_newer
from petsem.wire import http

if TYPE_CHECKING:
    from petsem.server.node import Node

log = structlog.get_logger(__name__)

T = TypeVar("T")

_CHANGING: Final = "the node is changing its role; ask another node, or again in a moment"
_IN_USE_PAUSE_S: Final = 0.25
_LOOK_S: Final = 1.0
_ASK_S: Final = 5.0
"""How often a leader asks the members that do not follow it whom they follow."""


class Roles:
    """The node's role."""

    def __init__(self, node: Node, *, reached: Reached = nothing) -> None:
        self._node = node
        self._reached = reached
        self._changing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up the role that the directory records."""
        await self._take_up()
        self._watch = asyncio.create_task(self._look(), name="roles")

    async def stop(self) -> None:
        """Leave the role, in order, for the end of the process."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        async with self._changing:
            await self._leave()

    async def promote(self, node_id: str, *, force: bool) -> http.NodePromoted:
        """Make this node the leader; `conflict` if it is not the one that was named, leads already,
        or was not told to do without the others."""
        node = self._node
        self._require_own(node_id)
        if not force:
            raise conflict(
                "the static leaser asks nobody, so a promotion takes --force: make sure that the "
                "old leader is gone, then say so"
            )
        async with self._changing:
            view = node.view
            if view.role is not Role.REPLICA:
                raise conflict("this node leads already, or is changing its role")
            if not view.synced:
                raise conflict("this node never received the data, so it cannot lead")
            with node.pool.reading() as db:
                refuse_newer(db)
            lost = http.MayBeLost(
                leader=None if view.leader is None else view.leader.node,
                leader_position=None if view.leader_position is None else str(view.leader_position),
                transactions=view.lag_transactions(),
                leader_seen_ms_ago=view.leader_seen_ms_ago(),
            )
            seen = view.epoch_seen
            await self._leave()
            self._reached(ROLE_RECORD)
            state = node.datadir.read_state()
            node.datadir.write_state(
                dataclasses.replace(
                    state,
                    role="leader",
                    bound_epoch=max(state.bound_epoch, seen),
                    synced_txid=None,
                )
            )
            await self._lead()
            position = node.writer.position
            log.warning("promoted", position=str(position), seen_epoch=seen)
            return http.NodePromoted(
                node=node_id,
                epoch=position.epoch,
                position=str(position),
                may_be_lost=lost,
                message=_said(node_id, position, lost),
            )

    def accept_loss(self, node_id: str) -> http.NodeLossAccepted:
        """Give up the branch of this node that it keeps until an operator says so; `conflict` if
        there is none."""
        self._require_own(node_id)
        if not self._node.replication.accept_loss():
            raise conflict("this node keeps no branch of its own that waits for an operator")
        log.warning("loss_accepted")
        return http.NodeLossAccepted(
            node=node_id,
            message=f"{node_id} saves its own branch under lost/ in its data directory, and "
            "follows the leader",
        )

    async def step_down(self, why: str) -> None:
        """Stop leading and follow, because somebody leads in a higher epoch."""
        async with self._changing:
            if self._node.view.role is not Role.LEADER:
                return
            log.warning("stepping_down", message=why)
            self._reached(ROLE_DRAIN)
            await self._leave()
            await self._finish_leading_offline()
            await self._follow()

    def _require_own(self, node_id: str) -> None:
        own = self._node.identity.node_id
        if node_id != own:
            raise invalid(f"this node is {own}; send the request to {node_id} itself")

    async def _take_up(self) -> None:
        node = self._node
        state = node.datadir.read_state()
        if state.role != "leader":
            await self._follow()
        elif node.view.epoch_seen > state.bound_epoch or await node.replication.leads_elsewhere():
            log.warning("not_leading", message="another node leads in a higher epoch")
            await self._finish_leading_offline()
            await self._follow()
        else:
            await self._lead()

    async def _lead(self) -> None:
        node = self._node
        node.space.restore()
        if was_replica(node.datadir.database):
            change = partial(enter_wal, node.datadir.database, reached=self._reached)
            await self._until_free(change)
            node.pool.pause(_CHANGING)
        db, capture = await self._on_helper(
            partial(
                take_up,
                node.writer,
                node.datadir,
                node.identity,
                node.config,
                node.space,
                node.clock.unix_ms(),
            )
        )
        node.pool.resume()
        await node.writer.start(db, capture)
        if not capture.table.complete:
            node.scanning.start(capture.scan)
        view = node.view
        view.role, view.synced, view.problem = Role.LEADER, True, None
        view.path = (node.identity.node_id,)
        view.epoch_seen = max(view.epoch_seen, node.writer.position.epoch)
        await node.replication.lead()
        await node.keyring.start()
        node.housekeeping.start()
        node.changes.publish_all()

    async def _follow(self) -> None:
        node = self._node
        node.space.restore()
        if needs_change(node.datadir.database):
            await self._finish_leading_offline()
        create_empty(node.datadir.database)
        node.pool.resume()
        node.view.role = Role.REPLICA
        await node.replication.follow()
        node.changes.publish_all()

    async def _leave(self) -> None:
        """Stop everything of the role that the node has."""
        node, was = self._node, self._node.view.role
        node.view.role = Role.UNKNOWN
        node.view.replicated = None
        if was is Role.LEADER:
            await node.housekeeping.stop()
            await node.scanning.stop()
            await node.replication.leave()
            await node.writer.stop()
        elif was is Role.REPLICA:
            await node.replication.leave()
        node.changes.publish_all()
        node.pool.pause(_CHANGING)

    async def _finish_leading_offline(self) -> None:
        """A database that led last: its WAL into the log, then the mode of a replica."""
        node = self._node
        await self._on_helper(
            partial(log_what_is_left, node.writer, node.datadir, node.clock.unix_ms())
        )
        await self._become_replica()

    async def _become_replica(self) -> None:
        node = self._node
        position = await self._until_free(
            partial(to_replica, node.datadir.database, reached=self._reached)
        )
        self._reached(ROLE_RECORD)
        state = node.datadir.read_state()
        node.datadir.write_state(
            dataclasses.replace(state, role="replica", synced_txid=position.txid)
        )

    async def _until_free(self, change: Callable[[], T]) -> T:
        """The result of `change`, tried again while somebody has the database open; reads go on
        meanwhile, from the file as the leader left it."""
        node = self._node
        while True:
            node.pool.pause(_CHANGING)
            try:
                return await self._on_helper(change)
            except DatabaseInUse as e:
                log.warning("role_change_waits", message=e.message)
                node.pool.resume()
                await asyncio.sleep(_IN_USE_PAUSE_S)

    async def _look(self) -> None:
        """See to it that a leader learns of a newer epoch, whoever knows of it, and that a change
        which failed is tried again."""
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        while True:
            await asyncio.sleep(_LOOK_S)
            role = self._node.view.role
            ask = role is Role.LEADER and loop.time() - asked_s >= _ASK_S
            if ask:
                asked_s = loop.time()
            try:
                if role is Role.UNKNOWN:
                    await self._try_again()
                elif role is Role.LEADER:
                    await self._look_around(ask=ask)
            except PetsemError as e:
                log.error("role_change_failed", message=e.message)
            except Exception as e:
                log.error("role_change_failed", exc_info=e)

    async def _try_again(self) -> None:
        async with self._changing:
            if self._node.view.role is Role.UNKNOWN:
                await self._take_up()

    async def _look_around(self, *, ask: bool) -> None:
        view, identity = self._node.view, self._node.identity
        own = self._node.writer.position.epoch
        if ask and view.epoch_seen <= own:
            epoch, leader = await self._node.replication.led_elsewhere(own)
            view.epoch_seen = max(view.epoch_seen, epoch)
            if epoch == own and leader not in ("", identity.node_id):
                await self._part_from(leader)
                return
        if view.epoch_seen > own:
            await self.step_down(f"somebody has seen epoch {view.epoch_seen}")

    async def _part_from(self, leader: str) -> None:
        """Another node began the same epoch. Nodes that are bound to one of the two would refuse
        the other for ever: one begins another epoch, and the other one hears of it."""
        if leader > self._node.identity.node_id:
            return
        async with self._changing:
            if self._node.view.role is Role.LEADER:
                log.warning("begins_another_epoch", message=f"{leader} leads in this one too")
                await self._leave()
                await self._lead()

    async def _on_helper(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._node.helper, call)


def _said(node_id: str, position: Position, lost: http.MayBeLost) -> str:
    leads = f"{node_id} leads from epoch {position.epoch} on."
    leader = lost.leader or "the old leader"
    if lost.transactions is None or lost.leader_seen_ms_ago is None:
        return f"{leads} What {leader} had beyond {position} is not known, and lost to the cluster"
    ago = f"{lost.leader_seen_ms_ago / 1000:.1f} s ago"
    if lost.transactions == 0:
        return (
            f"{leads} It had everything that {leader} was last heard to have, {ago}; what that "
            "committed later is lost to the cluster"
        )
    return (
        f"{leads} {leader} was {lost.transactions:,} transactions ahead when it was last heard, "
        f"{ago}; those and what it committed later are lost to the cluster"
    )
