"""Asking the other nodes whether somebody else leads, and in which epoch, or just who they are.

Guarantees: bounded in time, however many do not answer; silence is no answer, so a node that
reaches nobody decides alone. What a node says counts only over its certificate of the cluster.
Who leads in an older epoch than the asking node's hears of that by being asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc

from petsem.errors import PetsemError, unavailable
from petsem.model import check_node
from petsem.replication.session.branch import is_likely, was_begun
from petsem.replication.session.follow import Broken, Own
from petsem.server.datadir import NodeIdentity
from petsem.server.peer.dial import STREAM, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.replica import messages
from petsem.server.replica.candidates import Candidate
from petsem.wire import petsem_pb2 as pb

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


async def name_of(
    address: str, certificate: OwnCertificate, own: Own, identity: NodeIdentity
) -> str | None:
    """Which node answers at `address`, by its certificate; None if none does in time."""
    name: str | None = None
    try:
        async with asyncio.timeout(2 * WITHIN_S):
            # Who answers says a name, and has to have the certificate for it.
            for _ in range(2):
                node = Candidate(address, name)
                name = check_node((await _welcome(node, certificate, own, identity.region)).node)
    except (TimeoutError, grpc.aio.AioRpcError, PetsemError, Broken):
        return None
    return name


async def _epoch_of(node: Candidate, certificate: OwnCertificate, own: Own, region: str) -> Led:
    welcome = await _welcome(node, certificate, own, region)
    begun = max(((each.epoch, each.leader) for each in welcome.epochs), default=NOBODY)
    word, known = welcome.epoch_seen, own.epoch_seen
    if not was_begun(begun[0], known) or not is_likely(word, max(known, begun[0])):
        return NOBODY
    return max((word, ""), begun)


async def _welcome(
    node: Candidate, certificate: OwnCertificate, own: Own, region: str
) -> pb.Welcome:
    channel = peer_channel(certificate.tls, own.cluster_id, node.address, node.node_id)
    try:
        call = channel.stream_stream(STREAM, None, None)()  # type: ignore[call-arg]
        hello = messages.hello(own, region, (), (), asks=True)
        await call.write(hello.SerializeToString())
        raw = await call.read()
        if not isinstance(raw, bytes):
            raise unavailable("the other node has ended the stream")
        said, _ = messages.parse(raw)
        return said.welcome
    finally:
        await channel.close(None)
