"""What a replica passes on, when, and what becomes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Position
from petsem.server import passing_on
from petsem.server.datadir import DataDir
from petsem.server.forward import NO_LEADER_HEADER, NoLeader
from petsem.server.principal import Request
from petsem.server.replication import REMOVED
from petsem.server.rpc.connect import connect_app
from petsem.server.rpc.methods import Methods
from petsem.server.service import waiting
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import encode_token, parse_token
from petsem.wire import petsem_pb2 as pb
from tests.support.following import Line, doors, follow
from tests.support.patience import PATIENCE_S
from tests.unit.server.api.world import PEER, SECRETS, Api, narrowed
from tests.unit.server.cluster import Cluster
from tests.unit.server.rpc.world import until

GONE = unavailable("nobody can be reached")
VALUES = SECRETS + "/values"


class _Copied(Cluster):
    """A cluster on a directory that is there already."""

    def __post_init__(self) -> None:
        self.datadir = DataDir(self.directory)
        self._node = None


class Pair:
    """A leader, and a replica that had all of its data once and gets no more of it."""

    def __init__(self, leader: Api, replica: Api, line: Line) -> None:
        self.leader = leader
        self.replica = replica
        self.line = line

    def lose_data(self) -> None:
        """The replica as it is before its first snapshot."""
        self.replica.node.freshness.view.synced = False

    async def fetch(self, token: str, **fields: object) -> pb.FetchResponse:
        """A boot read of the replica, as gRPC asks it."""
        message = pb.FetchRequest(org="acme", app="web", **fields)  # type: ignore[arg-type]
        raw = await Methods(self.replica.node).fetch(Request(token, PEER), message)
        return pb.FetchResponse.FromString(raw)


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(passing_on, "APPLIED_WAIT_S", 0.0)
    monkeypatch.setattr(waiting.until_fresh, "__defaults__", (0.0,))
    (tmp_path / "leader").mkdir()
    leader = Cluster(tmp_path / "leader" / "node")
    async with leader.running():
        await Api(leader).furnish()
    copytree(tmp_path / "leader", tmp_path / "replica")
    replica = _Copied(tmp_path / "replica" / "node", leader.clock)
    async with leader.running(), replica.running():
        first, second = Api(leader), Api(replica)
        line = Line(doors(first.app, connect_app(leader.node)))
        follow(replica.node, upstream=line)
        yield Pair(first, second, line)


async def test_a_write_is_made_by_the_leader(pair: Pair) -> None:
    """The answer is the leader's, without what is for nodes only."""
    answer = await pair.replica.ask("PATCH", SECRETS, body={"set": {"C": "gamma"}})
    assert (answer.status, answer.json["version"]) == (200, 2)
    assert "petsem-position" not in answer.headers
    assert (await pair.leader.get(VALUES))["secrets"]["C"] == "gamma"
    (asked,) = pair.line.asked
    assert (asked.method, asked.path, asked.client_ip, asked.client_region, asked.hops) == (
        "PATCH", SECRETS, PEER, "ams", 1,
    )  # fmt: skip


