"""When a token was last verified: noted in memory, handed on, and written a little at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from petsem import limits
from petsem.clock import rfc3339
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Role
from petsem.server import policy
from petsem.server.peer.dial import SEEN
from petsem.server.peer.membership import Member
from petsem.server.principal import Names, Request
from petsem.server.seen_notes import NOTE_EVERY_MS
from petsem.server.store import last_seen
from petsem.server.writer import Txn
from petsem.wire import petsem_pb2 as pb
from tests.support.nodes import Running, id_of, narrowed, outcome, running

MEMBER = Member("fra-1", "fra")
STEP_S = NOTE_EVERY_MS / 1000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


def use(node: Running, token: str) -> None:
    """Verify it, as a request does."""
    node.principal(policy.SECRETS_READ, Names("acme", "web"), token)


def seen(node: Running, token: str) -> str | None:
    """What a listing says."""
    listed = {each.id: each for each in node.node.tokens.list("acme", None, 500).tokens}
    return listed[id_of(token)].last_seen


def noted(node: Running) -> dict[bytes, int]:
    """What waits to be written."""
    return node.node.auth.notes.some(100)


async def test_what_is_used_is_listed_so(node: Running) -> None:
    """From the next turn on; a token that was never shown was never seen, and one that is refused
    was not either."""
    used, unused, late = await node.reader(), await node.reader(), await node.reader(life_s=10)
    use(node, used)
    assert seen(node, used) is None
    at = rfc3339(node.clock.unix_ms())
    node.clock.advance(20)
    assert outcome(lambda: use(node, late)) is not None
    await node.node.last_seen.turn()
    assert [seen(node, each) for each in (used, unused, late)] == [at, None, None]
    assert noted(node) == {}


async def test_every_way_of_verifying(node: Running) -> None:
    """The first time, from what is remembered, after another commit, and without the database."""
    token = await node.reader(life_s=7_200)
    nonce = bytes.fromhex(id_of(token))
    request = Request(token, None)

    def again() -> bool:
        """Whether it was noted anew."""
        told = noted(node).get(nonce) == node.clock.unix_ms()
        node.clock.advance(STEP_S)
        return told

    use(node, token)
    assert again()
    use(node, token)
    assert again()
    use(node, token)
    await node.patch({"A": "a"})
    node.clock.advance(STEP_S)
    use(node, token)
    assert again()
    assert node.node.auth.recall(request) is not None
    assert again()
    await node.fetch(token=token)
    assert again()
    assert node.verdict(token).allowed
    assert again()


async def test_a_token_that_is_used_all_the_time(node: Running) -> None:
    """Is noted once in ten minutes, and written as often; copies of it count as it does."""
    token = await node.reader(life_s=7_200)
    use(node, token)
    await node.node.last_seen.turn()
    first = seen(node, token)
    written = node.node.writer.commits
    for number in range(9):
        node.clock.advance(60)
        use(node, token)
        assert node.node.auth.recall(Request(token, None)) is not None
        assert noted(node) == {}
        use(node, narrowed(token, node.time_in(60 + number)))
        await node.node.last_seen.turn()
    assert (node.node.writer.commits, seen(node, token)) == (written, first)
    node.clock.advance(60)
    use(node, token)
    await node.node.last_seen.turn()
    assert node.node.writer.commits == written + 1
    assert seen(node, token) == rfc3339(node.clock.unix_ms())


async def test_an_idle_node_writes_nothing(node: Running) -> None:
    """Not even an empty transaction."""
    await node.node.last_seen.turn()
    before = node.node.writer.commits
    await node.node.last_seen.turn()
    assert node.node.writer.commits == before


async def answer(node: Running, *tokens: tuple[bytes, int]) -> None:
    """What a follower says that it has seen."""
    method = node.node.last_seen.method
    assert method.path == SEEN
    asked = pb.SeenRequest(tokens=[pb.SeenToken(token=t, at_ms=at) for t, at in tokens])
    await method.answer(MEMBER, asked)


async def test_what_a_follower_has_seen(node: Running) -> None:
    """It moves a time forward and never back, not into the future, and only for tokens that there
    are."""
    token = await node.reader()
    nonce = bytes.fromhex(id_of(token))
    node.clock.advance(10_000)
    now_ms = node.clock.unix_ms()
    steps = [
        (now_ms - 5_000_000, now_ms - 5_000_000),
        (now_ms - 9_000_000, now_ms - 5_000_000),
        (now_ms - 4_000_000, now_ms - 4_000_000),
        (now_ms + 9_000_000, now_ms),
        (2**63, now_ms),
        (0, now_ms),
    ]
    for told, expected in steps:
        await answer(node, (nonce, told), (random_id(), told))
        await node.node.last_seen.turn()
        assert seen(node, token) == rfc3339(expected)
    assert node.rows("SELECT count(*) FROM tokens_seen WHERE nonce = ?", nonce) == [(1,)]
    issued = {nonce for (nonce,) in node.rows("SELECT nonce FROM tokens")}
    assert {nonce for (nonce,) in node.rows("SELECT nonce FROM tokens_seen")} <= issued


@pytest.mark.parametrize("tokens", [[b"short"], [bytes(17)], [bytes(16)] * (limits.SEEN_MAX + 1)])
async def test_what_is_no_list_of_tokens(node: Running, tokens: list[bytes]) -> None:
    """It is refused whole."""
    with pytest.raises(PetsemError) as refused:
        await answer(node, *((token, 1) for token in tokens))
    assert refused.value.code is Code.INVALID
    assert bytes(16) not in noted(node)


async def test_more_than_a_turn_holds(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest waits for the next one."""
    monkeypatch.setattr(limits, "SEEN_MAX", 2)
    await node.node.last_seen.turn()
    await node.node.last_seen.turn()
    tokens = [await node.reader() for _ in range(3)]
    await node.node.last_seen.turn()
    for token in tokens:
        use(node, token)
    await node.node.last_seen.turn()
    assert sum(seen(node, each) is not None for each in tokens) == 2
    await node.node.last_seen.turn()
    assert all(seen(node, each) is not None for each in tokens)


