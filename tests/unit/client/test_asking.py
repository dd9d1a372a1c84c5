"""Asking nodes about tokens, and the feed over many streams, as stories without a network."""

from __future__ import annotations

import grpc
import pytest

from petsem.clock import ManualClock
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position
from petsem.server.rpc.errors import grpc_error
from petsem.server.stale import leader_unheard
from petsem.tokens.text import parse_token
from petsem.wire import petsem_pb2 as pb
from petsem_client.asking import AskSession, FeedSession, parse_news
from petsem_client.failures import Failure, failure_of
from petsem_client.feed import Feed, News
from petsem_client.replies import BrokenReply
from petsem_client.session import Send
from petsem_client.shared import Shared
from petsem_client.tour import Pause
from petsem_client.verdicts import Answers, Question, parse_answers
from tests.unit.client.far_end import A, B, FarEnd, token
from tests.unit.client.verifier_end import READ, Verifier

STATUS = grpc.StatusCode
BUSY = failure_of(STATUS.RESOURCE_EXHAUSTED, "busy", ())
RESET = failure_of(STATUS.UNAVAILABLE, "connection reset", ())
NONCE = b"n" * 16


def sent(step: object) -> Send:
    assert isinstance(step, Send)
    return step


def caveats_of(step: object) -> list[str]:
    return [c.cid.decode() for c in parse_token(sent(step).token.reveal().decode()).root.caveats]


class Kept:
    """Whoever listens to the feed."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.feed_timeout_s = 30.0
        self.news: list[News] = []
        self.losses = 0

    def take(self, news: News) -> None:
        self.news.append(news)
        self.feed.heard(news, 1_000.0)

    def opened(self) -> None:
        self.feed.opened(1_000.0)

    def lost(self) -> None:
        self.losses += 1
        self.feed.lost()


class Feeding:
    """A feed of acme's, and the node that sends it."""

    def __init__(self, org: str | None = "acme") -> None:
        self.clock = ManualClock()
        self.node = FarEnd(self.clock)
        self.kept = Kept()
        shared = Shared.of(
            [A, B], token=token(), clock=self.clock, timeout_s=10.0, attempt_timeout_s=1.5
        )
        self.session = FeedSession(shared, org, self.kept)

    def message(self, txid: int, nonce: bytes = b"", lag_ms: int | None = 0) -> bytes:
        freshness = self.node.freshness()
        if lag_ms is not None:
            freshness.lag_ms = lag_ms
        return pb.Revocation(
            token_id=nonce.hex(), position=pb.Position(epoch=1, txid=txid), freshness=freshness
        ).SerializeToString()


def asked(step: object) -> pb.WatchRevocationsRequest:
    return pb.WatchRevocationsRequest.FromString(sent(step).body)


def test_the_feed_s_token_is_narrowed() -> None:
    """To verifying, its org and an hour; for all orgs, without an org."""
    our = Feeding()
    caveats = caveats_of(our.session.start())
    assert caveats[:2] == ["org = acme", "action = tokens:verify"]
    assert len(caveats) == 3
    assert caveats_of(Feeding(None).session.start())[0] == "action = tokens:verify"


def test_the_feed_begins_now_and_goes_on_where_it_was() -> None:
    """On the next stream, wherever that is, after the last position."""
    our = Feeding()
    first = our.session.start()
    assert not asked(first).HasField("after")
    assert asked(first).org == "acme"
    assert our.session.received(our.message(7)) is None
    assert our.session.received(our.message(9, NONCE)) is None
    step = our.session.failed(RESET)
    assert asked(step).after == pb.Position(epoch=1, txid=9)
    assert str(sent(step).endpoint) == B
    assert [news.nonce for news in our.kept.news] == [None, NONCE]


@pytest.mark.parametrize("lag_ms", [None, 31_000])
def test_a_node_that_is_too_far_behind_is_left(lag_ms: int | None) -> None:
    """Its signs of life keep nothing alive, so another node is asked."""
    our = Feeding()
    our.session.start()
    step = our.session.received(our.message(7, lag_ms=lag_ms))
    assert str(sent(step).endpoint) == B


