"""The peer port: grpc.aio with mutual TLS, for nodes of the cluster and whoever is to become one.

Guarantees: without a certificate of the cluster's own CA nobody gets past the handshake, on
loopback neither; messages, calls, streams and connections are bounded; who is no member any more,
or whose certificate has ended, loses its streams within a second. A renewed certificate is shown
from the next connection on.

It does not know what the methods do. How much one node may cost the others within its bounds is
theirs to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from petsem import limits
from petsem.clock import Clock
from petsem.errors import unavailable
from petsem.server.address import Address
from petsem.server.peer.handlers import Method, PeerHandlers
from petsem.server.peer.identity import OwnCertificate, TlsMaterial
from petsem.server.peer.membership import Members

log = structlog.get_logger(__name__)

CHECK_STREAMS_EVERY_S: Final = 1.0
STREAMS_OF_A_CONNECTION: Final = 128
"""Calls at once on one connection; a node that has more to ask waits on its own side."""

OPTIONS: Final = (
    # What followers send is small and what they are sent is not. A request is in memory before its
    # handler sees whose it is.
    ("grpc.max_receive_message_length", limits.PEER_REQUEST_MAX_BYTES),
    ("grpc.max_send_message_length", limits.PEER_REPLY_MAX_BYTES),
    # Both, and equal: between the two, gRPC refuses requests at random.
    ("grpc.max_metadata_size", limits.GRPC_METADATA_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", limits.GRPC_METADATA_MAX_BYTES),
    ("grpc.max_concurrent_streams", STREAMS_OF_A_CONNECTION),
    ("grpc.max_allowed_incoming_connections", limits.PEER_CONNECTIONS_MAX),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A second process on the same port would take every other connection.
    ("grpc.so_reuseport", 0),
    # Only "identity": pages are compressed already, and a bomb has no way in.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A node that vanished without a word is noticed in 15 s; streams have heartbeats of their own.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 3),
)


@dataclass(slots=True)
class PeerServer:
    """A peer port that is open."""

    address: str
    port: int
    _server: grpc.aio.Server
    _handlers: PeerHandlers
    _watch: asyncio.Task[None]

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, end the streams, give the rest `grace_s` seconds, then close."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        self._handlers.streams.stop()
        await self._server.stop(grace_s)


async def start_peer(
    methods: Sequence[Method],
    *,
    bind: Address,
    own: OwnCertificate,
    members: Members,
    clock: Clock,
    check_streams_every_s: float = CHECK_STREAMS_EVERY_S,
) -> PeerServer:
    """Open the peer port; `unavailable` if the address is not to be had."""
    handlers = PeerHandlers(methods, cluster_id=own.cluster_id, members=members, clock=clock)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handlers,))
    try:
        port = server.add_secure_port(str(bind), _credentials(own))
    except RuntimeError:
        raise unavailable(
            f"the peer port {bind} cannot be opened; is another process listening there?"
        ) from None
    await server.start()
    watch = asyncio.create_task(_watch(handlers, check_streams_every_s), name="peer-streams")
    return PeerServer(str(Address(bind.host, port)), port, server, handlers, watch)


async def _watch(handlers: PeerHandlers, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            handlers.streams.check(handlers.admit)
        except Exception as e:
            # Whatever it was: without this task a removed node would keep its stream.
            log.error("peer_streams_not_checked", exc_info=e)


def _credentials(own: OwnCertificate) -> grpc.ServerCredentials:
    """Credentials that show the renewed certificate to whoever connects after the renewal."""
    shown = own.generation

    def renewed() -> Any:
        # Called by gRPC, on a thread of its own, before each handshake.
        nonlocal shown
        if own.generation == shown:
            return None
        shown = own.generation
        return _configuration(own.tls)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(own.tls), renewed, require_client_authentication=True
    )


def _configuration(tls: TlsMaterial) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key.reveal(), tls.certificate)], root_certificates=tls.ca
    )
