"""What another node may ask to have revoked, and who does it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem import limits
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError
from petsem.model import Role
from petsem.server import files, sql
from petsem.server.auth import Request
from petsem.server.lost_revocations import MARK
from petsem.server.peer.membership import Member
from petsem.server.replica.lost import NAMES
from petsem.wire import petsem_pb2 as pb
from tests.support.nodes import Running, id_of, running

MEMBER = Member("fra-1", "fra")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


async def ask(node: Running, *nonces: bytes, hops: int = 0) -> int:
    """Ask as the node fra-1."""
    request = pb.RevokeRequest(tokens=nonces, node="fra-1", hops=hops)
    reply = await node.node.lost_revocations.method.answer(MEMBER, request)
    assert isinstance(reply, pb.RevokeResponse)
    return reply.revoked


async def test_only_what_is_known_and_live(node: Running) -> None:
    """Once for each token, in one transaction, on behalf of the node that asks."""
    first, second = await node.org_token(), await node.org_token()
    nonces = [bytes.fromhex(id_of(token)) for token in (first, second)]
    before = node.node.writer.position.txid
    assert await ask(node, *nonces, random_id()) == 2
    assert await ask(node, *nonces) == 0
    assert node.node.writer.position.txid == before + 2
    with node.node.pool.reading() as db:
        found = sql.rows(db, "SELECT nonce, subject, token FROM revocations ORDER BY nonce")
        assert found == [(nonce, "node:fra-1", b"") for nonce in sorted(nonces)]
        with pytest.raises(PetsemError, match="revoked"):
            node.node.auth.identify(db, Request(first, None))


@pytest.mark.parametrize(
    "nonces", [[b"short"], [bytes(17)], [bytes(16)] * (limits.LOST_REVOCATIONS_MAX + 1)]
)
async def test_what_is_no_list_of_tokens(node: Running, nonces: list[bytes]) -> None:
    """It is refused before anything is looked up."""
    with pytest.raises(PetsemError) as refused:
        await ask(node, *nonces)
    assert refused.value.code is Code.INVALID


async def test_who_does_not_lead_passes_it_on(node: Running) -> None:
    """To whom it follows, and not for ever."""
    node.node.view.role = Role.REPLICA
    token = await node.org_token()
    nonce = bytes.fromhex(id_of(token))
    for hops, problem in ((0, "no other node"), (limits.FORWARD_HOPS_MAX, "as many nodes")):
        with pytest.raises(PetsemError, match=problem):
            await ask(node, nonce, hops=hops)


@pytest.mark.parametrize("names", [b"{}", b"not json", b'{"revocations": [{"nonce": "zz"}]}'])
async def test_a_list_without_tokens_is_marked(tmp_path: Path, names: bytes) -> None:
    """Also one that is damaged, which the log says: it is not looked at for ever."""
    async with running(tmp_path, furnished=False) as node:
        branch = node.site.datadir.lost / "fork-to-end"
        branch.mkdir(parents=True)
        files.write_atomic(branch / NAMES, names)
        lost = node.node.lost_revocations
        await lost._make_again(branch)
        assert files.present(branch / MARK)
        assert lost._unmarked() == []
