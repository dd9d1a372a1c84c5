"""Reaching another node's peer port.

Guarantees: whoever answers holds a certificate of the cluster's own CA for the name that was asked
for: one node's, or any node's of the cluster; a proxy of the environment never comes between; what
is received is bounded. Failures are `PetsemError`, the other node's own words first. It does not
know that the other is still a member: dial it by its id, which came from this node's own database,
wherever it is known.

A channel keeps the certificate that it was opened with: open a new one for each connection that is
made again, and a renewed certificate is shown in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

import petsem
from petsem import limits
from petsem.crypto.ca import dns_name
from petsem.errors import PetsemError, unavailable
from petsem.server.peer.identity import TlsMaterial
from petsem.wire.errors import STATUS_KEY
from petsem_client.failures import failure_of

M = TypeVar("M", bound=Message)

JOIN: Final = "/petsem.v1.Peer/Join"
RENEW: Final = "/petsem.v1.Peer/Renew"
FORWARD: Final = "/petsem.v1.Peer/Forward"
REVOKE: Final = "/petsem.v1.Peer/Revoke"
SEEN: Final = "/petsem.v1.Peer/Seen"
COMPARE: Final = "/petsem.v1.Peer/Compare"
STREAM: Final = "/petsem.v1.Replication/Stream"

_STRANGER: Final = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "Peer name")
"""How the transport says that the certificate which it was shown is none of those that it takes."""
_OF_ANOTHER: Final = (
    "what answers at its address does not show that node's certificate of this cluster"
)

OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_receive_message_length", limits.PEER_REPLY_MAX_BYTES),
    ("grpc.max_send_message_length", limits.PEER_REQUEST_MAX_BYTES),
    ("grpc.max_metadata_size", limits.GRPC_METADATA_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", limits.GRPC_METADATA_MAX_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A node that vanished is noticed in 15 s; the streams have heartbeats of their own.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Whether and when to try again is the caller's to decide.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC's name for the time within which a connection must stand.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", f"petsem/{petsem.__version__}"),
)


def peer_channel(
    tls: TlsMaterial, cluster_id: bytes, address: str, node_id: str | None = None
) -> grpc.aio.Channel:
    """A channel to the peer port at `address` (HOST:PORT) of `node_id`, or of any node of the
    cluster. It connects at the first call; close it."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca,
        private_key=tls.key.reveal(),
        certificate_chain=tls.certificate,
    )
    name = ("grpc.ssl_target_name_override", dns_name(cluster_id, node_id))
    return grpc.aio.secure_channel(address, credentials, (*OPTIONS, name))


async def ask(
    channel: grpc.aio.Channel, path: str, request: Message, reply: type[M], *, timeout_s: float
) -> M:
    """The reply to one unary call."""
    try:
        raw = await channel.unary_unary(path, None, None)(
            request.SerializeToString(), timeout=timeout_s
        )
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from None
    try:
        return reply.FromString(raw)
    except DecodeError:
        raise unavailable("the other node's answer is not one that this program knows") from None


def error_of(error: grpc.aio.AioRpcError) -> PetsemError:
    """What a failed call to another node means: its own words, or ours for what the transport
    says, which is the cause of what is returned."""
    found = failure_of(error.code(), error.details(), error.trailing_metadata()).error
    if not is_its_own_word(error) and error.code() is grpc.StatusCode.UNAVAILABLE:
        stranger = any(sign in (error.details() or "") for sign in _STRANGER)
        found = unavailable(_OF_ANOTHER if stranger else "it cannot be reached at the moment")
    found.__cause__ = error
    return found


def is_its_own_word(error: grpc.aio.AioRpcError) -> bool:
    """Whether the other node said so, rather than the connection to it."""
    trailing: Iterable[Any] = error.trailing_metadata() or ()
    return any(key == STATUS_KEY for key, _ in trailing)
