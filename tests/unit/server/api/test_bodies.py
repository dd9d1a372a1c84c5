"""Strict JSON: what is accepted has one meaning, and a refusal quotes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.api.bodies import decode_json
from petsem.wire import http

MARK = "hunter2canary"

CASES: list[tuple[bytes, Any, str]] = [
    (b"", http.CreateOrg, "the body is not valid JSON, at line 1, column 1"),
    (b'{"org"', http.CreateOrg, "the body is not valid JSON, at line 1, column 7"),
    (
        b'{"org":"hunter2canary"} x',
        http.CreateOrg,
        "the body is not valid JSON, at line 1, column 25",
    ),
    (b"\xef\xbb\xbf{}", http.CreateOrg, "the body is not valid JSON, at line 1, column 1"),
    (b'{"org":"\xff"}', http.CreateOrg, "the body is not UTF-8 text"),
    (b'{"org":"\xed\xa0\x80"}', http.CreateOrg, "the body is not UTF-8 text"),
    ('{"org":"a"}'.encode("utf-16"), http.CreateOrg, "the body is not UTF-8 text"),
    (b'{"org":"a\nb"}', http.CreateOrg, "the body is not valid JSON, at line 1, column 10"),
    (b"{'org':'a'}", http.CreateOrg, "the body is not valid JSON, at line 1, column 2"),
    (b'{"org":"a","org":"a"}', http.CreateOrg, "an object in the body has the same key twice"),
    (
        b'{"set":{"A":"hunter2canary","A":"x"}}',
        http.SecretsPatch,
        "an object in the body has the same key twice",
    ),
    (
        b'{"set":{"A":"x","\\u0041":"y"}}',
        http.SecretsPatch,
        "an object in the body has the same key twice",
    ),
    (
        b'{"x":[{"y":{"hunter2canary":1,"hunter2canary":2}}]}',
        http.SecretsPatch,
        "an object in the body has the same key twice",
    ),
    (
        b'{"if_version":NaN}',
        http.SecretsPatch,
        "the body has NaN or Infinity in it, which JSON does not know",
    ),
    (
        b'{"if_version":-Infinity}',
        http.SecretsPatch,
        "the body has NaN or Infinity in it, which JSON does not know",
    ),
    (b"[" * 100_000, http.SecretsPatch, "the body is nested too deeply"),
    (b'{"a":' * 100_000, http.SecretsPatch, "the body is nested too deeply"),
    (
        b'{"if_version":' + b"9" * 5_000 + b"}",
        http.SecretsPatch,
        "a number in the body is too long",
    ),
    (
        b'{"org":"hunter2canary\\ud800"}',
        http.CreateOrg,
        "a string in the body has half of a surrogate pair in it",
    ),
    (
        b'{"set":{"\\udfff":"x"}}',
        http.SecretsPatch,
        "a string in the body has half of a surrogate pair in it",
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
    (b'{"if_version":true}', http.SecretsPatch, "if_version must be a whole number or null"),
    (b'{"if_version":1.5}', http.SecretsPatch, "if_version must be a whole number or null"),
    (b'{"if_version":1e400}', http.SecretsPatch, "if_version must be a whole number or null"),
    (b'{"if_version":"1"}', http.SecretsPatch, "if_version must be a whole number or null"),
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
