"""`Peer.Join` and `Peer.Renew`: membership over the peer port.

What else the port answers (`Peer.Forward`, `Peer.Compare`, `Replication.Stream`) is handed to
`start_peer` beside these.
"""

from __future__ import annotations

from petsem.server.peer.dial import JOIN, RENEW
from petsem.server.peer.handlers import JoinMethod, Method, PeerMethod
from petsem.server.peer.membership import Member
from petsem.server.service.nodes import Nodes
from petsem.wire import petsem_pb2 as pb


def membership_methods(nodes: Nodes) -> tuple[Method, ...]:
    """The methods by which nodes come and stay."""

    async def renew(member: Member, request: pb.RenewRequest) -> pb.RenewResponse:
        return pb.RenewResponse(certificate=await nodes.renew(member.node_id, request.csr))

    return (
        JoinMethod(JOIN, pb.JoinRequest, nodes.join),
        PeerMethod(RENEW, pb.RenewRequest, renew),
    )
