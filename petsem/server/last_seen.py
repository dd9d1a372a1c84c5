"""When a token was last verified by any node, for people who wonder whether it is still in use.

Guarantees: verifying costs a comparison, and a note in this node's memory at most every ten
minutes for a token; nobody waits for the rest. Once a minute a replica hands its notes to the node
that it follows, and the leader writes those that moved by ten minutes, in one transaction of
bounded size, or none.

It is no audit. A node that ends forgets its notes of the last minute; where more tokens are in use
than a minute's transaction holds, the times lag; and a node of the cluster can say of any token
that it was used.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from petsem import limits
from petsem.clock import Clock
from petsem.errors import PetsemError, invalid
from petsem.model import Role
from petsem.server.cluster_view import ClusterView
from petsem.server.database import ReadPool
from petsem.server.peer.dial import SEEN
from petsem.server.peer.handlers import PeerMethod
from petsem.server.peer.membership import Member
from petsem.server.replica.upstream import Upstream
from petsem.server.seen_notes import SeenNotes
from petsem.server.store import last_seen as rows
from petsem.server.writer import Txn, Writer
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

_EVERY_S: Final = 60.0
_ANSWER_WITHIN_S: Final = 10.0
_CALLS: Final = 16
"""How many calls a replica makes in a minute at most."""
_NONCE_BYTES: Final = 16


class LastSeen:
    """Takes the notes of this node, and of those that follow it, to where they are kept."""

    def __init__(
        self,
        *,
        notes: SeenNotes,
        clock: Clock,
        view: ClusterView,
        pool: ReadPool,
        writer: Writer,
        upstream: Upstream,
    ) -> None:
        self._notes = notes
        self._clock = clock
        self._view = view
        self._pool = pool
        self._writer = writer
        self._upstream = upstream
        self._task: asyncio.Task[None] | None = None
        self.method = PeerMethod(SEEN, pb.SeenRequest, self._answer)

    def start(self) -> None:
        """Begin; the first turn comes after a minute."""
        self._task = asyncio.create_task(self._run(), name="last-seen")

    async def stop(self) -> None:
        """End, and forget what is in memory."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def turn(self) -> None:
        """Hand the notes on, as this node's role has it. Never raises."""
        try:
            if self._view.role is Role.LEADER:
                await self._write()
            elif self._view.role is Role.REPLICA:
                await self._send()
        except PetsemError as e:
            log.info("last_seen_waits", message=e.message)
        except Exception as e:
            log.error("last_seen_failed", exc_info=e)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.turn()

    async def _write(self) -> None:
        some = self._notes.some(limits.SEEN_MAX)
        with self._pool.snapshot() as db:
            moved = rows.moved(db, some)
        if moved:

            def job(txn: Txn) -> int:
                return rows.write(txn.db, moved)

            await self._writer.submit(job)
        self._notes.forget(some)

    async def _send(self) -> None:
        for _ in range(_CALLS):
            some = self._notes.some(limits.SEEN_MAX)
            if not some:
                return
            request = pb.SeenRequest(
                tokens=[pb.SeenToken(token=nonce, at_ms=at) for nonce, at in some.items()]
            )
            await self._upstream.ask(SEEN, request, pb.SeenResponse, _ANSWER_WITHIN_S)
            self._notes.forget(some)

    async def _answer(self, _: Member, request: pb.SeenRequest) -> pb.SeenResponse:
        """What a follower has seen becomes a note of this node."""
        if len(request.tokens) > limits.SEEN_MAX or any(
            len(each.token) != _NONCE_BYTES for each in request.tokens
        ):
            raise invalid("a call names at most 1,000 tokens, by their ids of 16 bytes")
        now_ms = self._clock.unix_ms()
        for each in request.tokens:
            # A clock that is ahead must not keep a token looking as if it were in use.
            self._notes.note(each.token, min(each.at_ms, now_ms))
        return pb.SeenResponse()
