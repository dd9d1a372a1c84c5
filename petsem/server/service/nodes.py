"""Membership: invitations, joining, renewing, removing.

Guarantees: an invitation makes one node, whoever asks how often and of whichever leader: its row
is used up in the transaction that makes the node. The same machine may ask again, should the
answer have been lost (it shows the same public key), and gets its certificate again. Whoever is
removed is refused from that transaction on, by each node once it has it. A join token and a
private key are in no row, no log and no idempotency record.

All of it is the leader's to do. It does not talk to anybody; `petsem.server.peer` does.
"""

from __future__ import annotations

import re
from typing import Final

import apsw
import msgspec
import structlog

from petsem import limits
from petsem.clock import Clock, rfc3339
from petsem.crypto.ca import new_node_key, node_csr, requested_key_id
from petsem.crypto.keys import Purpose, random_id
from petsem.errors import Code, PetsemError, conflict, limited, not_found, unavailable
from petsem.model import Role, check_node
from petsem.secretbytes import SecretBytes
from petsem.server.address import Address
from petsem.server.database import ReadPool
from petsem.server.datadir import NodeIdentity, check_region
from petsem.server.freshness import FreshnessSource
from petsem.server.keys import Keys
from petsem.server.peer.certificates import Authority, new_node_id, open_authority
from petsem.server.peer.join_token import JoinToken
from petsem.server.principal import Principal
from petsem.server.service.writes import Call, Writes, owned_by
from petsem.server.store import keyring
from petsem.server.store import nodes as rows
from petsem.server.store.nodes import InvitationRow, NodeRow
from petsem.server.writer import Txn, Writer
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

INVITATION_MS: Final = 15 * 60 * 1000
INVITATIONS_KEPT_MS: Final = 7 * 24 * 3600 * 1000
_INVITATION: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - to refuse it


class _Invited(msgspec.Struct, frozen=True):
    """What an idempotency record keeps of an invitation: never the token."""

    invitation: str
    expires_at: int


