"""A verdict, and reading those that nodes send.

Guarantees: an allowed verdict is about the token and the org that were asked about, in every field;
anything else is a `BrokenReply`. Text from a node is bounded and printable before it is shown.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from petsem.limits import CAVEAT_MAX_BYTES
from petsem.model import Freshness
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import UnverifiedToken
from petsem.wire import petsem_pb2 as pb
from petsem_client.failures import REASON, safe_text
from petsem_client.known_tokens import bound_as_sent
from petsem_client.replies import BrokenReply, freshness_of

_SUBJECT_MAX_CHARS: Final = 1_024


class VerdictSource(enum.StrEnum):
    """Who decided: a node now, or the verifier by what a node said before."""

    NODE = "node"
    CACHE = "cache"


class Verdict(msgspec.Struct, frozen=True):
    """Whether a token may do what was asked. Of one that may not only why is told.

    `reason` is of an open set: one that you do not know is a refusal too. `expires_at_ms`: Unix
    milliseconds.
    """

    allowed: bool
    source: VerdictSource
    token_id: str = ""
    org: str = ""
    subject: str = ""
    expires_at_ms: int = 0
    reason: str = ""
    caveat: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One token that a node is asked about; `key` is what its text is found by here."""

    text: str = field(repr=False)
    access: Mapping[str, str]
    max_staleness_s: int | None
    key: bytes
    token: UnverifiedToken = field(repr=False)
    identifier: Identifier

    def message(self) -> pb.VerifyRequest:
        """What to send."""
        return pb.VerifyRequest(
            token=self.text, access=self.access, max_staleness_s=self.max_staleness_s
        )


class Answer(NamedTuple):
    """What a node says to a question. `signatures`: of the token's discharges, not bound."""

    verdict: Verdict
    freshness: Freshness
    signatures: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Answer({self.verdict!r})"


class Answers(NamedTuple):
    """An answer for each question, in their order."""

    answers: tuple[Answer, ...]


def parse_answers(questions: Sequence[Question], body: bytes, *, batch: bool) -> Answers:
    """What a serialised reply to these questions says."""
    try:
        if batch:
            replies = list(pb.VerifyBatchResponse.FromString(body).responses)
        else:
            replies = [pb.VerifyResponse.FromString(body)]
    except DecodeError:
        raise BrokenReply("a reply that is no verdict") from None
    if len(replies) != len(questions):
        raise BrokenReply("another number of verdicts than questions")
    return Answers(tuple(map(_answer, questions, replies)))


def _answer(question: Question, reply: pb.VerifyResponse) -> Answer:
    freshness = freshness_of(reply.freshness if reply.HasField("freshness") else None)
    if not reply.allowed:
        known = REASON.fullmatch(reply.reason)
        verdict = Verdict(
            False,
            VerdictSource.NODE,
            reason=reply.reason if known else "UNKNOWN",
            caveat=safe_text(reply.caveat, CAVEAT_MAX_BYTES),
            message=safe_text(reply.message, CAVEAT_MAX_BYTES + 256),
        )
        return Answer(verdict, freshness, ())
    if (reply.token_id, reply.org) != (question.identifier.token_id, question.access["org"]):
        raise BrokenReply("a verdict on another token, or for another org")
    if reply.expires_at_ms == 0 or not 1 <= len(reply.subject) <= _SUBJECT_MAX_CHARS:
        raise BrokenReply("a permission that does not say whose, or until when")
    signatures = tuple(reply.discharge_signatures)
    if signatures and not bound_as_sent(question.token, signatures):
        raise BrokenReply("signatures that are not of the token's discharges")
    verdict = Verdict(
        True, VerdictSource.NODE, reply.token_id, reply.org, reply.subject, reply.expires_at_ms
    )
    return Answer(verdict, freshness, signatures)
