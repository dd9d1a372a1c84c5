"""Keyed digests against their table, and what they keep apart."""

from typing import Any

import pytest

from petsem.crypto import keys
from petsem.crypto.digest import body_mac, etag, secret_digest
from tests.unit.crypto import reference
from tests.unit.crypto.reference import vectors

KEY = keys.data_key(bytes(range(32)))
APP = b"i" * 16


@pytest.mark.parametrize("case", vectors("digests"))
def test_vectors(case: dict[str, Any]) -> None:
    """This code and the reference both give the digest of the table."""
    raw = bytes.fromhex(case["key"])
    key, incarnation = keys.data_key(raw), bytes.fromhex(case.get("incarnation", ""))
    match case["what"]:
        case "secret_digest":
            name, value = case["name"], bytes.fromhex(case["value"])
            ours = secret_digest(key, incarnation, name, value)
            theirs = reference.secret_digest(raw, incarnation, name.encode(), value)
        case "body_mac":
            body = bytes.fromhex(case["body"])
            ours, theirs = body_mac(key, body), reference.body_mac(raw, body)
        case "etag":
            body = bytes.fromhex(case["body"])
            ours, theirs = etag(key, incarnation, body), reference.etag(raw, incarnation, body)
    assert (ours.hex(), theirs.hex()) == (case["out"], case["out"])


def test_equal_values_show_only_under_one_name_of_one_app() -> None:
    """The digest differs by name, by app and by key, and is the same where all are."""
    digests = {
        secret_digest(KEY, APP, "A", b"v"),
        secret_digest(KEY, APP, "B", b"v"),
        secret_digest(KEY, b"j" * 16, "A", b"v"),
        secret_digest(keys.data_key(bytes(32)), APP, "A", b"v"),
        secret_digest(KEY, APP, "A", b"w"),
    }
    assert len(digests) == 5
    assert secret_digest(KEY, APP, "A", b"v") in digests


def test_fields_of_a_digest_cannot_run_into_one_another() -> None:
    """What is moved over the boundary of two fields changes the digest."""
    assert secret_digest(KEY, APP, "AB", b"C") != secret_digest(KEY, APP, "A", b"BC")
    assert secret_digest(KEY, APP, "A", b"") != secret_digest(KEY, APP + b"A", "", b"")


def test_an_etag_covers_app_key_and_the_whole_body() -> None:
    """Each of what a fetch returns changes its etag, and nothing runs over a boundary."""
    base = etag(KEY, APP, b"body")
    others = {
        etag(KEY, b"j" * 16, b"body"),
        etag(KEY, APP, b"bodY"),
        etag(KEY, APP, b"bod"),
        etag(KEY, APP, b""),
        etag(KEY, APP + b"b", b"ody"),
        etag(keys.data_key(bytes(32)), APP, b"body"),
    }
    assert len(others - {base}) == 6


def test_the_three_digests_have_keys_of_their_own() -> None:
    """No digest is another one's, whatever it is taken over."""
    seen = {
        secret_digest(KEY, b"", "", b""),
        body_mac(KEY, b"")[:16],
        etag(KEY, b"", b""),
        reference.subkey(bytes(range(32)), b"petsem-dgst-k-v1")[:16],
    }
    assert len(seen) == 4
    assert (len(secret_digest(KEY, b"", "", b"")), len(body_mac(KEY, b""))) == (16, 32)
