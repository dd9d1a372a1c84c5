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
from petsem.server.lost_revocations import MARK
from petsem.server.peer.membership import Member
from petsem.server.principal import Request
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
    for hops, problem in ((0, "no leader is known"), (limits.FORWARD_HOPS_MAX, "as many nodes")):
        with pytest.raises(PetsemError, match=problem):
            await ask(node, nonce, hops=hops)


async def test_whose_branch_it_was(node: Running) -> None:
    """Whoever asks for himself is who his certificate says; a name that is passed on is one."""
    token = bytes.fromhex(id_of(await node.org_token()))
    method = node.node.lost_revocations.method
    await method.answer(MEMBER, pb.RevokeRequest(tokens=[token], node="nrt-9"))
    with node.node.pool.reading() as db:
        assert sql.rows(db, "SELECT subject FROM revocations") == [("node:fra-1",)]
    with pytest.raises(PetsemError) as refused:
        await method.answer(MEMBER, pb.RevokeRequest(tokens=[token], node="n" * 1000, hops=1))
    assert refused.value.code is Code.INVALID


async def branches(node: Running, *names: bytes) -> list[Path]:
    """Directories of lost branches with these lists."""
    made = []
    for number, each in enumerate(names):
        branch = node.site.datadir.lost / f"branch-{number}"
        branch.mkdir(parents=True)
        files.write_atomic(branch / NAMES, each)
        made.append(branch)
    return made


@pytest.mark.parametrize(
    "names",
    [
        b"not json",
        b'{"revocations": [{"nonce": "zz"}]}',
        b'{"revocations": [{"nonce": "00"}]}',
        b'{"unreadable": true}',
    ],
)
async def test_a_list_that_nobody_can_read(tmp_path: Path, names: bytes) -> None:
    """It is not marked as done, and keeps no other from being done."""
    async with running(tmp_path, furnished=False) as node:
        bad, good = await branches(node, names, b"{}")
        lost = node.node.lost_revocations
        for branch in lost._unmarked():
            await lost._make_again(branch)
        assert not files.present(bad / MARK)
        assert files.present(good / MARK)
        assert lost._unmarked() == []
