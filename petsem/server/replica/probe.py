"""Asking the other nodes whether somebody else leads, and in which epoch.

Guarantees: bounded in time, however many do not answer; silence is no answer, so a node that
reaches nobody decides alone. What a node says counts only over its certificate of the cluster.
Who leads in an older epoch than the asking node's hears of that by being asked.
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
Led = tuple[int, str]
"""An epoch, and whose it is: empty if that was not said. Greater is newer."""
NOBODY: Final[Led] = (0, "")


async def newest_epoch(
    nodes: Sequence[Candidate], certificate: OwnCertificate, own: Own, region: str
) -> Led:
    """The newest epoch that any of `nodes` knows; `NOBODY` if none answers in time."""

    async def ask(node: Candidate) -> Led:
        try:
            async with asyncio.timeout(WITHIN_S):
                return await _epoch_of(node, certificate, own, region)
        except (TimeoutError, grpc.aio.AioRpcError, PetsemError, Broken):
            return NOBODY

    return max(await asyncio.gather(*map(ask, nodes)), default=NOBODY)


async def _epoch_of(node: Candidate, certificate: OwnCertificate, own: Own, region: str) -> Led:
    channel = peer_channel(certificate.tls, own.cluster_id, node.address, node.node_id)
    try:
        call = channel.stream_stream(STREAM, None, None)()  # type: ignore[call-arg]
        hello = messages.hello(own, region, (), (), asks=True)
        await call.write(hello.SerializeToString())
        raw = await call.read()
        if not isinstance(raw, bytes):
            return NOBODY
        said, _ = messages.parse(raw)
        begun = [(each.epoch, each.leader) for each in said.welcome.epochs]
        return max((said.welcome.epoch_seen, ""), *begun)
    finally:
        await channel.close(None)