async def test_a_write_is_answered_when_it_can_be_read_here(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes through a replica reads there what he wrote."""
    monkeypatch.setattr(passing_on, "APPLIED_WAIT_S", 20.0)
    writing = asyncio.create_task(pair.replica.set(C="gamma"))
    txid = pair.replica.node.writer.position.txid
    await until(lambda: pair.leader.node.writer.position.txid > txid)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not writing.done()
    await pair.replica.cluster.set("acme", "web", C="gamma")
    async with asyncio.timeout(PATIENCE_S):
        await writing


async def test_an_error_is_passed_through(pair: Pair) -> None:
    """With its code, its details and the headers that clients go by."""
    answer = await pair.replica.ask("PATCH", SECRETS, body={"set": {"A": "1"}, "if_version": 9})
    assert answer.error == (409, "conflict", None)
    assert answer.json["details"]["need_version"] == 9
    refused = await pair.replica.ask("PATCH", SECRETS, token="nonsense", body={})
    assert (refused.status, "www-authenticate" in refused.headers) == (401, True)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(GONE, (503, "unavailable", None)),
     (PetsemError(Code.INDETERMINATE, "lost"), (504, "indeterminate", None))],
)  # fmt: skip
async def test_a_leader_that_is_gone(
    pair: Pair, failure: PetsemError, expected: tuple[int, str, str | None]
) -> None:
    """What is not known to have happened is not called a failure."""
    pair.line.failure = failure
    assert (await pair.replica.ask("POST", "/v1/orgs", body={"org": "new"})).error == expected


async def test_strangers_are_not_passed_on(pair: Pair) -> None:
    """Without any token there is nothing that another node could find."""
    pair.lose_data()
    for method, path in (("PATCH", SECRETS), ("GET", SECRETS), ("GET", "/metrics")):
        answer = await pair.replica.ask(method, path, token=None)
        assert answer.status in (401, 503)
    assert pair.line.asked == []


async def test_the_address_is_the_client_s_and_no_header_is_believed(pair: Pair) -> None:
    """A token for one address works through a replica from there only."""
    here = narrowed(pair.replica.operator, f"ip in {PEER}")
    there = narrowed(pair.replica.operator, "ip in 198.51.100.9")
    told = [("x-forwarded-for", "198.51.100.9")]
    body = {"set": {"C": "gamma"}}
    assert (await pair.replica.ask("PATCH", SECRETS, token=here, body=body)).status == 200
    refused = await pair.replica.ask("PATCH", SECRETS, token=there, body=body, headers=told)
    assert refused.error == (403, "denied", "CAVEAT")


async def test_the_region_is_that_of_the_node_that_was_asked(pair: Pair) -> None:
    """Not of the one that answers; for a verdict's asker too."""
    token = narrowed(pair.leader.operator, "region = fra")
    asked = pb.ForwardRequest(
        method="GET",
        path=SECRETS,
        headers=[pb.Header(name="authorization", value=f"Bearer {token}")],
    )
    for region, status in (("fra", 200), ("ams", 403), ("", 403)):
        asked.client_region = region
        assert (await pair.line.forward(asked, 1.0)).status == status
    access = {"org": "acme", "action": "web:deploy"}
    question = pb.VerifyRequest(token=pair.leader.operator, access=access)
    methods = Methods(pair.leader.node)
    assert await methods.verify(Request(token, None, "fra", 1), question)
    with pytest.raises(PetsemError) as refused:
        await methods.verify(Request(token, None), question)
    assert refused.value.code is Code.DENIED


# Reads


async def test_a_replica_reads_its_own_disk(pair: Pair) -> None:
    """Nobody is asked."""
    found = await pair.replica.get(VALUES)
    assert (found["secrets"], found["freshness"]["source"]) == (
        {"A": "alpha", "B": "beta"}, "disk",
    )  # fmt: skip
    assert (await pair.fetch(pair.replica.operator)).freshness.source == pb.DISK
    assert pair.line.asked == []


async def test_what_is_behind_asks_upstream_and_says_so(pair: Pair) -> None:
    """Values over HTTP, lists and boot reads alike."""
    await pair.leader.set(C="gamma")
    found = await pair.replica.get(VALUES, min_version=2)
    assert (found["secrets"]["C"], found["freshness"]["source"]) == ("gamma", "upstream")
    fetched = await pair.fetch(pair.replica.operator, min_version=2)
    assert {s.name: s.value for s in fetched.secrets}["C"] == b"gamma"
    assert (fetched.freshness.source, fetched.freshness.role) == (pb.UPSTREAM, pb.LEADER)
    assert len(pair.line.asked) == 2


@pytest.mark.parametrize("connected", [True, False])
async def test_nobody_upstream_leaves_stale_with_both_positions(
    pair: Pair, connected: bool
) -> None:
    """The replica's own answer stands where the way is cut."""
    pair.line.failure, pair.line.connected = GONE, connected
    have = pair.replica.node.writer.position
    need = Position(have.epoch, have.txid + 7)
    answer = await pair.replica.ask("GET", VALUES, min_position=str(need))
    assert answer.error == (412, "stale", None)
    assert (answer.json["details"]["have"], answer.json["details"]["need"]) == (
        str(have), str(need),
    )  # fmt: skip
    with pytest.raises(PetsemError) as refused:
        await pair.fetch(
            pair.replica.operator, min_position=pb.Position(epoch=need.epoch, txid=need.txid)
        )
    assert (refused.value.code, refused.value.detail.need) == (Code.STALE, need)


async def test_upstream_that_is_behind_too_leaves_stale(pair: Pair) -> None:
    """Nobody has it: the answer is about the node that was asked."""
    answer = await pair.replica.ask("GET", VALUES, min_version=5)
    # The leader knows that there is no such version.
    assert answer.error == (412, "stale", None)
    assert answer.json["details"] == {"have_version": 1, "need_version": 5}


async def test_a_position_that_is_lost_stays_lost(pair: Pair) -> None:
    """No other node brings a branch back."""
    answer = await pair.replica.ask("GET", VALUES, min_position=str(Position(1, 10**6)))
    assert answer.error == (409, "conflict", "LOST")
    assert pair.line.asked == []


async def test_a_new_token_is_not_called_unknown(pair: Pair) -> None:
    """A token that was minted past the replica's position is verified upstream, or not at all."""
    token = await pair.leader.mint("app = web")
    assert (await pair.fetch(token)).freshness.source == pb.UPSTREAM
    assert (await pair.replica.ask("GET", SECRETS, token=token)).status == 200
    pair.line.failure = GONE
    assert (await pair.replica.ask("GET", SECRETS, token=token)).error == (412, "stale", None)


class Asked:
    """A batch at a replica, at both doors: for each answer whether it allows, or the reason, and
    who gave it; and the batches that went upstream."""

    def __init__(self, pair: Pair, *tokens: str) -> None:
        self.pair = pair
        self.tokens = tokens
        self.access = {"org": "acme", "action": "web:deploy"}

    async def over_http(self) -> list[tuple[bool | str, str]]:
        questions = [{"token": token, "access": self.access} for token in self.tokens]
        replica, path = self.pair.replica, "/v1/tokens/verify-batch"
        found = await replica.done("POST", path, body={"requests": questions})
        return [(a["allowed"] or a["reason"], a["freshness"]["source"]) for a in found["responses"]]

    async def over_rpc(self) -> list[tuple[bool | str, str]]:
        methods, request = (
            Methods(self.pair.replica.node),
            Request(self.pair.replica.operator, PEER),
        )
        questions = [pb.VerifyRequest(token=token, access=self.access) for token in self.tokens]
        raw = await methods.verify_batch(request, pb.VerifyBatchRequest(requests=questions))
        return [
            (answer.allowed or answer.reason, pb.Source.Name(answer.freshness.source).lower())
            for answer in pb.VerifyBatchResponse.FromString(raw).responses
        ]

    def passed_on(self) -> list[list[str]]:
        bodies = [each.body for each in self.pair.line.asked]
        if not bodies:
            return []
        over_http, over_rpc = bodies
        return [
            [each["token"] for each in json.loads(over_http)["requests"]],
            [each.token for each in pb.VerifyBatchRequest.FromString(over_rpc).requests],
        ]


async def test_of_a_batch_only_what_is_in_doubt_is_passed_on(pair: Pair) -> None:
    """A token that is newer than this node is asked about alone; the others are answered here, and
    stay answered where nobody can be asked."""
    old = pair.replica.operator
    new = await pair.leader.mint("action = web:deploy")
    asked = Asked(pair, old, new, "nonsense")
    expected = [(True, "disk"), (True, "upstream"), ("MALFORMED", "disk")]
    assert [await asked.over_http(), await asked.over_rpc()] == [expected] * 2
    assert asked.passed_on() == [[new]] * 2
    expected[1] = ("NOT_KNOWN_YET", "disk")
    for cut in ("failure", "connected"):
        if cut == "failure":
            pair.line.failure = GONE
        else:
            pair.line.connected = False
        assert [await asked.over_http(), await asked.over_rpc()] == [expected] * 2
    question = {"token": new, "access": asked.access}
    alone = await pair.replica.ask("POST", "/v1/tokens/verify", body=question)
    assert alone.error == (412, "stale", None)


async def test_an_upstream_that_refuses_the_asker(pair: Pair) -> None:
    """It has heard that the asker's token ended; that is no answer to his questions."""
    new = await pair.leader.mint("action = web:deploy")
    asked = Asked(pair, pair.replica.operator, new)
    pair.line.app = doors(_unauthenticated, _unauthenticated)
    expected = [(True, "disk"), ("NOT_KNOWN_YET", "disk")]
    assert [await asked.over_http(), await asked.over_rpc()] == [expected] * 2


async def test_a_token_of_a_time_that_cannot_be(pair: Pair) -> None:
    """A made-up one that claims to be newer than the cluster: no trip upstream, neither of one that
    asks nor of one that is asked about, however it lies."""
    node = pair.replica.node
    have = node.writer.position
    node.freshness.view.leader_heard(have, ago_ms=0, epoch_seen=have.epoch)
    root = parse_token(pair.replica.operator).root
    real = Identifier.parse(root.identifier)

    def made_up(epoch: int, txid: int) -> str:
        claim = dataclasses.replace(real, root_key_id=bytes(16), epoch=epoch, txid=txid)
        return encode_token(dataclasses.replace(root, identifier=claim.encode()))

    late, far = made_up(have.epoch, 2**63), made_up(2**32 - 1, have.txid)
    asked = Asked(pair, pair.replica.operator, late, far)
    expected = [(True, "disk"), *[("UNKNOWN_KEY", "disk")] * 2]
    assert [await asked.over_http(), await asked.over_rpc()] == [expected] * 2
    for token in (late, far):
        answer = await pair.replica.ask("GET", SECRETS, token=token)
        assert answer.error == (401, "unauthenticated", "UNKNOWN_KEY")
    assert pair.line.asked == []
    # What may have come since the leader was heard is asked about.
    soon = made_up(have.epoch + 1_024, have.txid + 1)
    answer = await pair.replica.ask("GET", SECRETS, token=soon)
    assert answer.error == (401, "unauthenticated", "UNKNOWN_KEY")
    assert len(pair.line.asked) == 1


async def _unauthenticated(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_a_node_without_data_asks_upstream_for_everything(pair: Pair) -> None:
    """All but what is about itself."""
    pair.lose_data()
    assert (await pair.replica.get(VALUES))["freshness"]["source"] == "upstream"
    assert (await pair.replica.get("/v1/orgs"))["orgs"][0]["org"] == "acme"
    assert (await pair.fetch(pair.replica.operator)).freshness.source == pb.UPSTREAM
    access = {"org": "acme", "action": "web:deploy"}
    body = {"token": pair.replica.operator, "access": access}
    verdict = await pair.replica.done("POST", "/v1/tokens/verify", body=body)
    assert (verdict["allowed"], verdict["freshness"]["source"]) == (True, "upstream")
    question = pb.VerifyRequest(token=pair.replica.operator, access=access)
    methods, request = Methods(pair.replica.node), Request(pair.replica.operator, PEER)
    raw = await methods.verify(request, question)
    assert pb.VerifyResponse.FromString(raw).freshness.source == pb.UPSTREAM
    batch = pb.VerifyBatchRequest(requests=[question, question])
    replies = pb.VerifyBatchResponse.FromString(await methods.verify_batch(request, batch))
    assert [(r.allowed, r.freshness.source) for r in replies.responses] == [(True, pb.UPSTREAM)] * 2
    asked = len(pair.line.asked)
    own = pair.replica.node.identity.node_id
    for verb in ("promote", "accept-loss"):
        path = f"/v1/nodes/{own}/{verb}"
        assert (await pair.replica.ask("POST", path, token="nonsense")).status == 401
    answer = await pair.replica.ask("GET", "/readyz")
    assert answer.json["details"]["reasons"] == ["this node has not received its data yet"]
    assert (await pair.replica.ask("GET", "/healthz")).status == 200
    assert len(pair.line.asked) == asked


async def test_a_node_without_data_opens_no_streams(pair: Pair) -> None:
    """They are not passed on; another node has them."""
    pair.lose_data()
    methods, request = Methods(pair.replica.node), Request(pair.replica.operator, PEER)
    watching = methods.watch(request, pb.WatchRequest(org="acme", app="web"))
    feed = methods.watch_revocations(request, pb.WatchRevocationsRequest())
    for stream in (watching, feed):
        with pytest.raises(PetsemError) as refused:
            await anext(stream)
        assert refused.value.code is Code.UNAVAILABLE


async def test_a_node_that_was_removed_answers_nothing(pair: Pair) -> None:
    """No value, no list, no verdict and no write, not from its disk and not from another; what
    was being watched ends. It says so itself, and takes no promotion."""
    node = pair.replica.node
    methods, request = Methods(node), Request(pair.replica.operator, PEER)
    watching = methods.watch(request, pb.WatchRequest(org="acme", app="web"))
    feed = methods.watch_revocations(request, pb.WatchRevocationsRequest())
    await anext(watching)
    await anext(feed)
    node.view.removed = REMOVED
    node.changes.publish_all()
    access = {"org": "acme", "action": "web:deploy"}
    question = pb.VerifyRequest(token=pair.replica.operator, access=access)
    asked = [
        anext(watching),
        anext(feed),
        pair.fetch(pair.replica.operator),
        methods.verify(request, question),
        methods.verify_batch(request, pb.VerifyBatchRequest(requests=[question])),
        methods.watch(request, pb.WatchRequest(org="acme", app="web")).__anext__(),
    ]
    for each in asked:
        with pytest.raises(PetsemError, match="removed from the cluster") as refused:
            await each
        assert refused.value.code is Code.UNAVAILABLE
    with pytest.raises(PetsemError, match="removed from the cluster"):
        node.verification.verify(request, [])
    body = {"token": pair.replica.operator, "access": access}
    for method, path, sent in (
        ("GET", VALUES, None),
        ("GET", SECRETS, None),
        ("PATCH", SECRETS, {"set": {"C": "gamma"}}),
        ("POST", "/v1/tokens/verify", body),
    ):
        answer = await pair.replica.ask(method, path, body=sent)
        assert (answer.status, answer.json["message"]) == (503, REMOVED), path
    assert pair.line.asked == []
    answer = await pair.replica.ask("GET", "/readyz")
    assert answer.json["details"]["reasons"] == [REMOVED]
    (own,) = (await pair.replica.get("/v1/status"))["nodes"]
    assert (own["ready"], own["warnings"][0]) == (False, REMOVED)
    with pytest.raises(PetsemError, match="removed from the cluster"):
        await node.roles.promote(node.identity.node_id, force=True)


@pytest.mark.parametrize(
    ("purpose", "helped"),
    [(Purpose.TOKENS, True), (Purpose.SECRETS, False)],
)
async def test_a_key_that_is_missing(pair: Pair, purpose: Purpose, helped: bool) -> None:
    """Who cannot authenticate asks upstream; values are not read for a node that may not read
    them."""
    token = await pair.leader.mint("app = web")
    pair.replica.cluster.remove_kek(pair.replica.cluster.kek(purpose))
    pair.replica.node.keys.replace(pair.replica.cluster.keyring)
    if helped:
        assert (await pair.fetch(token)).freshness.source == pb.UPSTREAM
    else:
        with pytest.raises(PetsemError) as refused:
            await pair.fetch(pair.replica.operator)
        assert refused.value.code is Code.UNAVAILABLE
        assert pair.line.asked == []


async def test_only_so_many_are_on_their_way(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, and the places come back."""
    monkeypatch.setattr("petsem.limits.FORWARDS_MAX", 0)
    full = Api(pair.replica.cluster)
    assert (await full.ask("PATCH", SECRETS, body={"set": {"C": "1"}})).error[1] == "limit"
    monkeypatch.setattr("petsem.limits.FORWARDS_MAX", 1)
    narrow = Api(pair.replica.cluster)
    for text in ("1", "2"):
        await narrow.set(C=text)


async def test_a_chain_passes_on_what_it_gets(pair: Pair) -> None:
    """The node in the middle counts itself, and keeps the client's address and the position."""
    middle = Line(doors(pair.replica.app, connect_app(pair.replica.node)))
    request = pb.ForwardRequest(
        method="PATCH",
        path=SECRETS,
        headers=[
            pb.Header(name="authorization", value=f"Bearer {pair.replica.operator}"),
            pb.Header(name="content-type", value="application/json"),
        ],
        body=b'{"set":{"C":"gamma"}}',
        client_ip="198.51.100.9",
        client_region="fra",
    )
    response = await middle.forward(request, 1.0)
    assert response.status == 200
    assert "petsem-position" in {header.name for header in response.headers}
    (asked,) = pair.line.asked
    assert (asked.client_ip, asked.client_region, asked.hops) == ("198.51.100.9", "fra", 2)


async def test_a_chain_that_leads_to_nobody(pair: Pair) -> None:
    """The node before is told that nothing has happened, so that it may ask another; a client is
    told what is so, and nothing for nodes."""
    pair.line.failure = NoLeader("the leader ams-1 cannot be reached from this node")
    middle = Line(doors(pair.replica.app, connect_app(pair.replica.node)))
    request = pb.ForwardRequest(
        method="PATCH",
        path=SECRETS,
        headers=[
            pb.Header(name="authorization", value=f"Bearer {pair.replica.operator}"),
            pb.Header(name="content-type", value="application/json"),
        ],
        body=b'{"set":{"C":"gamma"}}',
    )
    response = await middle.forward(request, 1.0)
    assert response.status == 503
    assert NO_LEADER_HEADER.decode() in {header.name for header in response.headers}
    answer = await pair.replica.ask("PATCH", SECRETS, body={"set": {"C": "gamma"}})
    assert (answer.status, answer.json["message"]) == (503, pair.line.failure.message)
    assert NO_LEADER_HEADER.decode() not in answer.headers


async def test_on_the_leader_nothing_is_passed_on(pair: Pair) -> None:
    """Its own errors are its answers."""
    assert (await pair.leader.ask("GET", VALUES, version=9)).error == (404, "not_found", None)
    refused = await pair.leader.ask(
        "GET", VALUES, min_position=str(Position(9, 1)),
    )  # fmt: skip
    assert refused.error == (412, "stale", None)
