"""From a gRPC status to an error: the node's word first, and nothing unsafe in the message."""

from __future__ import annotations

import grpc
import pytest

from petsem.errors import Code, Detail
from petsem.model import Position
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import STATUS_KEY, STATUS_MAX_BYTES, encode_status
from petsem_client.failures import (
    _RETRY,
    SENTENCE_MAX_CHARS,
    Failure,
    Retry,
    failure_of,
)
from tests.unit.client.far_end import token

STATUS = grpc.StatusCode

TABLE = {
    "invalid": (STATUS.INVALID_ARGUMENT, Retry.NO),
    "unauthenticated": (STATUS.UNAUTHENTICATED, Retry.NO),
    "denied": (STATUS.PERMISSION_DENIED, Retry.NO),
    "not_found": (STATUS.NOT_FOUND, Retry.NO),
    "conflict": (STATUS.ABORTED, Retry.NO),
    "stale": (STATUS.FAILED_PRECONDITION, Retry.LATER),
    "limit": (STATUS.RESOURCE_EXHAUSTED, Retry.LATER),
    "unavailable": (STATUS.UNAVAILABLE, Retry.LATER),
    "indeterminate": (STATUS.DEADLINE_EXCEEDED, Retry.LATER),
    "corrupt": (STATUS.DATA_LOSS, Retry.ELSEWHERE),
    "internal": (STATUS.INTERNAL, Retry.ELSEWHERE),
}


def with_detail(status: grpc.StatusCode, detail: pb.ErrorDetail, message: str = "so") -> Failure:
    return failure_of(status, message, ((STATUS_KEY, packed(detail)),))


def packed(detail: pb.ErrorDetail) -> bytes:
    return encode_status(5, "so", detail)


def test_tables_cover_every_code_and_status() -> None:
    """No code is without a policy, and no status without a code."""
    assert set(TABLE) == {code.value for code in Code}
    assert set(_RETRY) == set(Code)
    for status in STATUS:
        assert failure_of(status, None, None).error.code in Code


@pytest.mark.parametrize("code", TABLE)
def test_the_contract_s_table(code: str) -> None:
    """Each row of the error table arrives as the code that the node meant."""
    status, retry = TABLE[code]
    failure = with_detail(status, pb.ErrorDetail(code=code))
    assert (failure.error.code, failure.retry) == (Code(code), retry)
    if status is not STATUS.DEADLINE_EXCEEDED:
        assert failure_of(status, "so", ()).error.code is Code(code)


def test_detail_arrives_whole() -> None:
    """Everything that the node said is handed on; what is absent is None, never 0."""
    detail = pb.ErrorDetail(
        code="stale",
        reason="LOST",
        have=pb.Position(epoch=1, txid=2),
        need=pb.Position(epoch=1, txid=3, checksum=0),
        server_time_ms=99,
        need_version=0,
        caveat="app = web",
        retry_after_s=7,
    )
    failure = with_detail(STATUS.FAILED_PRECONDITION, detail)
    assert failure.server_time_ms == 99
    assert failure.error.detail == Detail(
        reason="LOST",
        caveat="app = web",
        have=Position(1, 2),
        need=Position(1, 3, 0),
        need_version=0,
        retry_after_s=7,
    )
    assert with_detail(STATUS.UNAVAILABLE, pb.ErrorDetail(code="unavailable")).error.detail == (
        Detail()
    )


@pytest.mark.parametrize(
    "trailing",
    [
        ((STATUS_KEY, b"\xff\xff"),),
        ((STATUS_KEY, packed(pb.ErrorDetail(code="denied", reason="R" * STATUS_MAX_BYTES))),),
        ((STATUS_KEY, packed(pb.ErrorDetail(code="denied"))),) * 2,
        ((STATUS_KEY, "text"),),
        (("other-bin", packed(pb.ErrorDetail(code="denied"))),),
    ],
)
def test_a_detail_that_is_none_is_ignored(trailing: tuple[tuple[str, bytes | str], ...]) -> None:
    """Junk, too much, two of them, text: the status alone counts."""
    assert failure_of(STATUS.UNAVAILABLE, "so", trailing).error.code is Code.UNAVAILABLE


def test_a_newer_node_s_code_falls_back_to_the_status() -> None:
    """A code that this version does not know is read from the status; so is a strange reason."""
    detail = pb.ErrorDetail(code="haunted", reason="see petsem_abc", server_time_ms=5)
    failure = with_detail(STATUS.NOT_FOUND, detail)
    assert (failure.error.code, failure.error.detail.reason) == (Code.NOT_FOUND, None)


def test_an_echoed_token_does_not_reach_the_message() -> None:
    """A node that writes the token into its error does not get it into our logs."""
    ours = token("org = acme")
    bare = ours.removeprefix("petsem_").partition(".")[0]
    for text in (ours, bare, f"{ours},{ours}"):
        message = failure_of(STATUS.INTERNAL, f"bad token {text}!", None).error.message
        assert bare[4:40] not in message
        assert message.startswith("bad token (token)")


def test_a_caveat_is_as_safe_as_a_message() -> None:
    """A node puts no control characters, tokens or megabytes into it either."""
    told = f"app = \x1b[31m {token('org = acme')} " + "x" * 6_000
    detail = pb.ErrorDetail(code="denied", reason="CAVEAT", caveat=told)
    caveat = with_detail(STATUS.PERMISSION_DENIED, detail).error.detail.caveat
    assert caveat is not None
    assert caveat.startswith("app =  [31m (token) xxx")
    assert len(caveat) == 1_024


def test_messages_are_bounded_and_printable() -> None:
    """No control characters, no megabyte, and never an empty sentence."""
    message = failure_of(STATUS.NOT_FOUND, "a\r\n\x1b[31mb" + "x" * 10_000, None).error.message
    assert message.startswith("a [31mb")
    assert len(message) == SENTENCE_MAX_CHARS
    assert failure_of(STATUS.NOT_FOUND, "", None).error.message


def test_our_own_deadline_is_told_from_the_node_s() -> None:
    """A timed-out attempt says so; a node that answers `indeterminate` did answer."""
    assert failure_of(STATUS.DEADLINE_EXCEEDED, "", ()).timed_out
    told = with_detail(STATUS.DEADLINE_EXCEEDED, pb.ErrorDetail(code="indeterminate"))
    assert not told.timed_out


def test_a_stranger_on_the_port() -> None:
    """Something that is not Petsem is not asked twice, and the message says what it may be."""
    failure = failure_of(STATUS.UNIMPLEMENTED, "Method not found!", ())
    assert (failure.error.code, failure.retry) == (Code.UNAVAILABLE, Retry.ELSEWHERE)
    assert "not Petsem" in failure.error.message
