"""What following another node takes of this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from petsem.clock import Clock
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import NodeIdentity
from petsem.server.replica.disk import Disk
from petsem.server.replica.hearsay import Hearsay
from petsem.wire import petsem_pb2 as pb

LOOP: Final = "LOOP"
"""The reason with which a node refuses one that it follows itself."""


class Roster(Protocol):
    """Whom this node may have to do with."""

    @property
    def known(self) -> bool:
        """Whether this node can tell who is a member."""
        ...

    def has(self, node_id: str) -> bool:
        """Whether that node is a member, or this one cannot tell."""
        ...


@dataclass(frozen=True, slots=True)
class Timings:
    """`dead_s`: how long a link may be silent, where a heartbeat is due each second; `connect_s`:
    until the first word. `home_s`: how long one that was not the first choice is followed before
    the first is asked again. The others are the first and longest pauses between attempts: after
    a lost connection, and where trying again at once is of no use."""

    dead_s: float = 3.0
    connect_s: float = 5.0
    report_s: float = 1.0
    home_s: float = 300.0
    lost_s: tuple[float, float] = (0.2, 5.0)
    refused_s: tuple[float, float] = (2.0, 60.0)


@dataclass(frozen=True, slots=True)
class FollowParts:
    """`describe`: this node's report as far as it is not of the stream: KEK ids, readiness,
    warnings, last error. `hearsay`: what is heard of the others. `bind`: durably bind an epoch to
    a leader's id; `conflict` if it is bound to another. `remember`: keep durably that this node
    had all of the leader's data at this wall time (ms). `roster`: who may be followed."""

    identity: NodeIdentity
    disk: Disk
    view: ClusterView
    clock: Clock
    describe: Callable[[], pb.NodeReport]
    hearsay: Hearsay
    bind: Callable[[int, str], Awaitable[None]]
    remember: Callable[[int], Awaitable[None]]
    roster: Roster
    timings: Timings = Timings()


class Again(Exception):  # noqa: N818 (no error)
    """The stream ended well: begin another at once."""
