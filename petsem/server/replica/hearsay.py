"""What is heard of the other nodes: the last report of each, by whom it came, and how old it is.

Guarantees: a report counts by the stream on which it came, whose other end a certificate names,
never by what it says of its own way. It is of the node at that end, or of one from which it came
by that node, over a path without a circle; whoever has a stream of its own here is told of by
nobody else. Of two the younger one stays. Its age is measured by this machine's boot clock since it
came, and what was stated of it before is added, so no clock of another machine matters, and who
lies about it is outdone as soon as he stops. A report that is not taken is dropped, and nothing
else happens. Memory is bounded by the members, and by `limits` where those are not known.

It does not know whether a report is true: reports are not signed, and a node on the way may change
what it passes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from petsem import limits
from petsem.clock import Clock
from petsem.errors import PetsemError
from petsem.model import check_node
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

FRESH_S: Final = 10.0
"""A node that was not heard for so long is not counted on. It reports each second, and at each
hop its report may wait for a second."""
PATH_MAX: Final = 2 * limits.STREAM_HOPS_MAX
"""Nodes between one that reports and one that hears it: up towards the leader, and down again."""


@dataclass(slots=True, eq=False)
class Teller:
    """One stream on which reports come, with the node at its other end. `follows`: it follows this
    node; else this node follows it."""

    node_id: str
    follows: bool
    open: bool = True
    complained: bool = False
    """One of its reports was dropped, and the log has it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A report. `report.path` is how it came, up to and with the teller; `at_s` when it was so, by
    this machine's boot clock."""

    report: pb.NodeReport
    at_s: float
    teller: Teller


class Hearsay:
    """What one node hears of the others. `members` are the ids of the cluster's nodes, None while
    they are not known; `way` is this node's path to the leader, itself first."""

    def __init__(
        self,
        node_id: str,
        clock: Clock,
        members: Callable[[], Collection[str] | None],
        way: Callable[[], Sequence[str]],
    ) -> None:
        self._node_id = node_id
        self._clock = clock
        self._members = members
        self._way = way
        self._heard: dict[str, Heard] = {}

    def take(self, teller: Teller, report: pb.NodeReport) -> bool:
        """Whether a report that came from `teller` is news. What cannot be is dropped."""
        why = self._wrong(teller, report)
        if why is not None:
            if not teller.complained:
                teller.complained = True
                log.warning("node_report_dropped", told_by=teller.node_id, message=why)
            return False
        own_word = report.node == teller.node_id
        age_s = 0.0 if own_word else report.age_ms / 1000
        members = self._members()
        if age_s > FRESH_S or (members is not None and report.node not in members):
            # Honest nodes say so for a moment, when one has joined or the way has changed.
            return False
        before = self._heard.get(report.node)
        at_s = self._clock.boot_s() - age_s
        if before is None and not self._has_room():
            return False
        if before is not None and not own_word and (before.at_s > at_s or _own_open(before)):
            return False
        kept = pb.NodeReport()
        kept.CopyFrom(report)
        del kept.path[:]
        kept.path.extend([teller.node_id] if own_word else [*report.path, teller.node_id])
        kept.ClearField("age_ms")
        self._heard[report.node] = Heard(kept, at_s, teller)
        return True

    def of(self, node_id: str) -> Heard | None:
        """The last word of a node, however old. Whether it is a member the caller knows."""
        return self._heard.get(node_id)

    def known(self) -> dict[str, Heard]:
        """The last word of each member, by id, however old; nothing while members are not known."""
        members = self._members()
        return {} if members is None else {k: v for k, v in self._heard.items() if k in members}

    def age_ms(self, heard: Heard) -> int:
        """How old it is now."""
        return max(0, round((self._clock.boot_s() - heard.at_s) * 1000))

    def counts(self, heard: Heard) -> bool:
        """Whether its node is counted on: word of it came lately, on a stream that is open."""
        return heard.teller.open and self._clock.boot_s() - heard.at_s <= FRESH_S

    def behind(self) -> Iterator[tuple[str, Heard]]:
        """The members that are counted on and follow this node, directly or over others."""
        for node_id, heard in self.known().items():
            if heard.teller.follows and self.counts(heard):
                yield node_id, heard

    def upwards(self, to: str) -> list[pb.NodeReport]:
        """What the node that this one follows is told of those behind this one."""
        way = self._way()
        return [
            self._passed_on(heard)
            for node_id, heard in self._heard.items()
            if heard.teller.follows and self._may_go(heard, to) and node_id not in way
        ]

    def downwards(self, to: str) -> list[pb.NodeReport]:
        """What one that follows this node is told of all others."""
        return [self._passed_on(heard) for heard in self._heard.values() if self._may_go(heard, to)]

    def _may_go(self, heard: Heard, to: str) -> bool:
        return self.counts(heard) and to not in heard.report.path

    def _passed_on(self, heard: Heard) -> pb.NodeReport:
        said = pb.NodeReport()
        said.CopyFrom(heard.report)
        # The receiver adds this node, whose certificate it sees.
        said.age_ms = self.age_ms(heard)
        return said

    def _wrong(self, teller: Teller, report: pb.NodeReport) -> str | None:
        """Why no honest node says so, if none does."""
        if report.ByteSize() > limits.NODE_REPORT_MAX_BYTES:
            return "a node's report is larger than it may be"
        try:
            for name in (report.node, *report.path, *([report.source] if report.source else [])):
                check_node(name)
        except PetsemError:
            return "a node's report names what is no node"
        if report.node == self._node_id:
            return "a report is about this node itself"
        if report.node == teller.node_id:
            return None
        path = report.path
        if path[:1] != [report.node] or len({*path, teller.node_id}) != len(path) + 1:
            return "a node's report does not say how it came, or went in a circle"
        if self._node_id in path or len(path) >= PATH_MAX:
            return "a node's report came back here, or over more nodes than it may"
        if teller.follows and report.node in self._way():
            return "a report is about a node that this one follows, and came from behind"
        return None

    def _has_room(self) -> bool:
        members = self._members()
        if members is not None:
            self._heard = {k: v for k, v in self._heard.items() if k in members}
        return len(self._heard) < limits.NODES_MAX


def _own_open(heard: Heard) -> bool:
    """Whether a node said it here itself, and is still here."""
    return heard.teller.open and heard.teller.node_id == heard.report.node
