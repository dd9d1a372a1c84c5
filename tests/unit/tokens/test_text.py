"""The text form: strict, checked before it is decoded, and telling truncation apart."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.limits import CAVEATS_MAX, DISCHARGES_MAX, TOKEN_MAX_BYTES
from petsem.tokens import text as text_module
from petsem.tokens.macaroon import encode
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import (
    UnverifiedToken,
    check_of,
    encode_part,
    encode_token,
    parse_token,
)
from tests.unit.tokens.build import (
    IDENTIFIER,
    SECRET,
    bare,
    binary,
    bound,
    check,
    ids,
    made,
    prefixed,
    refused,
    vectors,
)

CASES = vectors("token_text.json")
ROOT = made(SECRET, IDENTIFIER.encode(), [b"org = acme", b"app in web, api"])
DISCHARGE = bound(ROOT, made(b"caveat key", b"ticket"))


@pytest.mark.parametrize("case", CASES["accepted"], ids=ids(CASES["accepted"]))
def test_accepted_text_is_written_again_in_its_canonical_form(case: dict[str, Any]) -> None:
    """Whatever form came in, Petsem's own goes out, and that one reads as the same token."""
    token = parse_token(case["text"])
    assert encode_token(token.root, token.discharges) == case["canonical"]
    assert parse_token(case["canonical"]) == token


@pytest.mark.parametrize("case", CASES["refused"], ids=ids(CASES["refused"]))
def test_refused_text_says_malformed_or_truncated(case: dict[str, Any]) -> None:
    """A paste that lost its end is told apart from what was never a token; neither is quoted."""
    with refused(Reason(case["reason"])) as info:
        parse_token(case["text"])
    assert len(case["text"]) < 8 or case["text"] not in info.value.message


def test_a_token_is_its_root_and_discharges_in_order() -> None:
    """The parts come back as they were joined."""
    text = f"{prefixed(bare(binary(ROOT)))},{prefixed(bare(binary(DISCHARGE)))}"
    assert parse_token(text) == UnverifiedToken(ROOT, (DISCHARGE,))
    assert encode_token(ROOT, [DISCHARGE]) == text
    assert encode_part(ROOT) == encode_token(ROOT) == text.split(",")[0]


@pytest.mark.parametrize("length", range(1, 60))
def test_every_truncation_of_a_single_part_is_told(length: int) -> None:
    """However much of the end is lost, the reason is TRUNCATED as long as a `p` is left."""
    with refused(Reason.TRUNCATED):
        parse_token(encode_token(ROOT)[:-length])


def test_every_truncation_of_a_token_with_a_discharge_is_refused() -> None:
    """Only a cut just before a comma leaves a whole token, which then lacks its discharge."""
    text = encode_token(ROOT, [DISCHARGE])
    whole = text.index(",")
    for length in range(1, len(text)):
        if length == whole:
            assert parse_token(text[:length]) == UnverifiedToken(ROOT)
            continue
        with refused(Reason.TRUNCATED):
            parse_token(text[:length])


def test_every_flipped_bit_of_a_token_s_text_is_refused() -> None:
    """The check covers prefix and body, and has one spelling itself."""
    text = encode_token(ROOT)
    for at in range(len(text)):
        for bit in range(8):
            flipped = text[:at] + chr(ord(text[at]) ^ 1 << bit) + text[at + 1 :]
            with pytest.raises(TokenRefused):
                parse_token(flipped)


@pytest.mark.parametrize("head", ["", "petsem_", "petsem_AgEG", "x" * 4000])
def test_the_check_is_crc_32_in_six_base62_digits(head: str) -> None:
    """Against another way to write the number."""
    assert check_of(head) == check(head.encode())
    assert len(check_of(head)) == 6


def test_the_check_of_the_published_crc_value() -> None:
    """CRC-32/ISO-HDLC of `123456789` is cbf43926: 3, 45, 35, 27, 22 and 14 in base 62."""
    assert zlib.crc32(b"123456789") == 0xCBF43926
    assert check_of("123456789") == "3jZRME"


def test_limits_come_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long or too many parts: refused with nothing decoded."""

    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(text_module, "_parse_part", never)
    with refused(Reason.MALFORMED):
        parse_token("A" * (TOKEN_MAX_BYTES + 1))
    with refused(Reason.MALFORMED):
        parse_token(",".join("A" * (DISCHARGES_MAX + 2)))


def test_the_caveats_of_all_parts_count_together() -> None:
    """64 in all; a discharge is no way around the bound."""
    half = CAVEATS_MAX // 2
    root = made(SECRET, b"id", [b"a = b"] * half)
    fits, over = (made(b"k", b"t", [b"a = b"] * count) for count in (half, half + 1))
    assert parse_token(encode_token(root, [fits])) == UnverifiedToken(root, (fits,))
    with refused(Reason.MALFORMED):
        parse_token(f"{bare(binary(root))},{bare(binary(over))}")
    with pytest.raises(PetsemError) as info:
        encode_token(root, [over])
    assert info.value.code is Code.INVALID


def test_eight_discharges_are_the_most() -> None:
    """The limit itself is inside, one more is not."""
    eight = tuple(made(b"k", b"ticket %d" % number) for number in range(DISCHARGES_MAX))
    assert parse_token(encode_token(ROOT, eight)) == UnverifiedToken(ROOT, eight)
    with pytest.raises(PetsemError) as info:
        encode_token(ROOT, (*eight, DISCHARGE))
    assert info.value.code is Code.INVALID


def test_no_text_over_the_limit_is_written() -> None:
    """The bound is on the text with its discharges, not on each part."""
    large = made(SECRET, b"id", [b"a = " + b"v" * 200] * 12)
    assert len(encode(large)) < TOKEN_MAX_BYTES
    with pytest.raises(PetsemError) as info:
        encode_token(large, [large])
    assert info.value.code is Code.INVALID


def test_no_repr_shows_a_signature() -> None:
    """An unverified token in a log is not a token."""
    assert "signature" not in repr(UnverifiedToken(ROOT, (DISCHARGE,)))
