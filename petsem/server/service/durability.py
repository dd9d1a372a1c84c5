"""On how many nodes a committed write is, and waiting for them.

Guarantees: what is reported is what other nodes have acknowledged as durable. A wish that is not
met in time is said so, and changes nothing about the write, which stands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from petsem.model import Position
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb

REPLICATED_WAIT_S: Final = 5.0
"""How long an answer waits for the durability that was asked for."""
REMOVAL_WAIT_S: Final = 2.0
"""The same for revocations and deletions, which nobody asked to be slow."""


class Followers(Protocol):
    """The nodes that follow this one."""

    @property
    def connected(self) -> Collection[str]:
        """Ids of those that are connected now."""
        ...

    async def wait(self, position: Position, count: int, timeout_s: float) -> Collection[str]:
        """Ids of the nodes that hold `position` durably: at once if they are `count`, else in
        `timeout_s`."""
        ...

    def live(self) -> Mapping[str, pb.NodeReport]:
        """What each of those that are heard now said last of itself, by id."""
        ...


class _Nobody:
    """The followers of a node that is alone."""

    connected: Collection[str] = ()

    async def wait(self, position: Position, count: int, timeout_s: float) -> Collection[str]:
        return ()

    def live(self) -> Mapping[str, pb.NodeReport]:
        return {}


NO_FOLLOWERS: Final[Followers] = _Nobody()


async def durability(
    followers: Followers,
    wish: http.DurabilityWish,
    position: Position,
    wait_s: float = REPLICATED_WAIT_S,
) -> http.DurabilityReport:
    """What is true of a write that is committed and synced here, once it is where it was wished to
    be, or after `wait_s` seconds."""
    if isinstance(wish, str):
        return http.DurabilityReport(asked=wish, met=True, replicated_to=[])
    if not followers.connected:
        # Whoever connects only now needs longer to catch up than anybody waits.
        wait_s = 0
    held = sorted(await followers.wait(position, wish.replicated, wait_s))
    return http.DurabilityReport(asked=wish, met=len(held) >= wish.replicated, replicated_to=held)
