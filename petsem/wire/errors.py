"""Errors on the wire: `ErrorDetail`, and the standard envelope that carries it over gRPC.

The envelope is gRPC's rich error model: a serialised `google.rpc.Status` in the trailer
`grpc-status-details-bin`, with the detail as an `Any` in it. So any language's stock helpers find
it, and the client and the server here share one reading of it.

Guarantees: what is None in the error is absent in the message; a trailer that is not of this form
is None, never an exception. It maps no code to any transport's status; the doors do.
"""

from __future__ import annotations

from typing import Final

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from petsem.errors import Detail, PetsemError
from petsem.model import Position
from petsem.wire import petsem_pb2 as pb

STATUS_KEY: Final = "grpc-status-details-bin"
DETAIL_TYPE: Final = "petsem.v1.ErrorDetail"
STATUS_MAX_BYTES: Final = 8 * 1024
CAVEAT_MAX_CHARS: Final = 1024
"""Of a caveat, which may fill a token; but a client takes only so much in trailers."""
_TYPE_URL: Final = f"type.googleapis.com/{DETAIL_TYPE}"


def error_detail(error: PetsemError, server_time_ms: int) -> pb.ErrorDetail:
    """The message of an error, with the time at which it was answered."""
    detail = error.detail
    return pb.ErrorDetail(
        code=error.code.value,
        reason=detail.reason,
        have=None if detail.have is None else position_to_protobuf(detail.have),
        need=None if detail.need is None else position_to_protobuf(detail.need),
        server_time_ms=server_time_ms,
        have_version=detail.have_version,
        need_version=detail.need_version,
        caveat=None if detail.caveat is None else detail.caveat[:CAVEAT_MAX_CHARS],
        retry_after_s=detail.retry_after_s,
    )


def detail_of(message: pb.ErrorDetail) -> Detail:
    """What such a message says; what is absent in it is None."""
    has = message.HasField
    return Detail(
        reason=message.reason or None,
        caveat=message.caveat or None,
        have=position_from_protobuf(message.have) if has("have") else None,
        need=position_from_protobuf(message.need) if has("need") else None,
        have_version=message.have_version if has("have_version") else None,
        need_version=message.need_version if has("need_version") else None,
        retry_after_s=message.retry_after_s if has("retry_after_s") else None,
    )


def encode_status(code: int, message: str, detail: pb.ErrorDetail) -> bytes:
    """The trailer's bytes; `code` is the number of the gRPC status."""
    packed = any_pb2.Any(type_url=_TYPE_URL, value=detail.SerializeToString())
    status = status_pb2.Status(code=code, message=message, details=[packed])
    packed_status: bytes = status.SerializeToString()
    return packed_status


def decode_status(data: bytes) -> pb.ErrorDetail | None:
    """The detail in a trailer, or None if there is not exactly one of ours in it."""
    if len(data) > STATUS_MAX_BYTES:
        return None
    try:
        packed = status_pb2.Status.FromString(data).details
        found = [each.value for each in packed if each.type_url.endswith(f"/{DETAIL_TYPE}")]
        return pb.ErrorDetail.FromString(found[0]) if len(found) == 1 else None
    except DecodeError:
        return None


def position_to_protobuf(position: Position) -> pb.Position:
    """The message of a position."""
    return pb.Position(epoch=position.epoch, txid=position.txid, checksum=position.checksum)


def position_from_protobuf(message: pb.Position) -> Position:
    """The position that a message says."""
    checksum = message.checksum if message.HasField("checksum") else None
    return Position(message.epoch, message.txid, checksum)
