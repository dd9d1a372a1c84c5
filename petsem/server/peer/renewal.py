"""A node's own certificate, renewed while the node runs.

Guarantees: at two thirds of its life a new one is asked for, and until there is one again and
again, with growing pauses; a certificate that is not this node's is never put in its place. It
does not know who answers: on the leader that is the node itself, elsewhere `Peer.Renew` at the
leader. A replica that was away past the end of its certificate cannot ask any more: it has to be
removed and to join again, and `warning` says so. The leader can, whenever it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import grpc
import structlog

from petsem.clock import Clock, rfc3339
from petsem.errors import PetsemError
from petsem.server.peer.dial import RENEW, ask, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.service.nodes import Nodes
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

Ask = Callable[[bytes], Awaitable[bytes]]
"""From a certificate request (PEM) to the certificate (PEM)."""


@dataclass(frozen=True, slots=True)
class LeaderAt:
    """The peer address (HOST:PORT) of the leader, and its id where that is known."""

    address: str
    node_id: str | None = None


LOOK_AGAIN_S: Final = 3600.0
"""The longest sleep: wall clocks are set, and machines sleep."""
PAUSE_FIRST_S: Final = 60.0
TIMEOUT_S: Final = 20.0


class Renewal:
    """Keeps `own` good. `ask` gets the new certificate."""

    def __init__(self, own: OwnCertificate, clock: Clock, ask: Ask) -> None:
        self._own = own
        self._clock = clock
        self._ask = ask
        self._pause_s = PAUSE_FIRST_S
        self._task: asyncio.Task[None] | None = None
        self.last_error: str | None = None

    @property
    def due_ms(self) -> int:
        """When to renew: at two thirds of the certificate's life."""
        start, end = self._own.validity
        return start + (end - start) * 2 // 3

    @property
    def warning(self) -> str | None:
        """What an operator should know: that it could not be renewed, or has ended."""
        end = self._own.validity[1]
        if self._clock.unix_ms() >= end:
            why = "" if self.last_error is None else f" ({self.last_error})"
            return (
                f"the node's certificate has ended on {rfc3339(end)}, so the other nodes refuse "
                f"it{why}; unless it leads, remove it with 'petsem node remove' and join it again "
                "in a new directory"
            )
        if self.last_error is None:
            return None
        return (
            f"the node's certificate ends on {rfc3339(end)} and could not be renewed: "
            f"{self.last_error}"
        )

    def start(self) -> None:
        """Begin to look after it."""
        self._task = asyncio.create_task(self._run(), name="renewal")

    async def stop(self) -> None:
        """Leave it as it is."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def step(self) -> float:
        """Renew if it is time; how many seconds to wait until the next look. Never raises."""
        left_ms = self.due_ms - self._clock.unix_ms()
        if left_ms > 0:
            return min(left_ms / 1000, LOOK_AGAIN_S)
        try:
            certificate = await self._ask(self._own.csr())
            await asyncio.to_thread(self._own.replace, certificate)
        except PetsemError as e:
            self.last_error = e.message
            log.warning("certificate_not_renewed", message=e.message)
        except Exception as e:
            self.last_error = type(e).__name__
            log.error("certificate_not_renewed", exc_info=e)
        else:
            self.last_error = None
            self._pause_s = PAUSE_FIRST_S
            log.info("certificate_renewed", until=rfc3339(self._own.validity[1]))
            return PAUSE_FIRST_S
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, LOOK_AGAIN_S)
        return pause_s

    async def _run(self) -> None:
        while True:
            pause_s = await self.step()
            await asyncio.sleep(pause_s)


def asking(own: OwnCertificate, nodes: Nodes, leader: Callable[[], LeaderAt | None]) -> Ask:
    """What a `Renewal` asks with: this node itself while it leads (`leader` answers None), else
    the leader over a connection of its own."""

    async def ask_leader(csr: bytes) -> bytes:
        at = leader()
        if at is None:
            return await nodes.renew(own.node_id, csr)
        channel = peer_channel(own.tls, own.cluster_id, at.address, at.node_id)
        try:
            return await renew_over(channel, csr)
        finally:
            await channel.close(None)

    return ask_leader


async def renew_over(channel: grpc.aio.Channel, csr: bytes) -> bytes:
    """The certificate that the leader at the other end of `channel` gives this node."""
    request = pb.RenewRequest(csr=csr)
    reply = await ask(channel, RENEW, request, pb.RenewResponse, timeout_s=TIMEOUT_S)
    return reply.certificate
