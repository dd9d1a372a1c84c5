"""Which role this node has: taking one up, leaving it, and what makes it change.

Guarantees: one role at a time, and while it changes neither; a change that was cut off is finished
or undone by the next start; no epoch is used twice; a replica whose promotion fails is a replica
again. While another process keeps the database open, the change waits beside everything else and is
tried again, but a promotion that waits in vain is given up. With the embedded `static` leaser a
node leads because its directory says so, until it is promoted, or hears that somebody leads in a
higher epoch: then it becomes a replica, and what only it had is saved. Two that began the same
epoch, cut off from each other, do not stay so: the one with the greater id begins another.

It decides. The parts that it starts and stops do the work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from petsem.errors import PetsemError, conflict, invalid, not_found, unavailable
from petsem.model import Role, check_node
from petsem.replication.drivers.role_change import DatabaseInUse, enter_wal
from petsem.replication.steps import ROLE_DRAIN, ROLE_RECORD, Reached, nothing
from petsem.server.datadir import NodeState
from petsem.server.in_use import CHANGING, InUse
from petsem.server.leadership import as_replica
from petsem.server.leading import check_fit, forget_epoch, log_what_is_left, take_up
from petsem.server.mode_change import (
    create_empty,
    drop_wal,
    has_wal,
    needs_change,
    to_replica,
    was_replica,
)
from petsem.server.promoting import led, not_led
from petsem.server.store import nodes as rows
from petsem.wire import http

if TYPE_CHECKING:
    from petsem.server.node import Node

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LOOK_S: Final = 1.0
_ASK_S: Final = 5.0
"""How often a leader asks the members that do not follow it whom they follow."""


class Roles:
    """The node's role."""

    def __init__(self, node: Node, *, reached: Reached = nothing) -> None:
        self._node = node
        self._reached = reached
        self._changing = asyncio.Lock()
        self._in_use = InUse(node.pool, node.view, node.helper)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up the role that the directory records; later, if another process has the database
        open and that has to end first."""
        async with self._changing:
            try:
                await self._take_up()
            except DatabaseInUse:
                # A leader's, then, which can be read meanwhile.
                self._node.view.synced = True
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
        if self._changing.locked():
            raise unavailable(node.view.waits or CHANGING, retry_after_s=1)
        async with self._changing:
            view = node.view
            if view.role is not Role.REPLICA:
                raise conflict("this node leads already, or is changing its role")
            if not view.synced:
                raise conflict(f"{view.lacking}, so it cannot lead")
            if view.removed is not None:
                raise conflict(view.removed)
            seen = view.epoch_seen
            await self._on_helper(partial(check_fit, node.datadir, node.identity, seen))
            lost = http.MayBeLost(
                leader=None if view.leader is None else view.leader.node,
                leader_position=None if view.leader_position is None else str(view.leader_position),
                transactions=view.lag_transactions(),
                leader_seen_ms_ago=view.leader_seen_ms_ago(),
            )
            await self._leave()
            try:
                await self._lead(beyond=seen)
            except Exception as e:
                await self._follow_after(e)
                raise not_led(node_id, e) from e
            position = node.writer.position
            log.warning("promoted", position=str(position), seen_epoch=seen)
            return http.NodePromoted(
                node=node_id,
                epoch=position.epoch,
                position=str(position),
                may_be_lost=lost,
                message=led(node_id, position, lost),
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
            await self._follow()

    def _require_own(self, node_id: str) -> None:
        own = self._node.identity.node_id
        if node_id == own:
            return
        check_node(node_id)
        with self._node.pool.reading() as db:
            if rows.find(db, node_id) is None:
                raise not_found(f"there is no node {node_id}; see 'petsem node list'")
        raise invalid(f"this node is {own}; send the request to {node_id} itself")

    async def _take_up(self) -> None:
        node = self._node
        state = await self._state()
        if state.role != "leader":
            await self._follow()
        elif node.view.epoch_seen > state.bound_epoch or await node.replication.leads_elsewhere():
            log.warning("not_leading", message="another node leads in a higher epoch")
            await self._follow()
        else:
            try:
                await self._lead()
            except Exception as e:
                if (await self._state()).undo_epoch is None:
                    raise
                await self._follow_after(e)

    async def _lead(self, *, beyond: int | None = None) -> None:
        """Lead from now on. `beyond`: this node was a replica, and its epoch is to be higher than
        that."""
        node = self._node
        node.space.restore()
        if was_replica(node.datadir.database):
            change = partial(enter_wal, node.datadir.database, reached=self._reached)
            await self._in_use.until_free(change)
            node.pool.pause(CHANGING)
        db, capture = await self._on_helper(
            partial(
                take_up,
                node.writer,
                node.datadir,
                node.identity,
                node.config,
                node.space,
                node.clock.unix_ms(),
                beyond=beyond,
                reached=self._reached,
            )
        )
        node.pool.resume()
        view = node.view
        # Already here: whatever fails from now on, this role is what has to be left.
        view.role = Role.LEADER
        await node.writer.start(db, capture)
        if not capture.table.complete:
            node.scanning.start(capture.scan)
        view.synced, view.problem = True, None
        view.path = (node.identity.node_id,)
        view.knows(node.writer.position.epoch)
        await node.replication.lead()
        await node.keyring.start()
        node.housekeeping.start()
        node.changes.publish_all()

    async def _follow_after(self, error: Exception) -> None:
        """Follow again, after a promotion that `error` has ended."""
        exc_info = None if isinstance(error, PetsemError) else error
        log.error("promotion_failed", message=str(error), exc_info=exc_info)
        if self._node.view.role is Role.LEADER:
            await self._leave()
        try:
            await self._follow()
        except Exception as e:
            # It is tried again, beside everything else.
            log.error("role_change_failed", message=str(e))

    async def _follow(self) -> None:
        node = self._node
        node.space.restore()
        state = await self._state()
        if state.role == "leader" or needs_change(node.datadir.database):
            await self._finish_leading_offline(state)
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
        node.pool.pause(CHANGING)

    async def _finish_leading_offline(self, state: NodeState) -> None:
        """A database that led last, or was to: its WAL into the log, then the mode of a replica.
        What an unfinished promotion wrote is taken back instead: nobody was answered from it."""
        node, datadir = self._node, self._node.datadir
        unfinished = state.undo_epoch is not None
        if unfinished:
            await self._in_use.until_free(partial(drop_wal, datadir.database))
        elif state.role == "leader" or has_wal(datadir.database):
            await self._on_helper(
                partial(log_what_is_left, node.writer, datadir, node.clock.unix_ms())
            )
        position = await self._in_use.until_free(
            partial(to_replica, datadir.database, reached=self._reached)
        )
        if unfinished:
            await self._on_helper(partial(forget_epoch, datadir, position))
        self._reached(ROLE_RECORD)
        await self._on_helper(partial(as_replica, datadir, position))

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
            except DatabaseInUse:
                continue  # It was said.
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
            view.heard_of(epoch)
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

    async def _state(self) -> NodeState:
        return await self._on_helper(self._node.datadir.read_state)

    async def _on_helper(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._node.helper, call)
