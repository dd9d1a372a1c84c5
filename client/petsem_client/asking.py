"""Asking nodes about tokens, and listening to the feed of revocations, without the network.

Guarantees: an ask ends with an answer to each question or with a `PetsemError`, and does not wait
for nodes whose leader is away to hear of it; a feed goes on, at another node if need be, from where
it was, until the verifier's own token is refused for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import or_
from typing import Final, Never, Protocol

from google.protobuf.message import DecodeError

from petsem.errors import Code, PetsemError
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf
from petsem_client.failures import Failure, Retry
from petsem_client.feed import Feed, News
from petsem_client.narrowing import FETCH_LIFE_S, WATCH_LIFE_S, Narrowed, Scope
from petsem_client.replies import BrokenReply, freshness_of
from petsem_client.session import Send, Step
from petsem_client.shared import Shared
from petsem_client.streaming import StreamSession
from petsem_client.tour import Ask, Pause
from petsem_client.unary import UnarySession
from petsem_client.verdicts import Answers, Question, parse_answers

_ACTION: Final = "tokens:verify"
_UNHEARD: Final = "LEADER_UNHEARD"
_UNHEARD_FROM_S: Final = 5
"""A node hears its leader each second. For a verdict that may be as old as this it has missed that
several times, so it is not worth asking again at once."""
_FEED_PAUSE_MAX_S: Final = 5.0
_NONCE_BYTES: Final = 16


class AskSession(UnarySession[Answers]):
    """One call of Verify or VerifyBatch, about tokens for one org."""

    def __init__(
        self,
        shared: Shared,
        org: str,
        questions: Sequence[Question],
        *,
        batch: bool,
        timeout_s: float | None,
    ) -> None:
        self._questions = questions
        self._batch = batch
        bounds_s = (question.max_staleness_s for question in questions)
        self._patient = any(s is not None and s < _UNHEARD_FROM_S for s in bounds_s)
        messages = [question.message() for question in questions]
        request = pb.VerifyBatchRequest(requests=messages) if batch else messages[0]
        scope = Scope(org, None, None, FETCH_LIFE_S, _ACTION)
        super().__init__(shared, scope, request.SerializeToString(), timeout_s)

    def answered(self, body: bytes) -> Answers | Step:
        """An answer to each question, or the next step if it cannot be used."""
        try:
            answers = parse_answers(self._questions, body, batch=self._batch)
        except BrokenReply as broken:
            return self._broke(broken)
        self._shared.rotation.worked(self._asked)
        return answers

    def _next(self) -> Step:
        step = super()._next()
        if isinstance(step, Pause) and self._is_settled():
            raise self._outcome()
        return step

    def _is_settled(self) -> bool:
        """Whether everyone was asked, and all that can be reached say that their leader is away."""
        said = [error.detail.reason == _UNHEARD for error in self._failures.values()]
        away = [error.code is Code.UNAVAILABLE for error in self._failures.values()]
        return not self._patient and any(said) and all(map(or_, said, away))


class Listener(Protocol):
    """Whoever keeps answers for as long as the feed says."""

    feed: Feed
    feed_timeout_s: float

    def take(self, news: News) -> None:
        """One message; raises BrokenReply."""

    def opened(self) -> None:
        """A stream is asked for."""

    def lost(self) -> None:
        """There is a gap."""


class FeedSession(StreamSession[Never]):
    """`start`; then `received` for each message, `failed` or `closed` when the stream ends."""

    def __init__(self, shared: Shared, org: str | None, listener: Listener) -> None:
        self._org = org
        self._listener = listener
        scope = Scope(org, None, None, WATCH_LIFE_S, _ACTION)
        super().__init__(shared, scope, _FEED_PAUSE_MAX_S)

    def received(self, body: bytes) -> Step | None:
        """A message: None, or a step off this stream."""
        try:
            news = parse_news(body)
            self._listener.take(news)
        except BrokenReply as broken:
            return self._broke(broken)
        shared, known_s = self._shared, self._listener.feed.known_until_s
        shared.rotation.worked(self._asked)
        if news.nonce is None and (
            known_s is None or shared.clock.boot_s() - known_s > self._listener.feed_timeout_s
        ):
            error = PetsemError(Code.STALE, "the node's feed is too far behind the leader")
            return super().failed(Failure(error, Retry.LATER))
        return None

    def failed(self, failure: Failure) -> Step:
        """The stream ended with an error."""
        if failure.error.code is Code.CONFLICT and self._listener.feed.position is not None:
            # The branch that the feed was on is gone. Begin anew, from now.
            self._listener.lost()
            self._begin()
            return self._next()
        return super().failed(failure)

    def _request(self, ask: Ask, token: Narrowed) -> Send:
        left_s = self._opening(token)
        self._listener.opened()
        position = self._listener.feed.position
        after = None if position is None else position_to_protobuf(position)
        request = pb.WatchRevocationsRequest(org=self._org or "", after=after)
        return Send(ask.endpoint, request.SerializeToString(), token.text, left_s)


def parse_news(body: bytes) -> News:
    """What a serialised Revocation says."""
    try:
        message = pb.Revocation.FromString(body)
        nonce = bytes.fromhex(message.token_id)
    except (DecodeError, ValueError):
        raise BrokenReply("a message that is no Revocation") from None
    if not message.HasField("position") or len(nonce) not in (0, _NONCE_BYTES):
        raise BrokenReply("a Revocation without its position, or of no token")
    freshness = freshness_of(message.freshness if message.HasField("freshness") else None)
    return News(nonce or None, freshness, position_from_protobuf(message.position))
