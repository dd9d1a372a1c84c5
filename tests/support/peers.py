"""A node with its peer port open in this process, and whoever may knock at it.

TLS asks the machine's own clock, so the node's clock starts at the real time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from petsem.clock import ManualClock
from petsem.crypto import ca
from petsem.crypto.ca import CertRole
from petsem.crypto.envelope import Record
from petsem.errors import PetsemError
from petsem.secretbytes import SecretBytes
from petsem.server.address import Address
from petsem.server.keys import CLUSTER
from petsem.server.node import Node
from petsem.server.peer.dial import ask, error_of, peer_channel
from petsem.server.peer.handlers import Method
from petsem.server.peer.identity import OwnCertificate, TlsMaterial
from petsem.server.peer.membership import Members
from petsem.server.peer.server import PeerServer, start_peer
from petsem.server.service.nodes import Nodes
from petsem.server.service.writes import Writes
from tests.support.patience import PATIENCE_S
from tests.unit.server.cluster import Cluster

R = TypeVar("R", bound=Message)

ANY_PORT: Final = Address("127.0.0.1", 0)


class Authority:
    """A CA, and certificates of it for anybody."""

    def __init__(self, cluster_id: bytes, cert: bytes, key: bytes) -> None:
        self.cluster_id = cluster_id
        self.cert = cert
        self.key = key

    @classmethod
    def new(cls, cluster_id: bytes) -> Authority:
        return cls(cluster_id, *ca.create_ca(cluster_id, now_ms()))

    def issue(
        self,
        name: str,
        role: CertRole = CertRole.NODE,
        *,
        days: float = 1,
        trusts: bytes | None = None,
    ) -> TlsMaterial:
        """A new key with a certificate for it; its holder trusts this CA, or another."""
        key = ca.new_node_key()
        certificate = ca.issue_node(
            self.cert,
            self.key,
            cluster_id=self.cluster_id,
            node_id=name,
            csr_pem=ca.node_csr(key),
            now_ms=now_ms(),
            days=days,
            role=role,
        )
        return TlsMaterial(SecretBytes(key), certificate, trusts or self.cert)


class Port:
    """A running node and its open peer port."""

    def __init__(self, cluster: Cluster, server: PeerServer, own: OwnCertificate) -> None:
        self.cluster = cluster
        self.server = server
        self.own = own
        self.authority = authority_of(cluster.node)

    @property
    def node(self) -> Node:
        return self.cluster.node

    @property
    def address(self) -> str:
        return self.server.address

    async def member(self, name: str, region: str = "fra") -> TlsMaterial:
        """What a node of the cluster shows; it is one from now on."""
        await self.cluster.change(
            "INSERT INTO nodes VALUES (?, ?, 0, 'x:1', 'x:2', 'x:3', 0)", name, region
        )
        return self.authority.issue(name)

    async def remove(self, name: str) -> None:
        """A node is one no more."""
        await self.cluster.change("DELETE FROM nodes WHERE id = ?", name)

    @asynccontextmanager
    async def channel(
        self, tls: TlsMaterial, node_id: str | None = None
    ) -> AsyncIterator[grpc.aio.Channel]:
        """A channel of whoever shows `tls`."""
        channel = peer_channel(tls, self.own.cluster_id, self.address, node_id)
        try:
            yield channel
        finally:
            await channel.close()

    async def ask(self, tls: TlsMaterial, path: str, request: Message, reply: type[R]) -> R:
        """One unary call over a connection of its own."""
        async with self.channel(tls) as channel:
            return await ask(channel, path, request, reply, timeout_s=PATIENCE_S)

    async def refused(self, tls: TlsMaterial, path: str, request: Message) -> tuple[str, str]:
        """The code and message with which a unary call is refused."""
        try:
            await self.ask(tls, path, request, type(request))
        except PetsemError as error:
            return error.code.value, error.message
        raise AssertionError(f"{path} was answered")

    async def stream_refused(self, tls: TlsMaterial, path: str) -> tuple[str, str]:
        """The same of a stream, to which nothing is sent."""
        async with self.channel(tls) as channel:
            call = channel.stream_stream(path, None, None)(timeout=PATIENCE_S)
            try:
                await call.read()
            except grpc.aio.AioRpcError as error:
                found = error_of(error)
                return found.code.value, found.message
            raise AssertionError(f"{path} was answered")


@asynccontextmanager
async def open_port(directory: Path, methods: Any = (), **options: Any) -> AsyncIterator[Port]:
    """A new cluster of one node with its peer port open. `methods` are those of the port, or what
    makes them of the running node."""
    cluster = Cluster(directory, ManualClock(now_ms()))
    async with cluster.running() as node:
        own = OwnCertificate(node.datadir, node.identity)
        made: Sequence[Method] = methods(node) if callable(methods) else methods
        server = await start_peer(
            made,
            bind=ANY_PORT,
            own=own,
            members=Members(node.pool),
            clock=cluster.clock,
            **options,
        )
        try:
            yield Port(cluster, server, own)
        finally:
            await server.stop(0)


def authority_of(node: Node) -> Authority:
    """The cluster's own CA, as a thief of the `cluster` key has it."""
    with node.pool.reading() as db:
        cert, sealed = db.execute("SELECT ca_cert, ca_key FROM cluster").fetchone()
        key = node.keys.open(db, CLUSTER, CLUSTER.place(Record.CA_KEY, b"ca"), sealed)
    return Authority(node.identity.cluster_id, cert, key)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def nodes_of(node: Node, address: str | None = "127.0.0.1:7402") -> Nodes:
    """The membership service of a node whose peer port is at `address`."""
    nodes = Nodes(
        writes=Writes(node.writer, node.keys, node.auth),
        writer=node.writer,
        pool=node.pool,
        keys=node.keys,
        identity=node.identity,
        clock=node.clock,
        freshness=node.freshness,
    )
    nodes.peer_address = None if address is None else Address.parse(address)
    return nodes