def test_a_lost_position() -> None:
    """Everything is forgotten, and the feed begins anew, from now."""
    our = Feeding()
    our.session.start()
    our.session.received(our.message(7))
    lost = our.node.refused(STATUS.ABORTED, "conflict", "LOST").failure()
    step = our.session.failed(lost)
    assert not asked(step).HasField("after")
    assert our.kept.losses == 1
    with pytest.raises(PetsemError) as caught:
        our.session.failed(lost)
    assert caught.value.code is Code.CONFLICT


def test_a_feed_ends_with_its_token_only() -> None:
    """Nodes that go away are asked again, with pauses, for ever; a refusal is final."""
    our = Feeding()
    step = our.session.start()
    pauses = 0
    for _ in range(60):
        if isinstance(step, Pause):
            pauses += 1
            assert step.seconds <= 5
            step = our.session.resumed()
        else:
            step = our.session.closed()
    assert pauses >= 15
    with pytest.raises(PetsemError) as caught:
        our.session.failed(our.node.refused(STATUS.PERMISSION_DENIED, "denied").failure())
    assert caught.value.code is Code.DENIED


def test_renewal_is_no_failure() -> None:
    """When a stream's time is up the same node is asked at once, with a new token."""
    our = Feeding()
    first = sent(our.session.start())
    our.clock.advance(first.timeout_s)
    step = sent(our.session.failed(failure_of(STATUS.DEADLINE_EXCEEDED, "", ())))
    assert (str(step.endpoint), first.timeout_s) == (A, 3_570)
    assert step.token != first.token


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        pb.Revocation(token_id="zz").SerializeToString(),
        pb.Revocation(freshness=pb.Freshness(position=pb.Position())).SerializeToString(),
        pb.Revocation(
            token_id="ab",
            position=pb.Position(),
            freshness=pb.Freshness(position=pb.Position()),
        ).SerializeToString(),
        pb.Revocation(position=pb.Position(epoch=1)).SerializeToString(),
    ],
)
def test_news_that_is_none(body: bytes) -> None:
    """A node that sends it is left, and nothing of it is taken in."""
    with pytest.raises(BrokenReply):
        parse_news(body)
    our = Feeding()
    our.session.start()
    assert str(sent(our.session.received(body)).endpoint) == B
    assert our.kept.news == []


# Answers


def test_an_ask_is_narrowed_to_its_org_and_a_minute() -> None:
    """And goes on to the next node when one breaks the protocol."""
    verifier = Verifier()
    question = verifier.question(verifier.node.issue().text)
    shared = Shared.of(
        [A, B], token=token(), clock=verifier.clock, timeout_s=10.0, attempt_timeout_s=1.5
    )
    session = AskSession(shared, "acme", [question], batch=False, timeout_s=None)
    step = sent(session.start())
    assert caveats_of(step)[:2] == ["org = acme", "action = tokens:verify"]
    assert pb.VerifyRequest.FromString(step.body).token == question.text
    assert str(sent(session.answered(b"\xff")).endpoint) == B
    reply = verifier.node.verify(question.text, READ)
    found = session.answered(reply.SerializeToString())
    assert isinstance(found, Answers)
    assert found.answers[0].verdict.allowed


def unheard() -> Failure:
    """What a node says whose leader is away, as it arrives."""
    return failure_of(*grpc_error(leader_unheard(Position(1, 30), 40_000, 30), 0))


def asking(clock: ManualClock, bound_s: int | None = None) -> AskSession:
    """A session at two nodes, A first."""
    verifier = Verifier()
    question = verifier.state.ask(verifier.node.issue().text, READ, bound_s)
    assert isinstance(question, Question)
    shared = Shared.of([A, B], token=token(), clock=clock, timeout_s=10.0, attempt_timeout_s=1.5)
    return AskSession(shared, "acme", [question], batch=False, timeout_s=None)


@pytest.mark.parametrize(
    ("first", "second"), [(unheard(), unheard()), (unheard(), RESET), (RESET, unheard())]
)
def test_a_leader_that_is_away(first: Failure, second: Failure) -> None:
    """Once everyone was asked, a call does not wait for its end to say what it knows."""
    session = asking(ManualClock())
    session.start()
    assert str(sent(session.failed(first)).endpoint) == B
    with pytest.raises(PetsemError) as refused:
        session.failed(second)
    assert (refused.value.code, refused.value.detail.reason) == (Code.STALE, "LEADER_UNHEARD")


