"""Errors as gRPC and Connect carry them."""

from __future__ import annotations

import base64
import http
import json

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2

from petsem.errors import Code, Detail, PetsemError, invalid, limited, unavailable
from petsem.model import Position
from petsem.server.rpc.errors import (
    CONNECT_STATUS,
    GRPC_STATUS,
    connect_code,
    connect_error,
    grpc_error,
    unexpected,
)
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import STATUS_KEY, STATUS_MAX_BYTES, decode_status, encode_status

STALE = PetsemError(
    Code.STALE, "behind", Detail(have=Position(1, 2), need=Position(1, 3, 4), have_version=7)
)
DETAIL = pb.ErrorDetail(
    code="stale",
    have=pb.Position(epoch=1, txid=2),
    need=pb.Position(epoch=1, txid=3, checksum=4),
    server_time_ms=99,
    have_version=7,
)


def test_every_code_has_a_status_of_its_own() -> None:
    """Both tables cover every code, and no two codes look the same from outside."""
    assert GRPC_STATUS.keys() == set(Code)
    assert len(set(GRPC_STATUS.values())) == len(Code)
    assert CONNECT_STATUS.keys() == set(GRPC_STATUS.values())


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (Code.INVALID, grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument"),
        (Code.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        (Code.DENIED, grpc.StatusCode.PERMISSION_DENIED, "permission_denied"),
        (Code.NOT_FOUND, grpc.StatusCode.NOT_FOUND, "not_found"),
        (Code.CONFLICT, grpc.StatusCode.ABORTED, "aborted"),
        (Code.STALE, grpc.StatusCode.FAILED_PRECONDITION, "failed_precondition"),
        (Code.LIMIT, grpc.StatusCode.RESOURCE_EXHAUSTED, "resource_exhausted"),
        (Code.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, "unavailable"),
        (Code.INDETERMINATE, grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded"),
        (Code.CORRUPT, grpc.StatusCode.DATA_LOSS, "data_loss"),
        (Code.INTERNAL, grpc.StatusCode.INTERNAL, "internal"),
    ],
)
def test_the_table_is_the_published_one(code: Code, status: grpc.StatusCode, name: str) -> None:
    """Code, gRPC status and Connect's name for it."""
    assert GRPC_STATUS[code] is status
    assert connect_code(status) == name


def test_grpc_carries_the_detail_in_the_standard_trailer() -> None:
    """A `google.rpc.Status` whose numbers and words are those of the RPC, the detail an Any."""
    status, message, trailing = grpc_error(STALE, 99)
    assert (status, message) == (grpc.StatusCode.FAILED_PRECONDITION, "behind")
    ((key, value),) = trailing
    assert key == STATUS_KEY == "grpc-status-details-bin"
    packed = status_pb2.Status.FromString(value)
    assert (packed.code, packed.message) == (9, "behind")
    (found,) = packed.details
    assert found.type_url == "type.googleapis.com/petsem.v1.ErrorDetail"
    assert pb.ErrorDetail.FromString(found.value) == DETAIL
    assert decode_status(value) == DETAIL


def test_connect_carries_the_same_detail() -> None:
    """As unpadded base64 for programs, and as JSON for people."""
    status, body, headers = connect_error(STALE, 99)
    assert (status, headers) == (400, [])
    shown = json.loads(body)
    (detail,) = shown.pop("details")
    assert shown == {"code": "failed_precondition", "message": "behind"}
    assert detail.keys() == {"type", "value", "debug"}
    assert detail["type"] == "petsem.v1.ErrorDetail"
    assert "=" not in detail["value"]
    raw = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
    assert pb.ErrorDetail.FromString(raw) == DETAIL
    assert detail["debug"]["serverTimeMs"] == "99"


@pytest.mark.parametrize("code", list(Code))
def test_every_error_says_the_time(code: Code) -> None:
    """A client that narrows tokens learns the node's time from any refusal."""
    _, _, ((_, value),) = grpc_error(PetsemError(code, "no"), 1234)
    detail = decode_status(value)
    assert detail is not None
    assert (detail.code, detail.server_time_ms) == (code.value, 1234)
    assert connect_error(PetsemError(code, "no"), 1234)[0] in set(http.HTTPStatus)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            PetsemError(Code.DENIED, "no", Detail(reason="CAVEAT", caveat="app = web")),
            pb.ErrorDetail(code="denied", reason="CAVEAT", caveat="app = web", server_time_ms=1),
        ),
        (
            PetsemError(Code.DENIED, "no", Detail(reason="CAVEAT", caveat="x" * 6_000)),
            pb.ErrorDetail(code="denied", reason="CAVEAT", caveat="x" * 1_024, server_time_ms=1),
        ),
        (
            limited("wait", retry_after_s=7),
            pb.ErrorDetail(code="limit", retry_after_s=7, server_time_ms=1),
        ),
        (
            unavailable("wait"),
            pb.ErrorDetail(code="unavailable", retry_after_s=1, server_time_ms=1),
        ),
    ],
    ids=["caveat", "long caveat", "later", "soon"],
)
def test_what_http_says_is_in_the_detail(error: PetsemError, detail: pb.ErrorDetail) -> None:
    """The caveat that failed (as much of it as trailers have room for), and when to try again."""
    ((_, value),) = grpc_error(error, 1)[2]
    assert decode_status(value) == detail
    (shown,) = json.loads(connect_error(error, 1)[1])["details"]
    raw = base64.b64decode(shown["value"] + "=" * (-len(shown["value"]) % 4))
    assert pb.ErrorDetail.FromString(raw) == detail


def test_connect_tells_http_what_to_do_next() -> None:
    """Which scheme a 401 wants, when to try a 429 or 503 again, and that 413 is about size."""
    assert connect_error(PetsemError(Code.UNAUTHENTICATED, "who"), 0)[2] == [
        (b"www-authenticate", b'Bearer realm="petsem"')
    ]
    assert connect_error(limited("wait", retry_after_s=7), 0)[2] == [(b"retry-after", b"7")]
    assert connect_error(unavailable("wait"), 0)[2] == [(b"retry-after", b"1")]
    assert connect_error(invalid("big", reason="TOO_LARGE"), 0)[0] == 413


def test_an_unexpected_exception_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Its message may quote the request, so that it is neither answered nor logged."""
    error = unexpected("/x", ValueError("CANARY"))
    assert (error.code, "CANARY" in error.message) == (Code.INTERNAL, False)
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff",
        status_pb2.Status(code=9, message="no detail").SerializeToString(),
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/other.Detail", value=b"")]
        ).SerializeToString(),
        status_pb2.Status(
            details=[any_pb2.Any(type_url="x/petsem.v1.ErrorDetail", value=b"\xff")]
        ).SerializeToString(),
        status_pb2.Status(
            details=[any_pb2.Any(type_url="x/petsem.v1.ErrorDetail")] * 2
        ).SerializeToString(),
        encode_status(9, "x" * STATUS_MAX_BYTES, DETAIL),
    ],
)
def test_a_trailer_of_another_form_is_no_detail(data: bytes) -> None:
    """What a proxy or a broken node sends is None, never an exception."""
    assert decode_status(data) is None
