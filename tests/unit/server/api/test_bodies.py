"""Strict JSON: what is accepted has one meaning, and a refusal quotes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.api.bodies import decode_json
from petsem.wire import http

MARK = "hunter2canary"

TWICE = "an object in the body has the same key twice"
NUMBER = "if_version must be a whole number or null"

CASES: list[tuple[bytes, Any, str]] = [
    (b"", http.CreateOrg, "the body is not valid JSON; it ends too soon, or in half a character"),
    (
        b'{"org"',
        http.CreateOrg,
        "the body is not valid JSON; it ends too soon, or in half a character",
    ),
    (b'{"org":"hunter2canary"} x', http.CreateOrg, "the body is not valid JSON; see its byte 25"),
    (b'{"org":"a"}{"org":"a"}', http.CreateOrg, "the body is not valid JSON; see its byte 12"),
    (b'{"org":"a",}', http.CreateOrg, "the body is not valid JSON; see its byte 11"),
    (b"\xef\xbb\xbf{}", http.CreateOrg, "the body is not valid JSON; see its byte 0"),
    (b'{"org":"\xff"}', http.CreateOrg, "the body is not UTF-8 text"),
    (b'{"org":"\xed\xa0\x80"}', http.CreateOrg, "the body is not UTF-8 text"),
    ('{"org":"a"}'.encode("utf-16"), http.CreateOrg, "the body is not UTF-8 text"),
    (b'{"org":"a\nb"}', http.CreateOrg, "the body is not valid JSON; see its byte 9"),
    (b"{'org':'a'}", http.CreateOrg, "the body is not valid JSON; see its byte 1"),
    (b'{"org":"a","org":"a"}', http.CreateOrg, TWICE),
    (b'{"set":{"A":"hunter2canary","A":"x"}}', http.SecretsPatch, TWICE),
    (b'{"set":{"A":"x","\\u0041":"y"}}', http.SecretsPatch, TWICE),
    (b'{"set":{"A":{"base64":"","base64":""}}}', http.SecretsPatch, TWICE),
    (b'{"token":"t","access":{"x":"1","y":"2","x":"1"}}', http.Verify, TWICE),
    (b'{"if_version":NaN}', http.SecretsPatch, "the body is not valid JSON; see its byte 14"),
    (b'{"if_version":-Infinity}', http.SecretsPatch, "the body is not valid JSON; see its byte 15"),
    (b"[" * 100_000, http.SecretsPatch, "the body must be an object"),
    (b'{"set":{"A":' + b"[" * 100_000, http.SecretsPatch, "set[...] must be a string or an object"),
    (b'{"set":{"A":' + b'{"base64":' * 9, http.SecretsPatch, "set[...].base64 must be a string"),
    (
        b'{"if_version":' + b"9" * 5_000 + b"}",
        http.SecretsPatch,
        "if_version is not one of the values that it can have; see /schema",
    ),
    (
        b'{"org":"hunter2canary\\udc00"}',
        http.CreateOrg,
        "the body is not valid JSON; see its byte 27",
    ),
    (
        b'{"org":"a\\ud800"}',
        http.CreateOrg,
        "the body is not valid JSON; it ends too soon, or in half a character",
    ),
    (
        b'{"org":"a\\ud800 and more"}',
        http.CreateOrg,
        "the body is not valid JSON; see its byte 15",
    ),
    (
        b'{"set":{"\\udfff":"x"}}',
        http.SecretsPatch,
        "the body is not valid JSON; see its byte 15",
    ),
    (
        b'{"hunter2canary":1}',
        http.SecretsPatch,
        "the body has a field that is not known; see /schema",
    ),
    (
        b'{"x` - at `$.set.hunter2canary":1}',
        http.SecretsPatch,
        "the body has a field that is not known; see /schema",
    ),
    (
        b'{"set":{"A":{"base64":"","hunter2canary":1}}}',
        http.SecretsPatch,
        "set[...] has a field that is not known; see /schema",
    ),
    (b"{}", http.CreateOrg, "the body lacks the field org"),
    (b'{"durability":{}}', http.SecretsPatch, "durability lacks the field replicated"),
    (b"[]", http.SecretsPatch, "the body must be an object"),
    (b'"hunter2canary"', http.SecretsPatch, "the body must be an object"),
    (b"null", http.SecretsPatch, "the body must be an object"),
    (b'{"org":1}', http.CreateOrg, "org must be a string"),
    (b'{"set":{"A":1}}', http.SecretsPatch, "set[...] must be a string or an object"),
    (b'{"set":{"A":{"base64":1}}}', http.SecretsPatch, "set[...].base64 must be a string"),
    (b'{"unset":["A",1]}', http.SecretsPatch, "unset[1] must be a string"),
    (b'{"unset":{}}', http.SecretsPatch, "unset must be a list"),
    (b'{"if_version":true}', http.SecretsPatch, NUMBER),
    (b'{"if_version":1.5}', http.SecretsPatch, NUMBER),
    (
        b'{"if_version":1e400}',
        http.SecretsPatch,
        "if_version is not one of the values that it can have; see /schema",
    ),
    (b'{"if_version":"1"}', http.SecretsPatch, NUMBER),
    (b'{"if_version":-1}', http.SecretsPatch, "if_version must be at least 0"),
    (b'{"if_version":4294967296}', http.SecretsPatch, "if_version must be at most 4294967295"),
    (
        b'{"durability":"hunter2canary"}',
        http.SecretsPatch,
        "durability is not one of the values that it can have; see /schema",
    ),
    (
        b'{"durability":{"replicated":0}}',
        http.SecretsPatch,
        "durability.replicated must be at least 1",
    ),
    (b'{"requests":[]}', http.VerifyBatch, "requests must have at least 1 entries"),
    (
        json.dumps({"requests": [{"token": "t", "access": {}}] * 513}).encode(),
        http.VerifyBatch,
        "requests must have at most 512 entries",
    ),
    (b'{"token":"t","access":{"org":1}}', http.Verify, "access[...] must be a string"),
]


@pytest.mark.parametrize(("raw", "kind", "sentence"), CASES, ids=range(len(CASES)))
def test_refused(raw: bytes, kind: Any, sentence: str) -> None:
    """Each bad body gets its own sentence, with nothing of the body in it or behind it."""
    with pytest.raises(PetsemError) as caught:
        decode_json(raw, kind)
    error = caught.value
    assert (error.code, error.message) == (Code.INVALID, sentence)
    # A library's error would hold the whole body.
    assert MARK not in repr((error, error.args, error.__cause__, error.__context__))


def test_accepted() -> None:
    """Escapes, surrogate pairs, NUL, any order and any spacing are ordinary JSON."""
    raw = (
        b' {"unset": [], "set" : {"A":"\\ud83d\\ude00\\u0000\\\\ud800", "B":{"base64":"AA=="}}}\r\n'
    )
    assert decode_json(raw, http.SecretsPatch) == http.SecretsPatch(
        set={"A": "\N{GRINNING FACE}\0\\ud800", "B": http.Base64Value(base64="AA==")}, unset=[]
    )


def test_numbers_of_any_size_are_checked() -> None:
    """A number beyond 64 bits is refused by its bound like any other, and does not overflow."""
    with pytest.raises(PetsemError, match="if_version must be at most 4294967295"):
        decode_json(b'{"if_version":' + b"9" * 40 + b"}", http.SecretsPatch)