@pytest.mark.parametrize(
    ("failures", "bound_s"),
    [
        ((RESET, RESET), None),
        ((unheard(), BUSY), None),
        ((unheard(), unheard()), 2),
    ],
)
def test_what_may_change_is_asked_for_again(
    failures: tuple[Failure, Failure], bound_s: int | None
) -> None:
    """Nodes that are away or busy; and a bound that is passed between two signs of life."""
    session = asking(ManualClock(), bound_s)
    session.start()
    session.failed(failures[0])
    assert isinstance(session.failed(failures[1]), Pause)


def test_an_answer_that_is_about_something_else() -> None:
    """Another token, another org, nobody, no end, discharges of somebody else's: not believed."""
    verifier = Verifier()
    question = verifier.question(verifier.node.issue(kind=Kind.PERSON, person="a@example.com").text)
    right = verifier.node.verify(question.text, READ)
    for field, wrong in {
        "token_id": "11" * 16,
        "org": "beta",
        "subject": "",
        "expires_at_ms": 0,
        "freshness": None,
        "discharge_signatures": [bytes(32)],
    }.items():
        reply = pb.VerifyResponse.FromString(right.SerializeToString())
        reply.ClearField(field)  # type: ignore[arg-type]
        if isinstance(wrong, list):
            reply.discharge_signatures.extend(wrong)
        elif wrong:
            setattr(reply, field, wrong)
        with pytest.raises(BrokenReply):
            parse_answers([question], reply.SerializeToString(), batch=False)
    batch = pb.VerifyBatchResponse(responses=[right, right]).SerializeToString()
    with pytest.raises(BrokenReply):
        parse_answers([question], batch, batch=True)


def test_a_node_that_does_not_say_discharges() -> None:
    """An older one: its answers are kept for the same text, and no copies are recognised."""
    verifier = Verifier()
    token = verifier.node.issue(kind=Kind.PERSON, person="a@example.com")
    question = verifier.question(token.text)
    reply = verifier.node.verify(question.text, READ)
    reply.ClearField("discharge_signatures")
    (answer,) = parse_answers([question], reply.SerializeToString(), batch=False).answers
    verifier.state.learned(question, answer)
    assert not verifier.asked(token.text)[1]
    assert verifier.asked(token.narrowed("app = web"))[1]


def test_a_refusal_is_shown_safely() -> None:
    """What a node says is bounded, printable and rid of tokens; a reason that is none is one."""
    verifier = Verifier()
    question = verifier.question(verifier.node.issue().text)
    reply = verifier.node.verify(question.text, READ)
    reply.allowed = False
    reply.reason, reply.message = "so so", f"\x1b[2J{question.text}" + "x" * 100_000
    (answer,) = parse_answers([question], reply.SerializeToString(), batch=False).answers
    assert (answer.verdict.allowed, answer.verdict.reason) == (False, "UNKNOWN")
    assert len(answer.verdict.message) < 3_000
    assert question.text[10:60] not in answer.verdict.message
    assert "\x1b" not in answer.verdict.message


def test_positions_of_the_feed() -> None:
    """What may be kept: nothing before the first sign of life, then what has all that was told."""
    our = Feeding()
    feed = our.kept.feed
    assert not feed.covers(Position(1, 7))
    assert not feed.is_reached_by(Position(1, 7))
    our.session.start()
    our.session.received(our.message(7))
    assert (feed.covers(Position(1, 6)), feed.covers(Position(1, 7))) == (False, True)
    our.session.received(our.message(9))
    assert (feed.covers(Position(1, 7)), feed.is_reached_by(Position(1, 8))) == (True, False)
    our.session.received(our.message(9, NONCE))
    assert not feed.covers(Position(1, 9))
    our.session.received(our.message(11, NONCE))
    assert (feed.covers(Position(1, 10)), feed.covers(Position(1, 11))) == (False, True)
    assert not feed.covers(Position(2, 12))
