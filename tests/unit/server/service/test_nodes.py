"""Invitations, joining, renewing and removing, as stories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from petsem import limits
from petsem.crypto import ca
from petsem.crypto.ca import CertRole, Identity
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.server.operator_token import issue_operator_token
from petsem.server.peer.join_token import JoinToken
from petsem.server.policy import NODES_ADMIN
from petsem.server.principal import Request
from petsem.server.service.nodes import INVITATION_MS, INVITATIONS_KEPT_MS, Nodes
from petsem.wire import petsem_pb2 as pb
from tests.support.following import follow
from tests.support.peers import nodes_of
from tests.unit.server.cluster import Cluster, call

ADDRESSES = {"http": "10.0.0.2:7400", "grpc": "10.0.0.2:7401", "peer": "10.0.0.2:7402"}


@dataclass
class World:
    """A running leader and its membership."""

    cluster: Cluster
    nodes: Nodes

    async def invite(self, region: str = "fra", key: str | None = None) -> JoinToken:
        invited = await self.nodes.invite(self.cluster.operator, call(key), region)
        return JoinToken.parse(invited.join_token)

    async def join(self, token: JoinToken, key: bytes | None = None, **change: Any) -> Any:
        """What a machine with that private key gets for the token."""
        csr = ca.node_csr(key or ca.new_node_key())
        request = pb.JoinRequest(**{"region": "fra", "csr": csr, **ADDRESSES, **change})
        return await self.nodes.join(ca.identity_of(token.certificate).node_id, request)

    async def refused(self, token: JoinToken, **change: Any) -> tuple[str, str]:
        before = self.members, self.cluster.node.writer.position
        with pytest.raises(PetsemError) as refused:
            await self.join(token, **change)
        assert (self.members, self.cluster.node.writer.position) == before
        return refused.value.code.value, refused.value.message

    @property
    def members(self) -> list[Any]:
        return self.cluster.query("SELECT id, region, voter, http, grpc, peer FROM nodes")


@pytest.fixture
async def world(cluster: Cluster) -> AsyncIterator[World]:
    async with cluster.running() as node:
        yield World(cluster, nodes_of(node, "10.0.0.1:7402"))


async def test_a_machine_joins(world: World) -> None:
    """With the token it gets a certificate in a name of its own, and is a member."""
    token = await world.invite()
    own = world.cluster.node.identity
    assert token.cluster_id == own.cluster_id
    assert list(map(str, token.addresses)) == ["10.0.0.1:7402"]
    invitation = ca.identity_of(token.certificate)
    assert invitation.role is CertRole.JOIN
    assert ca.fits(token.certificate, token.key.reveal(), token.ca)
    now_ms = world.cluster.clock.unix_ms()
    assert ca.validity_of(token.certificate)[1] == now_ms + INVITATION_MS
    key = ca.new_node_key()
    answer = await world.join(token, key)
    assert answer.cluster == own.cluster_id
    assert answer.ca == token.ca
    assert answer.node.startswith("fra-")
    assert ca.identity_of(answer.certificate) == Identity(
        own.cluster_id, answer.node, CertRole.NODE
    )
    assert ca.fits(answer.certificate, key, token.ca)
    assert ca.validity_of(answer.certificate)[1] == now_ms + 90 * 86_400_000
    assert [(each.purpose, list(each.ids)) for each in answer.keks_in_use] == [
        (each.value, [bytes.fromhex(world.cluster.kek(each))]) for each in Purpose
    ]
    assert (answer.node, "fra", 0, *ADDRESSES.values()) in world.members


async def test_a_token_is_used_once(world: World) -> None:
    """The next machine with it is refused, and learns whom to suspect."""
    token = await world.invite()
    answer = await world.join(token)
    assert await world.refused(token) == (
        "denied",
        f"the join token was used already, by {answer.node}; if that was not you, run: "
        f"petsem node remove {answer.node}",
    )


async def test_a_lost_answer(world: World) -> None:
    """The same machine, which shows the same key, is the same node; once that is removed, the
    token is worth nothing."""
    token, key = await world.invite(), ca.new_node_key()
    first, again = await world.join(token, key), await world.join(token, key)
    assert again.node == first.node
    assert ca.fits(again.certificate, key, token.ca)
    assert len(world.members) == 2
    await world.nodes.remove(world.cluster.operator, call(), first.node)
    with pytest.raises(PetsemError) as refused:
        await world.join(token, key)
    assert refused.value.code is Code.DENIED


async def test_two_at_once(world: World) -> None:
    """Of two machines that use one token in the same group, one joins."""
    token = await world.invite()
    done = await asyncio.gather(*(world.join(token) for _ in range(4)), return_exceptions=True)
    assert len([each for each in done if isinstance(each, pb.JoinResponse)]) == 1
    assert len(world.members) == 2


async def test_another_region(world: World) -> None:
    """A token is for the region that the operator named; it can still be used there."""
    token = await world.invite()
    assert await world.refused(token, region="ams") == (
        "denied",
        "the join token is for a node in fra, and for no other region",
    )
    assert (await world.join(token)).node.startswith("fra-")


async def test_an_ended_token(world: World) -> None:
    """Fifteen minutes later it is refused, by the leader's clock."""
    token = await world.invite()
    world.cluster.clock.advance(INVITATION_MS / 1000)
    assert await world.refused(token) == ("denied", "the join token has ended; ask for a new one")


