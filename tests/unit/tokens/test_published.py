"""Published macaroons of the libmacaroons family; each file of vectors names its sources."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pymacaroons import Macaroon as TheirMacaroon

from petsem.tokens.macaroon import Caveat, Macaroon, bind_discharge, encode, parse
from petsem.tokens.reasons import Reason
from petsem.tokens.text import UnverifiedToken, parse_token
from petsem.tokens.thirdparty import open_key
from petsem.tokens.verifier import derive_key, signature_under, verify_signatures
from tests.unit.tokens.build import ids, made, refused, required, unbare, vectors

PUBLISHED = vectors("token_published.json")
SIGNATURES = {case["name"]: case for case in PUBLISHED["signatures"]}
CROSS = PUBLISHED["cross_language"]


def unsigned(case: dict[str, Any]) -> Macaroon:
    """A case as a macaroon that carries the published signature."""
    caveats = [Caveat(text.encode()) for text in case["caveats"]]
    if "vid" in case:
        caveats.append(
            Caveat(case["ticket"].encode(), unbare(case["vid"]), case["location"].encode())
        )
    signature = bytes.fromhex(case["signature"])
    return Macaroon(b"petsem", case["identifier"].encode(), tuple(caveats), signature)


def key_of(case: dict[str, Any]) -> bytes:
    """A case's derived root key."""
    return derive_key(case["secret"].encode())


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    """Our walk gives the published signature, and verifies it."""
    case = SIGNATURES[name]
    macaroon = unsigned(case)
    assert signature_under(key_of(case), macaroon).hex() == case["signature"]
    caveats = tuple(text.encode() for text in case["caveats"])
    assert verify_signatures(UnverifiedToken(macaroon), key_of(case)) == caveats
    assert parse(encode(macaroon)) == macaroon


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_under_another_key(name: str) -> None:
    """The published "wrong key" cases, for every macaroon."""
    with refused(Reason.BAD_SIGNATURE):
        verify_signatures(
            UnverifiedToken(unsigned(SIGNATURES[name])), derive_key(b"this is not the key")
        )


@pytest.mark.parametrize(
    "case", PUBLISHED["third_party"], ids=ids(PUBLISHED["third_party"], "name")
)
def test_third_party_caveats_with_a_zero_nonce(case: dict[str, Any]) -> None:
    """Sealed key, signature, and the key that opens from it."""
    macaroon = unsigned(case)
    before = made(
        case["secret"].encode(),
        case["identifier"].encode(),
        [text.encode() for text in case["caveats"]],
    )
    by_hand = required(before, case["caveat_key"].encode(), case["ticket"].encode())
    assert by_hand.caveats[-1].vid == macaroon.caveats[-1].vid
    assert by_hand.signature == macaroon.signature
    assert signature_under(key_of(case), macaroon) == macaroon.signature
    opened = open_key(before.signature, unbare(case["vid"]))
    assert opened == derive_key(case["caveat_key"].encode())
    with refused(Reason.DISCHARGE_MISSING):
        verify_signatures(UnverifiedToken(macaroon), key_of(case))


@pytest.mark.parametrize("case", PUBLISHED["bound"], ids=ids(PUBLISHED["bound"], "name"))
def test_bound_discharges(case: dict[str, Any]) -> None:
    """Bound to B2 it verifies with B2; unbound, or beside another macaroon, it does not."""
    root_case = next(each for each in PUBLISHED["third_party"] if each["name"] == case["root"])
    root = unsigned(root_case)
    caveats = [text.encode() for text in case["caveats"]]
    unbound = made(case["secret"].encode(), case["identifier"].encode(), caveats)
    bound = bind_discharge(root, unbound)
    assert bound == replace(unsigned(case), location=unbound.location)
    found = verify_signatures(UnverifiedToken(root, (bound,)), key_of(root_case))
    assert found == (*(text.encode() for text in root_case["caveats"]), *caveats)
    with refused(Reason.DISCHARGE_INVALID):
        verify_signatures(UnverifiedToken(root, (unbound,)), key_of(root_case))


def test_the_published_discharge_before_it_is_bound() -> None:
    """D is the discharge of DP under its own name."""
    case = SIGNATURES["D"]
    assert (
        made(
            case["secret"].encode(),
            case["identifier"].encode(),
            [text.encode() for text in case["caveats"]],
        ).signature.hex()
        == case["signature"]
    )


@pytest.mark.parametrize("case", PUBLISHED["serialised"], ids=ids(PUBLISHED["serialised"], "name"))
def test_serialised_v2_reads_and_is_written_the_same(case: dict[str, Any]) -> None:
    """The V2 bytes of libmacaroons are canonical to us too."""
    expected = replace(
        unsigned(SIGNATURES[case["signatures_name"]]), location=case["location"].encode()
    )
    assert parse_token(case["v2"]) == UnverifiedToken(expected)
    assert encode(expected) == unbare(case["v2"])


@pytest.mark.parametrize("case", PUBLISHED["serialised"], ids=ids(PUBLISHED["serialised"], "name"))
def test_serialised_v1_and_json_are_malformed(case: dict[str, Any]) -> None:
    """One format only."""
    for text in (case["v1"], case["json"]):
        with refused(Reason.MALFORMED):
            parse_token(text)


def test_published_v1_is_malformed_here_and_reads_there() -> None:
    """pymacaroons reads V1, so the refusal is ours; the altered one is refused for that alone."""
    for case in PUBLISHED["v1_only"]:
        expected = SIGNATURES[case["name"]]["signature"]
        assert TheirMacaroon.deserialize(case["text"]).signature == expected
        with refused(Reason.MALFORMED):
            parse_token(case["text"])
    with refused(Reason.MALFORMED):
        parse_token(PUBLISHED["altered_v1"])


def test_the_altered_macaroon_does_not_verify() -> None:
    """The V1 text whose signature was changed, carried over into our form."""
    theirs = TheirMacaroon.deserialize(PUBLISHED["altered_v1"])
    case = SIGNATURES["A3"]
    altered = replace(unsigned(case), signature=bytes.fromhex(theirs.signature))
    assert [caveat.caveat_id for caveat in theirs.caveats] == case["caveats"]
    with refused(Reason.BAD_SIGNATURE):
        verify_signatures(UnverifiedToken(altered), key_of(case))


def test_the_cross_language_set() -> None:
    """Written by go-macaroon: root and bound discharge verify together, JSON is refused."""
    text = f"{CROSS['binary_v2']},{CROSS['binary_v2_discharge']}"
    token = parse_token(text)
    key = derive_key(CROSS["secret"].encode())
    assert verify_signatures(token, key) == tuple(text.encode() for text in CROSS["caveats"])
    assert token.root.signature.hex() == CROSS["signature"]
    assert token.discharges[0].signature.hex() == CROSS["discharge_signature"]
    assert encode(token.root) == unbare(CROSS["binary_v2"])
    assert encode(token.discharges[0]) == unbare(CROSS["binary_v2_discharge"])
    with refused(Reason.DISCHARGE_MISSING):
        verify_signatures(UnverifiedToken(token.root), key)
    for form in CROSS["json"]:
        with refused(Reason.MALFORMED):
            parse_token(form)


@pytest.mark.parametrize("text", PUBLISHED["base64"]["refused"])
def test_published_bad_base64_is_malformed(text: str) -> None:
    """Too much padding; too few bits."""
    with refused(Reason.MALFORMED):
        parse_token(text)
