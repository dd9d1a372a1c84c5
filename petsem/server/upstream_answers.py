"""Answers of the node upstream, as this node gives them to its own clients.

Guarantees: an answer to a read says that it came from upstream, and nothing else of it changes. An
answer that is not understood is `unavailable`, never half an answer.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from petsem.errors import Code, PetsemError, unavailable
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import detail_of

_UPSTREAM: Final = pb.Freshness(source=pb.UPSTREAM).SerializeToString()


def mark_json(body: bytes) -> bytes:
    """A JSON answer, its freshness marked as from upstream; unchanged if it has none."""
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    if not isinstance(answer, dict):
        return body
    answers = [answer, *answer.get("responses", ())]
    marked = False
    for each in answers:
        freshness = each.get("freshness") if isinstance(each, dict) else None
        if isinstance(freshness, dict):
            freshness["source"] = "upstream"
            marked = True
    return msgspec.json.encode(answer) if marked else body


def mark_reply(path: str, body: bytes) -> bytes:
    """The same for a serialised reply."""
    if path.endswith("/VerifyBatch"):
        try:
            batch = pb.VerifyBatchResponse.FromString(body)
        except DecodeError:
            raise _not_understood() from None
        for response in batch.responses:
            response.freshness.source = pb.UPSTREAM
        marked: bytes = batch.SerializeToString()
        return marked
    # Two messages one after the other are one, the later field of a kind merged into the earlier.
    kind = pb.FetchResponse if path.endswith("/Fetch") else pb.VerifyResponse
    return body + bytes((kind.FRESHNESS_FIELD_NUMBER << 3 | 2, len(_UPSTREAM))) + _UPSTREAM


def error_of(response: pb.ForwardResponse) -> PetsemError:
    """The error in a Connect answer."""
    try:
        answer = msgspec.json.decode(response.body)
        value: str = answer["details"][0]["value"]
        detail = pb.ErrorDetail.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
        return PetsemError(Code(detail.code), str(answer["message"]), detail_of(detail))
    except (
        msgspec.DecodeError, DecodeError, binascii.Error,
        KeyError, IndexError, TypeError, ValueError,
    ):  # fmt: skip
        return _not_understood()


def _not_understood() -> PetsemError:
    return unavailable("the answer from upstream is not one that this program knows")