@pytest.mark.parametrize("name", ["0" * 32, "fra-1", "x", ""])
async def test_an_unknown_invitation(world: World, name: str) -> None:
    """A join certificate of the CA without an invitation's row is worth nothing."""
    request = pb.JoinRequest(region="fra", csr=ca.node_csr(ca.new_node_key()), **ADDRESSES)
    with pytest.raises(PetsemError) as refused:
        await world.nodes.join(name, request)
    assert refused.value.message == ("the cluster does not know this join token; ask for a new one")


@pytest.mark.parametrize(
    "change",
    [
        {"csr": b"hunter2"},
        {"csr": b""},
        {"region": "FRA"},
        {"region": ""},
        {"http": "hunter2"},
        {"grpc": "10.0.0.2"},
        {"peer": ""},
    ],
)
async def test_nonsense(world: World, change: dict[str, Any]) -> None:
    """Refused without being repeated, and without using up the token."""
    token = await world.invite()
    code, message = await world.refused(token, **change)
    assert code == "invalid"
    assert "hunter2" not in message
    assert (await world.join(token)).node.startswith("fra-")


async def test_a_full_cluster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a bound, and a removal makes room."""
    monkeypatch.setattr(limits, "NODES_MAX", 2)
    first = await world.join(await world.invite())
    token = await world.invite()
    assert (await world.refused(token))[0] == "limit"
    await world.nodes.remove(world.cluster.operator, call(), first.node)
    assert (await world.join(token)).node != first.node


async def test_a_call_that_is_repeated(world: World) -> None:
    """An invitation whose answer was lost is the same one with another key, and makes one node."""
    first, again = await world.invite(key="k"), await world.invite(key="k")
    assert ca.identity_of(first.certificate) == ca.identity_of(again.certificate)
    assert first.key != again.key
    await world.join(again)
    assert (await world.refused(first))[0] == "denied"
    world.cluster.clock.advance(INVITATION_MS / 1000)
    with pytest.raises(PetsemError) as refused:
        await world.invite(key="k")
    assert refused.value.code is Code.CONFLICT


async def test_no_credential_is_stored(world: World, cluster: Cluster) -> None:
    """Neither key nor token nor certificate of an invitation is in any row."""
    token = await world.invite(key="k")
    names = [row[0] for row in cluster.query("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    stored = [
        value if isinstance(value, bytes) else str(value).encode()
        for name in names
        for row in cluster.query(f"SELECT * FROM {name}")
        for value in row
    ]
    pem = token.key.reveal()
    assert not any(pem[30:80] in each or b"petsem_join_" in each for each in stored)
    assert ca.identity_of(token.certificate).node_id in {
        row[0].hex() for row in cluster.query("SELECT id FROM invitations")
    }


async def test_old_invitations_are_forgotten(world: World) -> None:
    """A week after their end, at the next invitation."""
    await world.invite()
    world.cluster.clock.advance((INVITATION_MS + INVITATIONS_KEPT_MS) / 1000)
    # The first operator token has ended by then.
    operator = await _fresh_operator(world.cluster)
    await world.nodes.invite(operator, call(), "fra")
    assert len(world.cluster.query("SELECT id FROM invitations")) == 2
    world.cluster.clock.advance(1)
    await world.nodes.invite(operator, call(), "fra")
    assert len(world.cluster.query("SELECT id FROM invitations")) == 2


async def _fresh_operator(cluster: Cluster) -> Any:
    node = cluster.node
    text = await node.writer.submit(
        lambda txn: issue_operator_token(
            txn.db,
            node.keys,
            node.identity.cluster_id,
            txn.position,
            txn.now_ms,
            created_by="recover",
        )
    )
    with node.pool.snapshot() as db:
        return node.auth.authorize(db, Request(text, None), NODES_ADMIN)


@pytest.mark.parametrize(
    ("address", "code"),
    [(None, Code.UNAVAILABLE), ("0.0.0.0:7402", Code.CONFLICT), ("[::]:7402", Code.CONFLICT)],
)
async def test_where_the_leader_is(cluster: Cluster, address: str | None, code: Code) -> None:
    """A token that could not say where to go is not made."""
    async with cluster.running() as node:
        with pytest.raises(PetsemError) as refused:
            await nodes_of(node, address).invite(cluster.operator, call(), "fra")
        assert refused.value.code is code
        assert cluster.query("SELECT id FROM invitations") == []


async def test_without_the_cluster_key(cluster: Cluster) -> None:
    """A node that cannot open the CA invites nobody, and leaves no row behind."""
    async with cluster.running() as node:
        operator = cluster.operator
        keyring = cluster.keyring
        cluster.remove_kek(cluster.kek(Purpose.CLUSTER))
        node.keys.replace(cluster.keyring)
        with pytest.raises(PetsemError) as refused:
            await nodes_of(node).invite(operator, call(), "fra")
        assert refused.value.code is Code.UNAVAILABLE
        assert cluster.query("SELECT id FROM invitations") == []
        node.keys.replace(keyring)
        assert (await nodes_of(node).invite(operator, call(), "fra")).join_token


async def test_a_renewal(world: World) -> None:
    """The node's own name and another ninety days, for whatever key it asks."""
    answer = await world.join(await world.invite())
    world.cluster.clock.advance(60 * 86_400)
    key = ca.new_node_key()
    certificate = await world.nodes.renew(answer.node, ca.node_csr(key))
    own = world.cluster.node.identity
    assert ca.identity_of(certificate) == Identity(own.cluster_id, answer.node, CertRole.NODE)
    assert ca.fits(certificate, key, answer.ca)
    assert ca.validity_of(certificate)[1] == world.cluster.clock.unix_ms() + 90 * 86_400_000
    with pytest.raises(PetsemError) as refused:
        await world.nodes.renew(answer.node, b"hunter2")
    assert refused.value.code is Code.INVALID


