"""Followers that only acknowledge: `python -m tests.bench.light_followers ADDRESS DIR…`.

Each DIR is a joined node, whose certificate is shown to the peer port at ADDRESS. Once all of them
have what the other node has, a line says so, and from then on the last one reads no more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

import petsem
from petsem.replication.ltx import peek_header
from petsem.replication.session.feed import PROTOCOL
from petsem.server.datadir import DataDir
from petsem.server.peer.dial import STREAM, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.schema import SCHEMA_VERSION
from petsem.wire import petsem_pb2 as pb

Call = grpc.aio.StreamStreamCall[Any, Any]
_channels: list[grpc.aio.Channel] = []  # a channel that nobody holds is closed


async def _begin(address: str, directory: Path) -> Call:
    """A stream whose first snapshot has been received."""
    datadir = DataDir(directory)
    identity = datadir.read_identity()
    own = OwnCertificate(datadir, identity)
    channel = peer_channel(own.tls, own.cluster_id, address)
    _channels.append(channel)
    call: Call = channel.stream_stream(STREAM, None, None)()  # type: ignore[call-arg]
    hello = pb.Hello(
        protocol=PROTOCOL,
        cluster=identity.cluster_id,
        node=identity.node_id,
        region=identity.region,
        version=petsem.__version__,
        schema=SCHEMA_VERSION,
    )
    await call.write(pb.FromReplica(hello=hello).SerializeToString())
    while True:
        said = await _read(call)
        if said.WhichOneof("message") == "snapshot_end" and not said.snapshot_end.more:
            await _acknowledge(call, said.snapshot_end.at.epoch, said.snapshot_end.at.txid)
            return call


async def _follow(call: Call) -> None:
    while True:
        said = await _read(call)
        if said.WhichOneof("message") == "transactions":
            header = peek_header(said.transactions.ltx)
            await _acknowledge(call, said.transactions.epoch, header.max_txid)


async def _read(call: Call) -> pb.FromLeader:
    raw = await call.read()
    assert isinstance(raw, bytes), "the stream has ended"
    return pb.FromLeader.FromString(raw)


async def _acknowledge(call: Call, epoch: int, txid: int) -> None:
    ack = pb.Ack(received=txid, durable=txid, applied=txid, epoch=epoch)
    await call.write(pb.FromReplica(ack=ack).SerializeToString())


async def _run(address: str, directories: list[Path]) -> None:
    calls = [await _begin(address, directory) for directory in directories]
    print(json.dumps({"following": len(calls)}), flush=True)
    reading = calls[:-1] if len(calls) > 1 else calls
    await asyncio.gather(*map(_follow, reading))


def main() -> None:
    """Follow until told to end."""
    uvloop.run(_run(sys.argv[1], [Path(each) for each in sys.argv[2:]]))


if __name__ == "__main__":
    main()
