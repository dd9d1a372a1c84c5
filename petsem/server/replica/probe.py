"""Asking the other nodes whether somebody leads in a higher epoch than this node's.

Guarantees: bounded in time, however many do not answer; silence is no answer, so a node that
reaches nobody decides alone. What a node says counts only over its certificate of the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc

from petsem.errors import PetsemError
from petsem.replication.session.follow import Broken, Own
from petsem.server.peer.dial import STREAM, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.replica import messages
from petsem.server.replica.candidates import Candidate

WITHIN_S: Final = 1.5


async def highest_epoch(
    nodes: Sequence[Candidate], certificate: OwnCertificate, own: Own, region: str
) -> int:
    """The highest epoch that any of `nodes` has seen; 0 if none answers in time."""

    async def ask(node: Candidate) -> int:
        try:
            async with asyncio.timeout(WITHIN_S):
                return await _epoch_seen(node, certificate, own, region)
        except (TimeoutError, grpc.aio.AioRpcError, PetsemError, Broken):
            return 0

    return max(await asyncio.gather(*map(ask, nodes)), default=0)


async def _epoch_seen(node: Candidate, certificate: OwnCertificate, own: Own, region: str) -> int:
    channel = peer_channel(certificate.tls, own.cluster_id, node.address, node.node_id)
    try:
        call = channel.stream_stream(STREAM, None, None)()  # type: ignore[call-arg]
        await call.write(messages.hello(own, region, (), ()).SerializeToString())
        raw = await call.read()
        if not isinstance(raw, bytes):
            return 0
        said, _ = messages.parse(raw)
        return said.welcome.epoch_seen
    finally:
        await channel.close(None)
