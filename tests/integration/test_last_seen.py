"""What a replica has seen reaches the leader over the peer port, from members alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem import limits
from petsem.clock import rfc3339
from petsem.crypto.ca import CertRole
from petsem.crypto.keys import random_id
from petsem.model import Role
from petsem.server.cluster_view import ClusterView
from petsem.server.last_seen import LastSeen
from petsem.server.peer.dial import SEEN, peer_channel
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.upstream import Upstream
from petsem.server.seen_notes import SeenNotes
from petsem.wire import petsem_pb2 as pb
from tests.support.peers import Port, open_port


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    async with open_port(tmp_path / "node", lambda node: (node.last_seen.method,)) as found:
        yield found


def listed(port: Port) -> str | None:
    """When the operator's token was last seen."""
    (token,) = port.node.tokens.list(None, None, 9).tokens
    return token.last_seen


async def test_from_a_replica_to_the_list(port: Port) -> None:
    """In as many calls as it takes, once each; the leader's next turn writes it down."""
    leader, clock = port.node, port.cluster.clock
    view = ClusterView(clock)
    view.role = Role.REPLICA
    notes = SeenNotes()
    shown = await port.member("fra-1")
    upstream = Upstream(
        lambda node: peer_channel(shown, port.own.cluster_id, node.address, node.node_id)
    )
    replica = LastSeen(
        notes=notes,
        clock=clock,
        view=view,
        pool=leader.pool,
        writer=leader.writer,
        upstream=upstream,
    )
    (nonce,) = (bytes.fromhex(each.id) for each in leader.tokens.list(None, None, 9).tokens)
    for _ in range(limits.SEEN_MAX):
        notes.note(random_id(), 1)
    at_ms = clock.unix_ms()
    notes.note(nonce, at_ms)
    upstream.follow(Candidate(port.address, leader.identity.node_id))
    await replica.turn()
    await upstream.close()
    assert notes.some(1) == {}
    assert listed(port) is None
    for _ in range(2):
        await leader.last_seen.turn()
    assert listed(port) == rfc3339(at_ms)
    with leader.pool.reading() as db:
        assert db.execute("SELECT count(*) FROM tokens_seen").fetchone() == (1,)


async def test_who_is_no_member(port: Port) -> None:
    """A join certificate, and a node that was removed, say nothing; nor does a message too long."""
    request = pb.SeenRequest(tokens=[pb.SeenToken(token=random_id(), at_ms=1)])
    joining = port.authority.issue(random_id().hex(), CertRole.JOIN)
    member = await port.member("fra-1")
    too_many = pb.SeenRequest(tokens=[pb.SeenToken(token=bytes(16))] * (limits.SEEN_MAX + 1))
    assert (await port.refused(member, SEEN, too_many))[0] == "invalid"
    await port.remove("fra-1")
    for tls in (joining, member):
        assert (await port.refused(tls, SEEN, request))[0] in ("denied", "unauthenticated")
    assert port.node.auth.notes.some(1) == {}
