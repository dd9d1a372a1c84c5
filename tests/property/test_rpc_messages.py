"""Whatever is sent as a request: a message within its bounds, or `invalid`, and nothing else."""

from __future__ import annotations

import json

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from petsem.errors import Code, PetsemError
from petsem.server.rpc.canonical import encode_json, parse_json
from petsem.server.rpc.messages import fetch_asked, parse
from petsem.wire import petsem_pb2 as pb

_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([float("inf"), float("nan"), 1e400, 2**32, -1, "Infinity", "1e400", "AA=="])
)  # fmt: skip
_NAMES = (
    st.sampled_from(
        [field.name for field in pb.FetchRequest.DESCRIPTOR.fields]
        + [field.json_name for field in pb.FetchRequest.DESCRIPTOR.fields]
        + ["epoch", "txid", "checksum"]
    )
    | st.text(max_size=4)
)  # fmt: skip
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=6),
    max_leaves=12,
)


def _accepted(kind: type[Message], raw: bytes, *, as_json: bool) -> Message | None:
    try:
        return (parse_json if as_json else parse)(kind, raw)
    except PetsemError as e:
        if e.code is not Code.INVALID:
            raise
        return None


@given(_JSON)
def test_any_json_is_a_message_or_invalid(value: object) -> None:
    """And what was accepted says the same after a round trip."""
    message = _accepted(pb.FetchRequest, json.dumps(value).encode(), as_json=True)
    if message is not None:
        again = encode_json(pb.FetchRequest, message.SerializeToString())
        assert parse_json(pb.FetchRequest, again) == message


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_invalid(raw: bytes) -> None:
    """In both content types, for the messages that have messages in them too."""
    for kind in (pb.FetchRequest, pb.VerifyBatchRequest, pb.WatchRevocationsRequest):
        _accepted(kind, raw, as_json=False)
        _accepted(kind, raw, as_json=True)


@given(st.builds(pb.FetchRequest, org=st.text(), app=st.text(), machine=st.text()))
def test_any_names_are_checked_or_invalid(message: pb.FetchRequest) -> None:
    """Before they reach the database."""
    try:
        fetch = fetch_asked(message)
    except PetsemError as e:
        if e.code is not Code.INVALID:
            raise
    else:
        assert fetch.org.isascii()
        assert fetch.app.isascii()
        assert message.machine.isascii()
