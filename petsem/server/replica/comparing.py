"""`Peer.Compare`: what this node's log has at one transaction.

Guarantees: the answer is of the log alone, whose every checksum was carried on from the one before;
nothing of the database is read, and no data leaves. The log is searched on a thread, one search at
a time, so that whoever asks often costs the node's other work nothing. It judges nothing: whoever
asks compares, and what he has is not asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Position, Role
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_types import LogError
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import NodeIdentity
from petsem.server.peer.dial import COMPARE
from petsem.server.peer.handlers import PeerMethod
from petsem.server.peer.membership import Member
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf


class Comparing:
    """The answering side. `log` is that of the role which the node has, None while it changes."""

    def __init__(
        self, identity: NodeIdentity, view: ClusterView, log: Callable[[], LogReader | None]
    ) -> None:
        self._identity = identity
        self._view = view
        self._log = log
        # One search at a time, also of callers who hang up.
        self._searching = ThreadPoolExecutor(1, thread_name_prefix="compare")
        self.method = PeerMethod(COMPARE, pb.CompareRequest, self._answer)

    async def _answer(self, _member: Member, request: pb.CompareRequest) -> pb.CompareResponse:
        log = self._log()
        if log is None:
            raise unavailable("the node is changing its role; ask again in a moment")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._searching, _position_of, log, request.txid)
        return pb.CompareResponse(
            node=self._identity.node_id,
            leads=self._view.role is Role.LEADER,
            oldest=_message(log.base),
            position=_message(log.end),
            found=_message(found),
        )


def _position_of(log: LogReader, txid: int) -> Position | None:
    try:
        return log.position_of(txid)
    except (LogError, OSError) as e:
        raise PetsemError(
            Code.CORRUPT,
            f"this node's log cannot be read at that transaction ({type(e).__name__}); "
            "run 'petsem check' on it",
        ) from None


def _message(position: Position | None) -> pb.Position | None:
    return None if position is None else position_to_protobuf(position)
