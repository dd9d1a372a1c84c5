"""What is taken out of a log record."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from petsem.model import Position
from petsem.secretbytes import SecretBytes
from petsem.server.log_scrub import promises_secret, scrub, scrub_text

TOKEN = "petsem_AgEGcGV0c2VtAj4BAAAA_-x9.0aZ9zQ"


@dataclass
class Holder:
    held: bytes = b"canary"


class Word(enum.StrEnum):
    A = "a"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        (float("nan"), "nan"),
        ("plain", "plain"),
        (Word.A, "a"),
        (Path("/a/b"), "/a/b"),
        (Position(1, 2), "00000001-0000000000000002"),
        (ipaddress.ip_address("::1"), "::1"),
        (b"canary", "(bytes)"),
        (bytearray(b"canary"), "(bytearray)"),
        (memoryview(b"canary"), "(memoryview)"),
        (SecretBytes(b"canary"), "(SecretBytes)"),
        (Holder(), "(Holder)"),
        (Holder, "(type)"),
        (ValueError("x " + TOKEN), "ValueError: x (redacted)"),
        ([b"canary", ("x", 1), {2}], ["(bytes)", ["x", 1], [2]]),
        ({"a": {"value": 1, "b": b"canary"}}, {"a": {"value": "(redacted)", "b": "(bytes)"}}),
    ],
)
def test_only_what_is_known_to_be_plain_is_shown(value: Any, expected: Any) -> None:
    """An object of any other kind is shown as its kind, because its repr may show what it holds."""
    assert scrub(value) == expected


def test_deep_long_and_endless_things_are_cut() -> None:
    """A record has a bounded size."""
    deep: list[Any] = []
    deep.append(deep)
    assert "(list)" in str(scrub(deep))
    assert len(scrub(list(range(1_000)))) == 200
    assert len(scrub({str(n): n for n in range(1_000)})) == 200
    assert len(scrub("x" * 100_000)) < 33_000


def prefixes(text: str, shortest: int) -> Iterator[str]:
    return (text[:length] for length in range(shortest, len(text) + 1))


@pytest.mark.parametrize("part", list(prefixes(TOKEN, len("petsem_Ag"))))
def test_a_token_is_taken_out_wherever_it_was_cut(part: str) -> None:
    """From its first characters on, with whatever is joined to it."""
    assert scrub_text(f"say {part} now") == "say (redacted) now"
    assert scrub_text(f'"{part},{part}"') == '"(redacted)'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("authorization: Bearer abc.def", "authorization: (redacted)"),
        ("BEARER\tx", "(redacted)"),
        ("x AgEGcGV0c2Vt" + "A" * 40 + " y", "x (redacted) y"),
        ("x AgIY" + "A" * 40 + "==", "x (redacted)"),
        ("petsem_" + "x" * 16, "(redacted)"),
        (
            "a -----BEGIN EC PRIVATE KEY-----\nxx\n-----END EC PRIVATE KEY----- b",
            "a (redacted) b",
        ),
        ("a -----BEGIN PRIVATE KEY-----\nxx", "a (redacted)"),
    ],
)
def test_credentials_of_other_forms_are_taken_out(text: str, expected: str) -> None:
    """Bearer credentials, parts that other libraries made, private keys, whole or cut."""
    assert scrub_text(text) == expected


@pytest.mark.parametrize(
    "text", ["petsem_client.aio", "petsem serve", "AgEnda", "forbearers of x", "a" * 100]
)
def test_ordinary_text_stays(text: str) -> None:
    """Words that merely begin alike are not touched."""
    assert scrub_text(text) == text


@pytest.mark.parametrize(
    "name",
    [
        *("token", "join_token", "authorization", "Authorization", "x-api-key", "value", "values"),
        *("secret", "operator.token", "root_key", "set-cookie", "headers", "password", "body"),
    ],
)
def test_a_name_that_promises_a_secret_hides_what_is_under_it(name: str) -> None:
    """By its last word, in any case and with any separator."""
    assert promises_secret(name)


@pytest.mark.parametrize(
    "name", ["token_id", "key_id", "secret_name", "event", "", "_", "tokenise"]
)
def test_a_name_that_only_mentions_one_does_not(name: str) -> None:
    """Ids and names are what logs are for."""
    assert not promises_secret(name)
