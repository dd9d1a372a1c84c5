"""What a follower is told, as values: the messages of `docs/formats/stream.md` that come down.

They are claims of whoever sent them; `FollowSession` holds them against its rules. Nothing here
has been decoded beyond its own fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from petsem.model import Position


@dataclass(frozen=True, slots=True)
class Welcome:
    """Who answers. `path`: node ids from it to the leader, both included. `position`: the end of
    its own data, None if it has none. `leads`: the last epoch of its branch and whose that is.
    `leader_at`: the leader's HTTP, gRPC and peer addresses."""

    protocol: int
    cluster_id: bytes
    node_id: str
    epoch_seen: int
    path: tuple[str, ...]
    position: Position | None
    leads: tuple[int, str] | None = None
    leader_at: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class Transactions:
    """One LTX file, of one transaction or of a range. `epoch` is that of the last."""

    epoch: int
    ltx: bytes


@dataclass(frozen=True, slots=True)
class SnapshotBegin:
    """`pages` pages, as they are at `at`, follow from `first_page` on."""

    at: Position
    pages: int
    first_page: int


@dataclass(frozen=True, slots=True)
class SnapshotPages:
    """A run of `count` pages, as one LZ4 block with its size before it."""

    first_page: int
    count: int
    block: bytes


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """The transactions since the pages or since the end before, up to `at`; `ltx` is empty if
    there are none. `more`: this is not the last."""

    at: Position
    ltx: bytes
    more: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Where the leader was, `ago_ms` before this was sent. `path` and `leader` (whose the last
    epoch of the branch is) are as the welcome has them, now; empty if nothing is said of them."""

    position: Position
    ago_ms: int
    epoch_seen: int
    path: tuple[str, ...] = ()
    leader: str = ""


@dataclass(frozen=True, slots=True)
class Rollback:
    """What lies after `fork` is on a branch that is gone."""

    fork: Position


Message = (
    Welcome | Transactions | SnapshotBegin | SnapshotPages | SnapshotEnd | Heartbeat | Rollback
)
