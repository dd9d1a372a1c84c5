"""Routes of those who check other people's tokens: verify, its dry run, and the revocations."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from petsem.clock import rfc3339
from petsem.errors import Code, invalid
from petsem.model import Position, check_org
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.queries import RevocationsQuery
from petsem.server.api.route import Route
from petsem.server.freshness import to_http
from petsem.server.service.verify import Verdict, VerifyItem
from petsem.server.store.tokens import RevocationRow
from petsem.tokens.grammar import time_s
from petsem.wire import http

# The service verifies the asker once more, for each org in the body. So that a stranger's body is
# not parsed at length before that, one question is held to a few times what it can need; a batch
# is worth a verification of its own.
_VERIFY_MAX_BYTES: Final = 64 * 1024
_RECHECK_S: Final = 5.0
"""How often a long poll looks whether its token still holds."""


async def _verify(ask: Ask) -> http.Verdict:
    ask.require_token()
    body = await ask.body(http.Verify, most_bytes=_VERIFY_MAX_BYTES)
    verdict = ask.node.verification.verify_one(ask.request, _item(body))
    return _answer(verdict, _freshness(ask, verdict))


async def _verify_batch(ask: Ask) -> http.VerifyBatchReply:
    ask.verify()
    body = await ask.body(http.VerifyBatch)
    verdicts = ask.node.verification.verify(ask.request, [_item(each) for each in body.requests])
    # All of a batch is read at one position.
    freshness = _freshness(ask, verdicts[0])
    answers = [_answer(verdict, freshness) for verdict in verdicts]
    places = [at for at, verdict in enumerate(verdicts) if verdict.doubt is not None]
    if places:
        asked = http.VerifyBatch(requests=[body.requests[at] for at in places])
        told = await ask.upstream(asked, http.VerifyBatchReply)
        if told is not None and len(told.responses) == len(places):
            for at, answer in zip(places, told.responses, strict=True):
                answers[at] = answer
    return http.VerifyBatchReply(responses=answers)


async def _can(ask: Ask) -> http.CanVerdict:
    ask.require_token()
    body = await ask.body(http.Verify, most_bytes=_VERIFY_MAX_BYTES)
    verdict = ask.node.verification.can(ask.request, _item(body), _asked_time(body))
    return http.CanVerdict(would_allow=verdict.allowed, **_why(verdict, _freshness(ask, verdict)))


def _item(body: http.Verify) -> VerifyItem:
    return VerifyItem(body.token, body.access, body.max_staleness_s)


def _asked_time(body: http.Verify) -> int | None:
    """The moment that a dry run asks about, in Unix seconds."""
    text = body.access.get("time")
    if text is None:
        return None
    moment_s = time_s(text)
    if moment_s is None:
        raise invalid("time in access must be written YYYY-MM-DDTHH:MM:SSZ")
    return moment_s


def _freshness(ask: Ask, verdict: Verdict) -> http.Freshness:
    return to_http(ask.node.freshness.at(verdict.position))


def _answer(verdict: Verdict, freshness: http.Freshness) -> http.Verdict:
    return http.Verdict(
        allowed=verdict.allowed,
        **_why(verdict, freshness),
        discharge_signatures=[each.hex() for each in verdict.discharges] or msgspec.UNSET,
    )


def _why(verdict: Verdict, freshness: http.Freshness) -> dict[str, Any]:
    """The fields that an answer of verify and one of its dry run share."""
    if verdict.allowed:
        return {
            "token_id": verdict.token_id,
            "org": verdict.org,
            "subject": verdict.subject,
            "expires_at": rfc3339(verdict.expires_at_ms),
            "freshness": freshness,
        }
    return {
        "reason": verdict.reason,
        "caveat": verdict.caveat or msgspec.UNSET,
        "message": verdict.message,
        "freshness": freshness,
    }


async def _revocations(ask: Ask) -> http.RevocationFeed:
    ask.require_token()
    query = ask.query(RevocationsQuery)
    org = None if query.org is None else check_org(query.org)
    after = None if query.after is None else Position.parse(query.after)
    wait_s = 0 if after is None else query.wait_s
    found, position = await ask.while_connected(_news(ask, org, after, wait_s))
    return http.RevocationFeed(
        revocations=[
            http.RevocationInfo(
                token_id=row.nonce.hex(),
                org=row.org_name,
                position=str(Position(row.epoch, row.txid)),
                revoked_at=rfc3339(row.at),
            )
            for row in found
        ],
        next=str(position),
        freshness=to_http(ask.node.freshness.at(position)),
    )


async def _news(
    ask: Ask, org: str | None, after: Position | None, wait_s: float
) -> tuple[list[RevocationRow], Position]:
    """Wait in short pieces; each begins and ends by authorising the token again."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    while True:
        left_s = max(0.0, deadline_s - loop.time())
        found, position = await ask.node.verification.revocations(
            ask.request, org, after, min(left_s, _RECHECK_S)
        )
        if found or ask.node.status.draining or loop.time() >= deadline_s:
            return found, position
        after = position


