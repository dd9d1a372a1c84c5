"""Asking other nodes what this one cannot answer itself.

Guarantees: a request goes to whom this node follows, or, while it follows nobody or that one knows
no leader, to the leader itself and then by way of other members: whether this node's own stream is
up, or its disk full, does not matter. Everybody is dialled by his name, over a connection of its
own, so that a snapshot on its way does not hold requests up. A request that has passed one node
goes only to whom that one follows, or to the leader, and one that has passed too many to nobody, so
none goes in circles. Where the answer to a request that changes something is lost, the error is
`indeterminate`: it may have happened.

Who may be asked is for `roster` and `candidates` to say. It does not know who leads better than
they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from petsem import limits
from petsem.errors import Code, PetsemError, invalid, unavailable
from petsem.server.forward import NO_LEADER_HEADER, NoLeader
from petsem.server.peer.dial import FORWARD, ask, error_of, is_its_own_word
from petsem.server.replica.candidates import Askable, Candidate
from petsem.server.replica.lines import Lines
from petsem.wire import petsem_pb2 as pb

M = TypeVar("M", bound=Message)

RECONNECT_S: Final = 1.0
"""How long a request waits for a connection: one that is made anew stands by then."""
FIND_S: Final = 4.0
"""How long a request looks for a leader at most, by way of other nodes too."""
_IN_VAIN_S: Final = 2.0
"""How long it is believed that nobody can be reached."""
_UNWELCOME: Final = frozenset({Code.UNAUTHENTICATED, Code.DENIED})


class Upstream:
    """`dial` opens a channel to a node by its name; `askable` says whom there is, now. `node_id` is
    who is followed."""

    def __init__(
        self,
        dial: Callable[[Candidate], grpc.aio.Channel],
        askable: Callable[[], Askable] = Askable,
    ) -> None:
        self._lines = Lines(dial)
        self._askable = askable
        self._followed: Candidate | None = None
        self._last: Candidate | None = None
        self._in_vain_until_s = 0.0

    @property
    def node_id(self) -> str | None:
        """Who is followed now."""
        return None if self._followed is None else self._followed.node_id

    @property
    def connected(self) -> bool:
        """Whether it is of use to ask: somebody is followed, or may be reached as far as is
        known."""
        if self._followed is not None:
            return True
        now_s = asyncio.get_running_loop().time()
        return now_s >= self._in_vain_until_s and bool(self._order(far=True))

    def follow(self, node: Candidate) -> None:
        """From now on, ask this node first."""
        self._followed = self._last = node
        self._in_vain_until_s = 0.0
        self._lines.keep(node)

    def follow_no_more(self) -> None:
        """The stream has ended. Requests that are on their way go on, and the connection stays."""
        self._followed = None

    def leave(self, has: Callable[[str], bool]) -> None:
        """End all that goes to nodes which `has` does not know."""
        for node in self._lines.nodes():
            if not has(node):
                self._lines.drop(node)
        if self._followed is not None and not has(self._followed.node_id or ""):
            self._followed = None
        if self._last is not None and not has(self._last.node_id or ""):
            self._last = None

    async def close(self) -> None:
        """End what is under way, and ask nobody until somebody is followed again."""
        self._followed = self._last = None
        await self._lines.close()

    async def forward(
        self, request: pb.ForwardRequest, timeout_s: float, *, changes: bool = True
    ) -> pb.ForwardResponse:
        """The answer to a client's request. `changes`: it is more than a question.

        Raises `NoLeader` if there is nobody to ask, and the other node's own refusals.
        """
        if request.hops >= limits.FORWARD_HOPS_MAX:
            raise NoLeader("the request has passed as many nodes as it may; ask the leader")
        passed = pb.ForwardRequest()
        passed.CopyFrom(request)
        passed.hops += 1
        data = passed.SerializeToString()
        if len(data) > limits.PEER_REQUEST_MAX_BYTES:
            raise invalid("the request is too large to be passed on", reason="TOO_LARGE")
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        find_s = min(ends_s, loop.time() + FIND_S)
        asked: list[str] = []
        while True:
            node, channel = await self._reach(request.hops == 0, asked, find_s)
            try:
                response = await _forward(channel, data, ends_s - loop.time(), changes=changes)
            except PetsemError as error:
                if error.code not in _UNWELCOME:
                    raise
                # It is this node that is not let in there, not its client.
                self._lines.drop(node)
            else:
                if all(each.name != NO_LEADER_HEADER.decode() for each in response.headers):
                    return response
            asked.append(node)

    async def ask(self, path: str, request: Message, reply: type[M], timeout_s: float) -> M:
        """The reply to a call of the peer port that is safe to repeat."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        _, channel = await self._reach(True, (), ends_s)
        try:
            return await ask(channel, path, request, reply, timeout_s=ends_s - loop.time())
        except asyncio.CancelledError:
            _raise_if_cancelled()
            raise unavailable("the connection ended", retry_after_s=1) from None

    def _order(self, *, far: bool) -> list[Candidate]:
        """Whom to ask, best first. `far`: also those that would have to pass it on."""
        found = self._askable()
        order = [self._followed] if self._followed is not None else []
        if found.leader is not None:
            order.append(found.leader)
        if far:
            order.extend(found.others)
        if not order and self._last is not None:
            # Without data nobody else is known.
            order.append(self._last)
        found_first: dict[str | None, Candidate] = {}
        for each in order:
            found_first.setdefault(each.node_id, each)
        return list(found_first.values())

    async def _reach(
        self, far: bool, asked: Sequence[str], ends_s: float
    ) -> tuple[str, grpc.aio.Channel]:
        """The first connection that stands, to somebody who was not asked before."""
        loop = asyncio.get_running_loop()
        until_s = min(ends_s, loop.time() + RECONNECT_S)

        def order() -> list[Candidate]:
            return [each for each in self._order(far=far) if each.node_id not in asked]

        found = await self._lines.first(order, until_s)
        if found is not None:
            return found
        if not asked:
            self._in_vain_until_s = loop.time() + _IN_VAIN_S
        # Over a connection that does not stand, nothing has happened for certain.
        raise NoLeader(self._nobody(asked))

    def _nobody(self, asked: Sequence[str]) -> str:
        leader = self._askable().leader
        by_way_of = f", nor does {' or '.join(asked)} reach it" if asked else ""
        if leader is not None:
            return f"the leader {leader.node_id} cannot be reached from this node{by_way_of}"
        if self._last is None or asked:
            by_way_of = f", nor on {', '.join(asked)}" if asked else ""
            return f"no leader is known on this node{by_way_of}; see 'petsem status'"
        return f"{self._last.node_id}, which this node followed, cannot be reached from it"


async def _forward(
    channel: grpc.aio.Channel, data: bytes, timeout_s: float, *, changes: bool
) -> pb.ForwardResponse:
    try:
        # A channel that is closed meanwhile is an error of usage to gRPC.
        call = channel.unary_unary(FORWARD, None, None)(data, timeout=timeout_s)
    except grpc.aio.UsageError:
        raise unavailable("the connection ended", retry_after_s=1) from None
    try:
        return pb.ForwardResponse.FromString(await call)
    except grpc.aio.AioRpcError as error:
        if not changes or is_its_own_word(error):
            raise error_of(error) from None
        raise _lost() from None
    except DecodeError:
        raise _lost() from None
    except asyncio.CancelledError:
        _raise_if_cancelled()
        raise (_lost() if changes else unavailable("the connection ended")) from None


def _raise_if_cancelled() -> None:
    """In the handler of a CancelledError: raise it on if this task is being cancelled. Else not the
    request was ended but the connection."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise


def _lost() -> PetsemError:
    return PetsemError(
        Code.INDETERMINATE,
        "the leader's answer was lost, so the change may have been made; read before repeating it",
    )
