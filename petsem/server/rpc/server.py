"""The gRPC door: grpc.aio over a node, with everything bounded.

Guarantees: messages, metadata, concurrent calls, streams and idle connections have bounds; the port
is this process's alone; compressed requests are refused. It reads and verifies only: no write comes
in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

from petsem import limits
from petsem.errors import unavailable
from petsem.server.address import Address
from petsem.server.live_tls import LiveTls
from petsem.server.node import Node
from petsem.server.rpc.handlers import Handlers, anybody, caller_of, certified_caller_of
from petsem.server.rpc.health import NAME as HEALTH
from petsem.server.rpc.health import Health
from petsem.server.rpc.methods import Methods
from petsem.server.rpc.poller import schedule_as_batch
from petsem.server.rpc.reflection import Reflection
from petsem.server.rpc.streams import Streams

SERVICES: Final = ("petsem.v1.Secrets", "petsem.v1.Tokens")
OPEN_STREAMS_MAX: Final = 64
"""Streams that need no token (health, reflection) at once; those that do are bounded apart."""
CONNECTIONS_MAX: Final = limits.HTTP_CONNECTIONS_MAX
STREAMS_OF_A_CONNECTION: Final = 256

OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    # Both, and equal: between the two, gRPC refuses requests at random.
    ("grpc.max_metadata_size", limits.GRPC_METADATA_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", limits.GRPC_METADATA_MAX_BYTES),
    ("grpc.max_concurrent_streams", STREAMS_OF_A_CONNECTION),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.server_handshake_timeout_ms", int(limits.TLS_HANDSHAKE_S * 1000)),
    # A second process on the same port would take every other connection.
    ("grpc.so_reuseport", 0),
    # Only "identity": a compressed request costs memory before anybody knows who sent it.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A client that vanished without a word is noticed within a minute, one that has had nothing to
    # ask for five is let go.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_idle_ms", 300_000),
    # Clients may ping as well, but not more often; the boot client does every 30 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 3),
)


@dataclass(slots=True)
class GrpcServer:
    """A gRPC server that is listening. `tls` is for whoever watches its files; None: plain."""

    address: str
    port: int
    tls: LiveTls | None
    _server: grpc.aio.Server
    _streams: tuple[Streams, ...]

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, end the streams, give the rest `grace_s` seconds, then close."""
        for streams in self._streams:
            streams.end()
        await self._server.stop(grace_s)


async def start_grpc(node: Node) -> GrpcServer:
    """Listen where the node's configuration says; `unavailable` if the address is not to be had."""
    handlers = Handlers(node.clock, node.config.limits.grpc_concurrent_rpcs)
    methods = Methods(node)
    # The services bound these streams themselves.
    streams, open_streams = Streams(), Streams(OPEN_STREAMS_MAX)
    tls_files = node.config.grpc.tls
    certified = tls_files is not None and tls_files.client_ca is not None
    caller = certified_caller_of if certified else caller_of
    for unary in methods.unary:
        handlers.add_unary(unary, caller)
    for stream in methods.streams:
        handlers.add_stream(stream, caller, streams)
    health = Health(lambda: not node.status.ready(), SERVICES)
    handlers.add_unary(health.unary, anybody)
    handlers.add_stream(health.stream, anybody, open_streams)
    for exchange in Reflection(node, (*SERVICES, HEALTH)).exchanges:
        handlers.add_exchange(exchange, caller, open_streams)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handlers,))
    config = node.config.grpc
    tls = None if config.tls is None else LiveTls("grpc", config.tls)
    port = _bind(server, config.bind, tls)
    await server.start()
    schedule_as_batch()
    address = str(Address(config.bind.host, port))
    return GrpcServer(address, port, tls, server, (streams, open_streams))


def _bind(server: grpc.aio.Server, bind: Address, tls: LiveTls | None) -> int:
    address = str(bind)
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls.grpc_credentials())
    except RuntimeError:
        raise unavailable(
            f"the gRPC port {address} cannot be opened; is another process listening there?"
        ) from None