class Nodes:
    """The operations on nodes. Callers have authorised the principal, or verified the peer."""

    def __init__(
        self,
        *,
        writes: Writes,
        writer: Writer,
        pool: ReadPool,
        keys: Keys,
        identity: NodeIdentity,
        clock: Clock,
        freshness: FreshnessSource,
    ) -> None:
        self._writes = writes
        self._writer = writer
        self._pool = pool
        self._keys = keys
        self._identity = identity
        self._clock = clock
        self._freshness = freshness
        self.peer_address: Address | None = None
        """Where other nodes reach this one, once its peer port is open."""

    # For operators

    async def invite(self, principal: Principal, call: Call, region: str) -> http.NodeInvited:
        """A join token for one node in `region`, good for 15 minutes."""
        check_region(region)
        address = self._own_address()

        def job(txn: Txn) -> _Invited:
            # Found out before the row is made.
            open_authority(txn.db, self._keys)
            rows.forget_invitations(txn.db, txn.now_ms - INVITATIONS_KEPT_MS)
            invitation, expires_at = random_id(), txn.now_ms + INVITATION_MS
            rows.insert_invitation(
                txn.db,
                InvitationRow(invitation, region, txn.now_ms, principal.token.subject, expires_at),
            )
            return _Invited(invitation.hex(), expires_at)

        done, _ = await self._writes.once(principal, call, owned_by(None), _Invited, job)
        log.info("node_invited", region=region, invitation=done.invitation)
        token = self._join_token(done, address)
        return http.NodeInvited(join_token=token.encode(), expires_at=rfc3339(done.expires_at))

    async def remove(self, principal: Principal, call: Call, node_id: str) -> http.NodeRemoved:
        """End a node's membership."""
        check_node(node_id)

        def job(txn: Txn) -> http.NodeRemoved:
            if node_id == self._identity.node_id:
                raise conflict(
                    f"{node_id} leads the cluster; let another node lead first "
                    "(petsem node promote), then remove this one"
                )
            if not rows.remove(txn.db, node_id):
                raise not_found(f"there is no node {node_id}; see 'petsem node list'")
            return http.NodeRemoved(
                node=node_id,
                position=str(txn.position),
                message=f"{node_id} is no longer a node: the others refuse it. Its disk still "
                "holds what it had; destroy it, or rotate the keys that it held",
            )

        done, _ = await self._writes.once(principal, call, owned_by(None), http.NodeRemoved, job)
        log.info("node_removed", node=node_id)
        return done

    # For the peer port

    async def join(self, invitation: str, request: pb.JoinRequest) -> pb.JoinResponse:
        """Make the holder of a join certificate a node, and give it its certificate."""
        self._require_leader()
        region = check_region(request.region)
        addresses = tuple(
            str(Address.parse(text)) for text in (request.http, request.grpc, request.peer)
        )
        key_id = requested_key_id(request.csr)

        def job(txn: Txn) -> pb.JoinResponse:
            authority = open_authority(txn.db, self._keys)
            row = _invited(txn, invitation, region)
            node_id = row.used_by
            if node_id is None:
                node_id = _new_member(txn, region, addresses)
                rows.use_invitation(txn.db, row.id, node_id, key_id, txn.now_ms)
            elif row.used_key != key_id or rows.find(txn.db, node_id) is None:
                raise PetsemError(
                    Code.DENIED,
                    f"the join token was used already, by {node_id}; if that was not you, run: "
                    f"petsem node remove {node_id}",
                )
            return pb.JoinResponse(
                cluster=authority.cluster_id,
                node=node_id,
                certificate=authority.node(node_id, request.csr, txn.now_ms),
                ca=authority.certificate,
                keks_in_use=_keks_in_use(txn.db),
            )

        done = await self._writer.submit(job)
        log.info("node_joined", node=done.node, region=region, invitation=invitation)
        return done

    async def renew(self, node_id: str, csr: bytes) -> bytes:
        """A new certificate for a node that was verified as one, or for this node itself."""
        self._require_leader()
        certificate = self._authority().node(node_id, csr, self._clock.unix_ms())
        log.info("certificate_renewed", node=node_id)
        return certificate

    def _authority(self) -> Authority:
        with self._pool.snapshot() as db:
            return open_authority(db, self._keys)

    def _join_token(self, invited: _Invited, address: Address) -> JoinToken:
        """The text of an invitation; made again, with another key, for a call that is repeated."""
        now_ms = self._clock.unix_ms()
        if now_ms >= invited.expires_at:
            raise conflict("this invitation has ended; ask for another with a new Idempotency-Key")
        authority = self._authority()
        key = new_node_key()
        certificate = authority.join(invited.invitation, node_csr(key), now_ms, invited.expires_at)
        return JoinToken(
            authority.cluster_id, (address,), authority.certificate, certificate, SecretBytes(key)
        )

    def _own_address(self) -> Address:
        address = self.peer_address
        if address is None:
            raise unavailable("the node's peer port is not open yet; try again shortly")
        if address.host in _EVERYWHERE:
            raise conflict(
                "the peer port answers on every address of the machine, so a join token cannot "
                "say which; set [peer] advertise in petsem.toml and restart the node"
            )
        return address

    def _require_leader(self) -> None:
        if self._freshness.role is Role.LEADER:
            return
        with self._pool.snapshot() as db:
            leader = rows.leader(db)
        where = "" if leader is None else f": {leader.id} at {leader.peer}"
        raise unavailable(f"this node is a replica and takes no members; ask the leader{where}")


def _invited(txn: Txn, invitation: str, region: str) -> InvitationRow:
    """The invitation's row, if it still stands and is for this region."""
    # A certificate's id can be any name; an invitation's is that of a row.
    row = None
    if _INVITATION.fullmatch(invitation):
        row = rows.find_invitation(txn.db, bytes.fromhex(invitation))
    if row is None:
        raise _denied("the cluster does not know this join token; ask for a new one")
    if txn.now_ms >= row.expires_at:
        raise _denied("the join token has ended; ask for a new one")
    if row.region != region:
        raise _denied(f"the join token is for a node in {row.region}, and for no other region")
    return row


def _new_member(txn: Txn, region: str, addresses: tuple[str, ...]) -> str:
    if rows.count(txn.db) >= limits.NODES_MAX:
        raise limited(f"a cluster has at most {limits.NODES_MAX} nodes; remove one first")
    node_id = new_node_id(region)
    http_address, grpc_address, peer_address = addresses
    rows.insert(
        txn.db,
        NodeRow(
            id=node_id,
            region=region,
            voter=False,
            http=http_address,
            grpc=grpc_address,
            peer=peer_address,
            joined_at=txn.now_ms,
        ),
    )
    return node_id


def _keks_in_use(db: apsw.Connection) -> list[pb.KekIds]:
    return [
        pb.KekIds(purpose=purpose.value, ids=keyring.keks_in_use(db, purpose))
        for purpose in Purpose
    ]


def _denied(message: str) -> PetsemError:
    return PetsemError(Code.DENIED, message)
