"""Following another node, for as long as this one is a replica.

Guarantees: whatever a stream or the disk does, it goes on trying, with pauses that grow and differ
between nodes; `view.problem` says in one sentence what keeps it. Calls to the disk come one at a
time and are not cut short, except by a `stop` that waited in vain. It decides nothing about
promotion, and never drops this node's own branch beyond what the disk allows by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

import grpc
import structlog

from petsem.errors import Code, PetsemError
from petsem.replication.session.backoff import Backoff
from petsem.replication.session.follow import Broken, Own
from petsem.server.peer.dial import STREAM, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.replica import messages
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.errors import BadFrame, NeedsOperator, NotContiguous
from petsem.server.replica.following import Following
from petsem.server.replica.parts import Again, FollowParts
from petsem.server.replica.upstream import Upstream

log = structlog.get_logger(__name__)

BAD_FRAMES_IN_A_ROW: Final = 3
"""Then the files do not fit what is here, whoever is to blame: a snapshot puts it right."""
FIRST_ALONE_ROUNDS: Final = 3
SETTLED_S: Final = 10.0
STOP_S: Final = 10.0
CLOSE_S: Final = 5.0
"""How long requests that are under way over the old connection may still take."""
_USELESS: Final = frozenset(
    {Code.DENIED, Code.UNAUTHENTICATED, Code.INVALID, Code.CORRUPT, Code.INTERNAL}
)


class Follow:
    """The replica's side of replication. `candidates` says whom to dial, best first."""

    def __init__(
        self,
        parts: FollowParts,
        own: OwnCertificate,
        upstream: Upstream,
        candidates: Callable[[], list[Candidate]],
    ) -> None:
        self._parts = parts
        self._own = own
        self._upstream = upstream
        self._candidates = candidates
        self._lost = Backoff(*parts.timings.lost_s)
        self._refused = Backoff(*parts.timings.refused_s)
        self._wake = asyncio.Event()
        self._stopping = False
        self._accepted = False
        self._asks = False
        self._bad_frames = 0
        self._doubted = False
        self._rounds_failed = 0
        self._began_s = 0.0
        self._logged: str | None = None
        self._following: Following | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._run(), name="follow")

    async def stop(self) -> None:
        """Follow no more. What has arrived is stored before this returns."""
        self._stopping = True
        self._wake.set()
        if self._following is not None:
            self._following.end(Again())
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for closing in list(self._closing):
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def moved(self) -> None:
        """Call it when the disk's durable or applied position moved, and it is acknowledged."""
        if self._following is not None:
            self._following.moved()

    def again(self) -> None:
        """Call it when the disk's `needs_snapshot` changed by itself: hello is said anew."""
        if self._following is not None:
            self._following.end(Again())

    def accept_loss(self) -> bool:
        """An operator accepts that this node's own branch is dropped where the next stream says
        so; try now. False, and nothing is accepted, if the node does not wait for that."""
        if self._asks:
            self._accepted = True
            self._wake.set()
        return self._asks

    async def _run(self) -> None:
        while not self._stopping:
            pause_s = await self._round()
            if pause_s and not self._stopping:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
                self._wake.clear()

    async def _round(self) -> float:
        """Try whom there is until one could be followed; how long to wait after that."""
        candidates = self._candidates()
        if not candidates:
            self._problem("no other node of the cluster is known; set [peer] upstream")
        # A leader that is started anew is back in a moment: no reason to leave it.
        if self._rounds_failed < FIRST_ALONE_ROUNDS:
            del candidates[1:]
        useless = False
        for index, candidate in enumerate(candidates):
            try:
                await self._attempt(candidate, best=index == 0)
            except Again:
                self._rounds_failed = 0
                break
            except Exception as error:
                useless |= self._failed(candidate, error)
                if self._settled:
                    self._rounds_failed = 0
                    break
        else:
            self._rounds_failed += 1
        backoff = self._refused if useless else self._lost
        return backoff.next_s(random.random())  # noqa: S311 (no secret)

    async def _attempt(self, candidate: Candidate, *, best: bool) -> None:
        """Follow one node until that ends, which an exception says."""
        parts, own = self._parts, self._hello()
        hello = messages.hello(
            own, parts.identity.region, parts.disk.epochs(), list(parts.describe().keks)
        )

        channel, asking = self._channel(candidate), self._channel(candidate)
        call = channel.stream_stream(STREAM, None, None)()  # type: ignore[call-arg]

        def welcomed(node_id: str) -> None:
            self._upstream.set(asking, node_id)
            log.info("following", node=node_id, path=list(parts.view.path))

        following = Following(
            call,
            hello.SerializeToString(),
            own,
            parts,
            expected=candidate.node_id,
            welcomed=welcomed,
            heard=self._heard,
            forced=self._accepted,
            best=best,
        )
        self._following = following
        self._began_s = asyncio.get_running_loop().time()
        if self._stopping:
            following.end(Again())
        try:
            await following.run()
        finally:
            self._following = None
            self._upstream.clear()
            parts.view.path = ()
            if following.storing.rolled_back:
                self._accepted = self._asks = False
            if following.storing.stored:
                self._bad_frames = 0
                self._asks = False
            if self._settled:
                self._lost.reset()
            call.cancel()
            self._close(channel)
            self._close(asking)

    def _channel(self, candidate: Candidate) -> grpc.aio.Channel:
        own = self._own
        return peer_channel(own.tls, own.cluster_id, candidate.address, candidate.node_id)

    @property
    def _settled(self) -> bool:
        """Whether the stream has run for so long that it was not in vain."""
        return asyncio.get_running_loop().time() - self._began_s > SETTLED_S

    def _hello(self) -> Own:
        parts, disk = self._parts, self._parts.disk
        # Where files do not fit, only a snapshot helps; to who has no position one is sent.
        anew = disk.needs_snapshot or self._bad_frames >= BAD_FRAMES_IN_A_ROW
        return Own(
            parts.identity.node_id,
            parts.identity.cluster_id,
            None if anew else disk.durable,
            parts.view.epoch_seen,
            disk.resume,
        )

    def _heard(self) -> None:
        """A heartbeat came."""
        # Who lied, or refused, may begin just as well as before.
        if self._doubted and not self._settled:
            return
        self._doubted = False
        self._parts.view.problem = self._logged = None
        self._refused.reset()

    def _failed(self, candidate: Candidate, error: Exception) -> bool:
        """Say why; whether trying again at once is of no use."""
        where = candidate.node_id or candidate.address
        useless = True
        match error:
            case Broken():
                useless = error.lie
                self._problem(f"{where} cannot be followed: {error.rule}")
            case BadFrame():
                self._bad_frames += 1
                useless = self._bad_frames > BAD_FRAMES_IN_A_ROW
                self._problem(f"{where} sent data that does not hold ({error.reason})")
            case NotContiguous():
                useless = False
                self._problem(f"{where} sent data that does not follow what this node has")
            case NeedsOperator():
                self._asks = True
                self._problem(error.message)
            case PetsemError():
                useless = error.code in _USELESS
                self._problem(f"{where}: {error.message}")
            case _:
                log.error("following_failed", node=where, exc_info=error)
                self._problem(f"{where}: internal error; see this node's log")
        self._doubted |= useless
        return useless

    def _problem(self, sentence: str) -> None:
        self._parts.view.problem = sentence
        # It tries every few seconds; the log hears of each problem once.
        if sentence != self._logged:
            self._logged = sentence
            log.warning("not_following", message=sentence)

    def _close(self, channel: grpc.aio.Channel) -> None:
        """Let requests that were passed on end, beside what comes next."""
        task = asyncio.create_task(channel.close(CLOSE_S), name="follow-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
