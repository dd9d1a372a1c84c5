"""Errors at the RPC doors: one table from code to gRPC status, one to Connect's code and status.

Guarantees: every code is in both tables; what is answered holds the code, a sentence that is safe
to show, known details and this node's time, and of an unexpected exception only that there was one.
"""

from __future__ import annotations

import base64
import traceback
from typing import Any, Final

import grpc
import msgspec
import structlog
from google.protobuf import json_format

from petsem.errors import Code, PetsemError
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import DETAIL_TYPE, STATUS_KEY, encode_status, error_detail

GRPC_STATUS: Final[dict[Code, grpc.StatusCode]] = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.CONFLICT: grpc.StatusCode.ABORTED,
    Code.STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.INDETERMINATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.CORRUPT: grpc.StatusCode.DATA_LOSS,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}

CONNECT_STATUS: Final[dict[grpc.StatusCode, int]] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.INTERNAL: 500,
}
"""The HTTP status that the Connect protocol gives each gRPC status. It differs from that of the
REST routes where Connect leaves no choice: `stale` is 400 here."""

TOO_LARGE: Final = "TOO_LARGE"
RETRY_AFTER_S: Final = 1
"""What a client is told to wait when whoever raised the error did not say, as over HTTP."""
_LATER: Final = frozenset({Code.LIMIT, Code.UNAVAILABLE})
INTERNAL: Final = PetsemError(Code.INTERNAL, "internal error; see the node's log")

Header = tuple[bytes, bytes]

log = structlog.get_logger(__name__)


def unexpected(path: str, error: Exception) -> PetsemError:
    """Log what nobody expected; the error to answer instead."""
    # Not its message, which might quote the request.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("rpc_failed", method=path, error=type(error).__name__, where=where)
    return INTERNAL


def grpc_error(
    error: PetsemError, server_time_ms: int
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """What to abort an RPC with: status, message, trailing metadata."""
    status = GRPC_STATUS[error.code]
    detail = _detail(error, server_time_ms)
    packed = encode_status(status.value[0], error.message, detail)
    return status, error.message, ((STATUS_KEY, packed),)


def connect_error(error: PetsemError, server_time_ms: int) -> tuple[int, bytes, list[Header]]:
    """HTTP status, JSON body and further headers of a failed Connect call."""
    status = GRPC_STATUS[error.code]
    http_status = CONNECT_STATUS[status]
    if error.detail.reason == TOO_LARGE and error.code is Code.INVALID:
        http_status = 413
    headers: list[Header] = []
    if error.code is Code.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b'Bearer realm="petsem"'))
    detail = _detail(error, server_time_ms)
    if error.code in _LATER:
        headers.append((b"retry-after", b"%d" % detail.retry_after_s))
    shown = {
        "type": DETAIL_TYPE,
        # Connect leaves the padding out.
        "value": base64.b64encode(detail.SerializeToString()).rstrip(b"=").decode("ascii"),
        # For people; programs read the value.
        "debug": json_format.MessageToDict(detail),
    }
    return http_status, connect_body(connect_code(status), error.message, [shown]), headers


def _detail(error: PetsemError, server_time_ms: int) -> pb.ErrorDetail:
    detail = error_detail(error, server_time_ms)
    if error.code in _LATER and not detail.HasField("retry_after_s"):
        detail.retry_after_s = RETRY_AFTER_S
    return detail


def connect_code(status: grpc.StatusCode) -> str:
    """Connect's name for a gRPC status."""
    return status.name.lower()


def connect_body(code: str, message: str, details: list[dict[str, Any]]) -> bytes:
    """The JSON of a Connect error."""
    return msgspec.json.encode({"code": code, "message": message, "details": details})