_ACCESS: Final = (
    " `access` needs `org` and `action`, and may have any other attribute that caveats name, such "
    "as `app`, `machine`, `region` and `ip`; "
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/tokens/verify",
        often=True,
        handle=_verify,
        tag="verification",
        summary="May this token do this?",
        about="Answers 200 whether it may or not; an error means that there is no answer."
        + _ACCESS
        + "`time` and `user` are the server's own.",
        names="the org in `access`",
        body=http.Verify,
        body_examples=(("reading at boot", examples.VERIFY),),
        reply=http.Verdict,
        examples=(("allowed", examples.ALLOWED), ("refused", examples.REFUSED)),
        fails=(Code.STALE,),
    ),
    Route(
        method="POST",
        path="/v1/tokens/verify-batch",
        often=True,
        handle=_verify_batch,
        tag="verification",
        summary="The same for up to 512 tokens",
        about="An answer for each request, in their order, all read at one position but those to "
        "which only another node had it. Where none had, the `reason` is NOT_KNOWN_YET: the token "
        "may be newer than the node.",
        names="each org in `access`",
        body=http.VerifyBatch,
        body_examples=(("one", http.VerifyBatch(requests=[examples.VERIFY])),),
        reply=http.VerifyBatchReply,
        examples=(("two", http.VerifyBatchReply(responses=[examples.ALLOWED, examples.REFUSED])),),
        fails=(Code.STALE,),
    ),
    Route(
        method="POST",
        path="/v1/tokens/can",
        handle=_can,
        tag="verification",
        summary="Could this token do this, perhaps at another time?",
        about="The dry run of verify, for people who wonder what a token can do. It answers "
        "`would_allow`, which no program should take for leave." + _ACCESS + "`time` is the moment "
        "asked about, now if it is left out.",
        names="the org in `access`",
        body=http.Verify,
        body_examples=(("next year", examples.CAN),),
        reply=http.CanVerdict,
        examples=(("it could", examples.COULD), ("it could not", examples.COULD_NOT)),
        fails=(Code.STALE,),
    ),
    Route(
        method="GET",
        path="/v1/revocations",
        handle=_revocations,
        tag="verification",
        summary="Wait for revocations",
        about="Answers with the revocations after a position, or, if there is none, waits for one "
        "up to `wait_s` seconds. Ask once without `after` for the position to begin at, then "
        "again and again with the `next` of the answer before. A `conflict` with the reason LOST "
        "says that `after` is on a branch that a failover lost: begin anew, and forget what was "
        "remembered of tokens.",
        names="org",
        query=RevocationsQuery,
        reply=http.RevocationFeed,
        examples=(("one revoked", examples.REVOCATIONS), ("nothing yet", examples.NO_REVOCATIONS)),
        fails=(Code.STALE, Code.CONFLICT),
    ),
)
