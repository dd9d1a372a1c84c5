"""Protobuf's canonical JSON, read strictly."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.rpc.canonical import encode_json, parse_json
from petsem.wire import petsem_pb2 as pb


def test_names_may_be_canonical_or_those_of_the_schema() -> None:
    """Both spellings are the mapping's."""
    wanted = pb.FetchRequest(org="acme", min_version=3, known_etag=b"e")
    assert (
        parse_json(pb.FetchRequest, b'{"org":"acme","minVersion":3,"knownEtag":"ZQ=="}') == wanted
    )
    assert (
        parse_json(pb.FetchRequest, b'{"org":"acme","min_version":"3","known_etag":"ZQ"}') == wanted
    )


def test_replies_have_canonical_names() -> None:
    """Lower camel case, 64-bit numbers as strings, bytes as base64, defaults left out."""
    reply = pb.FetchResponse(
        version=2,
        not_modified=True,
        secrets=[pb.Secret(name="A", value=b"\xff")],
        freshness=pb.Freshness(server_time_ms=2**40, lag_ms=0, role=pb.LEADER),
    )
    assert encode_json(pb.FetchResponse, reply.SerializeToString()) == (
        b'{"version":2,"notModified":true,"secrets":[{"name":"A","value":"/w=="}],'
        b'"freshness":{"role":"LEADER","lagMs":0,"serverTimeMs":"1099511627776"}}'
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"CANARY",
        b"[]",
        b'"CANARY"',
        b"null",
        b"1",
        b'{"org":"acme"',
        b'{"org":"acme"} CANARY',
        b'{"CANARY":1}',
        b'{"org":"a","org":"b"}',
        b'{"min_version":1,"minVersion":2}',
        b'{"org":1}',
        b'{"org":["CANARY"]}',
        b'{"org":{"CANARY":1}}',
        b'{"names":"CANARY"}',
        b'{"names":[null]}',
        b'{"version":-1}',
        b'{"version":4294967296}',
        b'{"version":"CANARY"}',
        b'{"version":1.5}',
        b'{"version":NaN}',
        b'{"version":' + b"9" * 5000 + b"}",
        b'{"knownEtag":"CANARY!"}',
        b'{"knownEtag":5}',
        b'{"minPosition":[]}',
        b'{"minPosition":{"epoch":1,"epoch":2}}',
        b'{"org":"\\ud800"}',
        b'{"org":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"minPosition":' * 1000,
    ],
)
def test_what_is_not_one_message_is_refused_without_quoting_it(raw: bytes) -> None:
    """One sentence for all of them, and nothing of the body in it or behind it."""
    with pytest.raises(PetsemError) as refused:
        parse_json(pb.FetchRequest, raw)
    assert refused.value.code is Code.INVALID
    assert "CANARY" not in refused.value.message
    assert refused.value.__context__ is None


def test_a_map_key_twice_is_refused() -> None:
    """Which of two attributes counts must not be the parser's choice."""
    with pytest.raises(PetsemError):
        parse_json(pb.VerifyRequest, b'{"access":{"org":"a","org":"b"}}')
