"""Following another node, for as long as this one is a replica.

Guarantees: whatever a stream or the disk does, it goes on trying, with pauses that grow and differ
between nodes; `view.problem` says in one sentence what keeps it. Calls to the disk come one at a
time and are not cut short, except by a `stop` that waited in vain. It decides nothing about
promotion, and never drops this node's own branch beyond what the disk allows by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
import structlog

from petsem.errors import Code, PetsemError
from petsem.replication.session.backoff import Backoff
from petsem.replication.session.follow import Broken, Own, Rule
from petsem.server.peer.dial import STREAM, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.replica import messages
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.errors import BadFrame, NeedsOperator, NotContiguous, OwnDisk
from petsem.server.replica.following import Following
from petsem.server.replica.own_word import described
from petsem.server.replica.parts import LOOP, Again, FollowParts
from petsem.server.replica.probe import name_of
from petsem.server.replica.upstream import Upstream
from petsem_client.failures import safe_text

log = structlog.get_logger(__name__)

BAD_FRAMES_IN_A_ROW: Final = 3
"""Then the files do not fit what is here, whoever is to blame: a snapshot puts it right."""
FIRST_ALONE_ROUNDS: Final = 3
SETTLED_S: Final = 10.0
STOP_S: Final = 10.0
CLOSE_S: Final = 5.0
"""How long requests that are under way over the old connection may still take."""
NAME_HOLDS_S: Final = 60.0
"""How long it is believed who answers, or that nobody does, at an address that is no member's."""
_USELESS: Final = frozenset(
    {Code.DENIED, Code.UNAUTHENTICATED, Code.INVALID, Code.CORRUPT, Code.INTERNAL}
)


class _Weight(enum.IntEnum):
    """How much a failure says about why this node follows nobody."""

    LOOP = 1
    OTHER = 2
    OWN = 3
    """Whomever it asks, it will be so."""