async def test_a_replica_takes_nobody(world: World) -> None:
    """It names the leader to whoever comes to it."""
    token = await world.invite()
    own = world.cluster.node.identity
    follow(world.cluster.node)
    expected = (
        "unavailable",
        "this node is a replica and takes no members; ask the leader: "
        f"{own.node_id} at 127.0.0.1:7402",
    )
    assert await world.refused(token) == expected
    with pytest.raises(PetsemError) as refused:
        await world.nodes.renew("fra-1", b"")
    assert (refused.value.code.value, refused.value.message) == expected


async def test_removing(world: World) -> None:
    """Once; the leader itself and strangers are not removed; a repeated call is the same one."""
    operator, own = world.cluster.operator, world.cluster.node.identity.node_id
    joined = (await world.join(await world.invite())).node
    gone = await world.nodes.remove(operator, call("k"), joined)
    assert gone.position == str(world.cluster.node.writer.position)
    assert [row[0] for row in world.members] == [own]
    assert await world.nodes.remove(operator, call("k"), joined) == gone
    for node_id, code in ((joined, Code.NOT_FOUND), (own, Code.CONFLICT), ("X/", Code.INVALID)):
        with pytest.raises(PetsemError) as refused:
            await world.nodes.remove(operator, call(), node_id)
        assert refused.value.code is code
    assert [row[0] for row in world.members] == [own]
