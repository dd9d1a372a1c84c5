"""Answers from upstream: marked, and otherwise as they were."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from petsem.errors import Code, Detail, PetsemError
from petsem.model import Position
from petsem.server.rpc.errors import connect_error
from petsem.server.upstream_answers import error_of, mark_json, mark_reply
from petsem.wire import petsem_pb2 as pb

FRESH = pb.Freshness(
    node="ams-1", role=pb.LEADER, source=pb.DISK, lag_ms=0, position=pb.Position(epoch=1, txid=2)
)
MARKED = pb.Freshness(
    node="ams-1",
    role=pb.LEADER,
    source=pb.UPSTREAM,
    lag_ms=0,
    position=pb.Position(epoch=1, txid=2),
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"a": 1, "freshness": {"source": "disk", "node": "n"}},
         {"a": 1, "freshness": {"source": "upstream", "node": "n"}}),
        ({"responses": [{"freshness": {"source": "disk"}}, {"freshness": {"source": "disk"}}]},
         {"responses": [{"freshness": {"source": "upstream"}}] * 2}),
        ({"orgs": []}, {"orgs": []}),
        ([1], [1]),
    ],
)  # fmt: skip
def test_json_is_marked_where_it_has_freshness(body: object, expected: object) -> None:
    """Large numbers and everything else stay."""
    assert msgspec.json.decode(mark_json(msgspec.json.encode(body))) == expected


def test_what_is_not_json_is_left_alone() -> None:
    """As it came."""
    assert mark_json(b"not json") == b"not json"


def test_replies_are_marked() -> None:
    """Each kind that is passed on, in its field."""
    fetched = pb.FetchResponse(version=3, etag=b"e", freshness=FRESH)
    raw = mark_reply("/petsem.v1.Secrets/Fetch", fetched.SerializeToString())
    assert pb.FetchResponse.FromString(raw) == pb.FetchResponse(
        version=3, etag=b"e", freshness=MARKED
    )
    verdict = pb.VerifyResponse(allowed=True, freshness=FRESH)
    raw = mark_reply("/petsem.v1.Tokens/Verify", verdict.SerializeToString())
    assert pb.VerifyResponse.FromString(raw) == pb.VerifyResponse(allowed=True, freshness=MARKED)
    batch = pb.VerifyBatchResponse(responses=[verdict, verdict])
    raw = mark_reply("/petsem.v1.Tokens/VerifyBatch", batch.SerializeToString())
    assert [each.freshness for each in pb.VerifyBatchResponse.FromString(raw).responses] == [
        MARKED, MARKED,
    ]  # fmt: skip
    with pytest.raises(PetsemError):
        mark_reply("/petsem.v1.Tokens/VerifyBatch", b"\xff")


@pytest.mark.parametrize(
    "detail",
    [
        Detail(),
        Detail(reason="LOST", have=Position(1, 2), need=Position(1, 3, 4)),
        Detail(have_version=0, need_version=7),
        Detail(reason="CAVEAT", caveat="app = web", retry_after_s=7),
    ],
)
@pytest.mark.parametrize("code", list(Code))
def test_an_error_comes_back_as_it_was(code: Code, detail: Detail) -> None:
    """Code, sentence, and all that its detail carries over Connect; what may be tried again says
    when, though whoever raised it did not."""
    status, body, _ = connect_error(PetsemError(code, "a sentence", detail), 5)
    found = error_of(pb.ForwardResponse(status=status, body=body))
    if code in (Code.LIMIT, Code.UNAVAILABLE) and detail.retry_after_s is None:
        detail = replace(detail, retry_after_s=1)
    assert (found.code, found.message, found.detail) == (code, "a sentence", detail)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"{}", b'{"details":[]}', b'{"details":[{"value":7}]}',
        b'{"details":[{"value":"!"}],"message":"m"}', b'{"details":[{"value":"/w"}],"message":"m"}',
        b'{"details":[{"value":"CgFY"}],"message":"m"}',
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_unavailable(body: bytes) -> None:
    """Whatever it is, it is not taken for one of ours."""
    assert error_of(pb.ForwardResponse(status=502, body=body)).code is Code.UNAVAILABLE