_NOTHING: Final = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt that failed. `useless`: the same again at once would be."""

    sentence: str
    useless: bool
    weight: _Weight = _Weight.OTHER


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
        self._doubted = self._stuck = False
        self._rounds_failed = 0
        self._began_s = 0.0
        self._logged: str | None = None
        self._asked_s: float | None = None
        self._answered: str | None = None
        self._weight = _NOTHING
        """The weight of the problem that the view names, of this round."""
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
        await self._upstream.close()
        self._parts.view.ignored_upstream = None

    def moved(self) -> None:
        """Call it when the disk's durable or applied position moved, and it is acknowledged."""
        if self._stuck:
            self._stuck = False
            self._parts.view.problem = self._logged = None
        if self._following is not None:
            self._following.moved()

    def again(self) -> None:
        """Call it when the disk's `needs_snapshot` changed by itself: hello is said anew."""
        if self._following is not None:
            self._following.end(Again())

    def members_changed(self) -> None:
        """Call it when the members may be others: who is none any more is followed and asked no
        more."""
        has = self._parts.roster.has
        if self._following is not None:
            self._following.leave_unless(has)
        self._upstream.leave(has)

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
        candidates = await self._named(self._candidates())
        if not candidates:
            why = self._parts.view.ignored_upstream
            self._problem(why or "no other node of the cluster is known; set [peer] upstream")
        # A leader that is started anew is back in a moment: no reason to leave it.
        if self._rounds_failed < FIRST_ALONE_ROUNDS:
            del candidates[1:]
        # What is wrong with this node itself outlives the round.
        self._weight = _Weight.OWN if self._stuck else _NOTHING
        failures: list[_Failure] = []
        for index, candidate in enumerate(candidates):
            try:
                await self._attempt(candidate, best=index == 0)
            except Again:
                self._rounds_failed = 0
                break
            except Exception as error:
                failures.append(self._failed(candidate, error))
                if isinstance(error, OwnDisk):
                    break
                if self._settled:
                    self._rounds_failed = 0
                    break
        else:
            follows_us = any(each.weight is _Weight.LOOP for each in failures)
            self._rounds_failed += FIRST_ALONE_ROUNDS if follows_us else 1
        # One node that is of no use is no reason to wait for the others.
        useless = bool(failures) and all(each.useless for each in failures)
        backoff = self._refused if useless else self._lost
        return backoff.next_s(random.random())  # noqa: S311 (no secret)

    async def _named(self, found: list[Candidate]) -> list[Candidate]:
        """Candidates whose name is known, once this node can tell who is a member. An address of
        `petsem.toml` that is no member's is followed only if who answers there proves to be one."""
        roster = self._parts.roster
        if not roster.known:
            return found
        ignored, named = None, []
        for candidate in found:
            if candidate.node_id is not None:
                named.append(candidate)
                continue
            name = await self._name_of(candidate.address)
            if name is not None and roster.has(name):
                named.append(Candidate(candidate.address, name))
            else:
                ignored = _ignored(candidate.address, name)
        if ignored not in (None, self._parts.view.ignored_upstream):
            log.warning("upstream_ignored", message=ignored)
        self._parts.view.ignored_upstream = ignored
        return named

    async def _name_of(self, address: str) -> str | None:
        now_s = asyncio.get_running_loop().time()
        if self._asked_s is None or now_s - self._asked_s > NAME_HOLDS_S:
            self._asked_s = now_s
            identity = self._parts.identity
            self._answered = await name_of(address, self._own, self._hello(), identity)
        return self._answered

    async def _attempt(self, candidate: Candidate, *, best: bool) -> None:
        """Follow one node until that ends, which an exception says."""
        parts, own = self._parts, self._hello()
        hello = messages.hello(
            own, parts.identity.region, parts.disk.epochs(), list(described(parts.describe).keks)
        )

        channel = self._channel(candidate)
        call = channel.stream_stream(STREAM, None, None)()  # type: ignore[call-arg]

        def welcomed(node_id: str) -> None:
            self._upstream.follow(Candidate(candidate.address, node_id))
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
            self._upstream.follow_no_more()
            parts.view.goes()
            if following.storing.rolled_back:
                self._accepted = self._asks = False
            if following.storing.stored:
                self._bad_frames = 0
                self._asks = False
            if self._settled:
                self._lost.reset()
            call.cancel()
            self._close(channel)

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
            parts.view.epoch_known,
        )

    def _heard(self) -> None:
        """A heartbeat came."""
        # Who lied, or refused, may begin just as well as before.
        if (self._doubted or self._stuck) and not self._settled:
            return
        self._doubted = self._stuck = False
        self._parts.view.problem = self._logged = None
        self._weight = _NOTHING
        self._refused.reset()

    def _failed(self, candidate: Candidate, error: Exception) -> _Failure:
        """Say why, unless what this round found before says more."""
        where = candidate.node_id or candidate.address
        found = self._failure(where, error)
        self._doubted |= found.useless
        if found.weight > self._weight:
            self._weight = found.weight
            self._problem(found.sentence, _transport(error))
        return found

    def _failure(self, where: str, error: Exception) -> _Failure:
        match error:
            case Broken(rule=Rule.LOOP):
                return _Failure(f"{where} follows this node itself", False, _Weight.LOOP)
            case Broken():
                return _Failure(f"{where} cannot be followed: {error.rule}", error.lie)
            case BadFrame():
                self._bad_frames += 1
                return _Failure(
                    f"{where} sent data that does not hold ({error.reason})",
                    self._bad_frames > BAD_FRAMES_IN_A_ROW,
                )
            case NotContiguous():
                return _Failure(f"{where} sent data that does not follow what this node has", False)
            case NeedsOperator():
                self._asks = True
                return _Failure(error.message, True, _Weight.OWN)
            case OwnDisk():
                self._stuck = True
                return _Failure(error.message, False, _Weight.OWN)
            case PetsemError() if error.detail.reason == LOOP:
                return _Failure(f"{where} follows this node itself", False, _Weight.LOOP)
            case PetsemError():
                return _Failure(f"{where}: {error.message}", error.code in _USELESS)
            case _:
                log.error("following_failed", node=where, exc_info=error)
                return _Failure(f"{where}: internal error; see this node's log", True, _Weight.OWN)

    def _problem(self, sentence: str, transport: str | None = None) -> None:
        self._parts.view.problem = sentence
        # It tries every few seconds; the log hears of each problem once.
        if sentence != self._logged:
            self._logged = sentence
            said = {} if transport is None else {"transport": transport}
            log.warning("not_following", message=sentence, **said)

    def _close(self, channel: grpc.aio.Channel) -> None:
        """Let requests that were passed on end, beside what comes next."""
        task = asyncio.create_task(channel.close(CLOSE_S), name="follow-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _transport(error: Exception) -> str | None:
    """What gRPC said, for the log alone."""
    cause = error.__cause__
    return safe_text(cause.details() or "") if isinstance(cause, grpc.aio.AioRpcError) else None


def _ignored(address: str, name: str | None) -> str:
    if name is None:
        what = f"which is no member's address, and no node of the cluster answers at {address}"
    else:
        what = f"where {name} answers, which is no member of the cluster, or not any more"
    return (
        f"[peer] upstream in petsem.toml is {address}, {what}; set it anew to the peer address of "
        "a node that 'petsem node list' shows, or take it out"
    )