async def test_a_replica_hands_its_notes_on(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whom it follows, and forgets them only when that has them; a note that comes meanwhile
    stays."""
    token, fresh = await node.reader(), await node.reader()
    nonces = [bytes.fromhex(id_of(each)) for each in (token, fresh)]
    use(node, token)
    at = noted(node)
    sent: list[dict[bytes, int]] = []
    fails = True

    async def ask(path: str, request: pb.SeenRequest, *_: object) -> pb.SeenResponse:
        assert path == SEEN
        if fails:
            raise unavailable("nobody is there")
        sent.append({each.token: each.at_ms for each in request.tokens})
        if len(sent) == 1:
            node.clock.advance(1)
            node.node.auth.notes.note(nonces[0], node.clock.unix_ms())
        return pb.SeenResponse()

    monkeypatch.setattr(node.node.upstream, "ask", ask)
    node.node.view.role = Role.REPLICA
    before = node.node.writer.commits
    with structlog.testing.capture_logs() as logs:
        await node.node.last_seen.turn()
    assert [each["event"] for each in logs] == ["last_seen_waits"]
    assert noted(node) == at
    fails = False
    await node.node.last_seen.turn()
    assert sent == [at, {nonces[0]: node.clock.unix_ms()}]
    assert (noted(node), node.node.writer.commits) == ({}, before)
    node.node.view.role = Role.LEADER


async def test_a_write_that_fails_loses_no_note(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written by a later turn."""
    token = await node.reader()
    use(node, token)

    async def full(job: object) -> object:
        raise unavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(node.node.writer, "submit", full)
        await node.node.last_seen.turn()
    assert seen(node, token) is None
    await node.node.last_seen.turn()
    assert seen(node, token) is not None


async def test_it_goes_with_its_token(node: Running) -> None:
    """A token that is forgotten leaves no trace of its use."""
    token = await node.reader()
    use(node, token)
    await node.node.last_seen.turn()
    nonce = bytes.fromhex(id_of(token))
    await node.tamper("DELETE FROM tokens WHERE nonce = ?", nonce)
    assert node.rows("SELECT count(*) FROM tokens_seen WHERE nonce = ?", nonce) == [(0,)]


async def test_what_changes_between_looking_and_writing(node: Running) -> None:
    """A token that was forgotten meanwhile leaves no row, and a later time stays."""
    token = await node.reader()
    nonce = bytes.fromhex(id_of(token))

    def job(txn: Txn) -> list[int]:
        given = ({nonce: 5, random_id(): 5}, {nonce: 4}, {nonce: 6})
        return [last_seen.write(txn.db, each) for each in given]

    assert await node.node.writer.submit(job) == [1, 0, 1]
    assert node.rows("SELECT nonce, at FROM tokens_seen WHERE at < 9") == [(nonce, 6)]
