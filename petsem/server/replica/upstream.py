"""Asking the node that this one follows.

Guarantees: requests go to whoever is followed now, over a connection of their own, so that a
snapshot on its way does not hold them up; a request that has passed too many nodes is refused, so
none goes in circles. Where the answer to a request that changes something is lost, the error is
`indeterminate`: it may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from petsem import limits
from petsem.errors import Code, PetsemError, invalid, unavailable
from petsem.server.peer.dial import FORWARD, ask, error_of
from petsem.server.replica.messages import is_its_own_word
from petsem.wire import petsem_pb2 as pb

M = TypeVar("M", bound=Message)

RECONNECT_S: Final = 1.0
"""How long a request waits for a connection: one that is made anew stands by then."""


class Upstream:
    """A channel beside the stream, while that runs. `node_id` is who is at its other end."""

    def __init__(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._connected = asyncio.Event()
        self.node_id: str | None = None

    @property
    def connected(self) -> bool:
        """Whether a node is followed now."""
        return self._channel is not None

    def set(self, channel: grpc.aio.Channel, node_id: str) -> None:
        """From now on, ask this node. Whoever opened the channel closes it, after `clear`."""
        channel.get_state(try_to_connect=True)
        self._channel, self.node_id = channel, node_id
        self._connected.set()

    def clear(self) -> None:
        """Nobody is followed now."""
        self._channel = self.node_id = None
        self._connected.clear()

    async def forward(
        self, request: pb.ForwardRequest, timeout_s: float, *, changes: bool = True
    ) -> pb.ForwardResponse:
        """The upstream's answer to a client's request. `changes`: it is more than a question.

        Raises `unavailable` if there is nobody to ask, and the upstream's own refusals.
        """
        if request.hops >= limits.FORWARD_HOPS_MAX:
            raise unavailable("the request has passed as many nodes as it may; ask the leader")
        passed = pb.ForwardRequest()
        passed.CopyFrom(request)
        passed.hops += 1
        data = passed.SerializeToString()
        if len(data) > limits.PEER_REQUEST_MAX_BYTES:
            raise invalid("the request is too large to be passed on", reason="TOO_LARGE")
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        channel = await self._wait(min(timeout_s, RECONNECT_S))
        call = channel.unary_unary(FORWARD, None, None)(data, timeout=ends_s - loop.time())
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

    async def ask(self, path: str, request: Message, reply: type[M], timeout_s: float) -> M:
        """Its reply to a call of the peer port that is safe to repeat."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        channel = await self._wait(min(timeout_s, RECONNECT_S))
        try:
            return await ask(channel, path, request, reply, timeout_s=ends_s - loop.time())
        except asyncio.CancelledError:
            _raise_if_cancelled()
            raise unavailable("the connection ended", retry_after_s=1) from None

    async def _wait(self, timeout_s: float) -> grpc.aio.Channel:
        """The channel, also if it only connects within this time."""
        # A channel may be closed under whoever waits for it, which gRPC calls an error of usage.
        with contextlib.suppress(TimeoutError, grpc.aio.UsageError):
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
                while (channel := self._channel) is not None:
                    state = channel.get_state(try_to_connect=True)
                    if state is grpc.ChannelConnectivity.READY:
                        return channel
                    await channel.wait_for_state_change(state)
        # Over a connection that does not stand, nothing has happened for certain.
        raise unavailable(
            "no other node can be reached from this one at the moment", retry_after_s=1
        )


def _raise_if_cancelled() -> None:
    """In the handler of a CancelledError: raise it on if this task is being cancelled. Else not the
    request was ended but the connection, by whoever follows over it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise


def _lost() -> PetsemError:
    return PetsemError(
        Code.INDETERMINATE,
        "the leader's answer was lost, so the change may have been made; read before repeating it",
    )
