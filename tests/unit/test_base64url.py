"""Unpadded base64url: one spelling, there and back."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petsem import base64url


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"\0", "AA"),
        (b"\xfb\xff", "-_8"),
        (b"\xff" * 3, "____"),
        (b"petsem", "cGV0c2Vt"),
    ],
)
def test_spelling(raw: bytes, text: str) -> None:
    """The alphabet of URLs and file names, and no padding."""
    assert base64url.encode(raw) == text
    assert base64url.decode(text) == raw


@given(st.binary(max_size=64))
def test_there_and_back(raw: bytes) -> None:
    """As the standard library writes it, without the padding."""
    text = base64url.encode(raw)
    assert text == base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
    assert base64url.decode(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA==",
        "AA=",
        "=",
        "AB",
        "-_9",
        "+/8",
        "AA\n",
        " AA",
        "A A",
        "A!A",
        "AA.",
        "Ａ",
    ],
)
def test_no_second_spelling(text: str) -> None:
    """Lengths that cannot be, padding, spare bits, the other alphabet, what is no letter of it."""
    assert base64url.decode(text) is None


@given(st.text(max_size=12))
def test_what_is_read_is_written_the_same(text: str) -> None:
    """Whatever is taken at all is the one spelling of what it says."""
    raw = base64url.decode(text)
    assert raw is None or base64url.encode(raw) == text
