"""Why pymacaroons does not parse or verify on requests: each of its faults, and our answer.

Every test shows the fault on the library itself first, so that a release which mends it is noticed
here. The library still mints, and is the oracle of the differential tests.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import replace

import nacl.exceptions
import pytest
from pymacaroons import Macaroon as TheirMacaroon
from pymacaroons import Verifier
from pymacaroons.exceptions import (
    MacaroonDeserializationException,
    MacaroonInitException,
    MacaroonInvalidSignatureException,
)

from petsem.tokens.caveats import Access, clear
from petsem.tokens.macaroon import Caveat, Macaroon, parse
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import UnverifiedToken, parse_token
from petsem.tokens.verifier import verify_signatures
from tests.unit.tokens.build import (
    NOW_S,
    SECRET,
    bare,
    binary,
    bound,
    derived,
    mac,
    made,
    packet,
    refused,
    required,
    vectors,
)

KEY = derived(SECRET)
ACCESS = Access({"org": "acme"}, NOW_S)
ROOT = made(SECRET, b"id", [b"org = acme"])
SSO = required(ROOT, b"caveat key", b"ticket")
DISCHARGE = made(b"caveat key", b"ticket")


def theirs(macaroon: Macaroon) -> TheirMacaroon:
    """The library's reading of our bytes."""
    return TheirMacaroon.deserialize(bare(binary(macaroon)))


def they_verify(
    root: TheirMacaroon,
    discharges: list[TheirMacaroon] | None = None,
    holds: Callable[[str], bool] = lambda predicate: predicate == "org = acme",
) -> bool:
    """The library's verdict."""
    judge = Verifier()
    judge.satisfy_general(holds)
    return bool(judge.verify(root, SECRET, discharges))


def we_allow(root: Macaroon, *discharges: Macaroon) -> None:
    """Our verdict: parsed from bytes, verified, then cleared."""
    text = ",".join(bare(binary(part)) for part in (root, *discharges))
    clear(verify_signatures(parse_token(text), KEY), ACCESS)


def test_what_both_allow() -> None:
    """The ground that the other tests stand on."""
    assert they_verify(theirs(ROOT))
    we_allow(ROOT)
    discharge = bound(SSO, DISCHARGE)
    assert they_verify(theirs(SSO), [theirs(discharge)])
    we_allow(SSO, discharge)


@pytest.mark.parametrize("at", [0, 1], ids=["first", "last"])
def test_an_inserted_unmet_caveat_still_verifies_there(at: int) -> None:
    """A caveat that nothing satisfies is left out of their HMAC, so anyone can insert some."""
    caveats = list(ROOT.caveats)
    caveats.insert(at, Caveat(b"org = beta"))
    inserted = replace(ROOT, caveats=tuple(caveats))
    assert they_verify(theirs(inserted))
    with refused(Reason.BAD_SIGNATURE):
        we_allow(inserted)


def test_a_failing_caveat_and_a_bad_signature_are_the_same_there() -> None:
    """Their one exception for both leaves a holder guessing; ours name the cause."""
    failing = made(SECRET, b"id", [b"org = beta"])
    forged = replace(ROOT, signature=bytes(32))
    for macaroon in (failing, forged):
        with pytest.raises(MacaroonInvalidSignatureException, match="Signatures do not match"):
            they_verify(theirs(macaroon))
    with refused(Reason.CAVEAT) as info:
        we_allow(failing)
    assert info.value.caveat == "org = beta"
    with refused(Reason.BAD_SIGNATURE):
        we_allow(forged)


def test_trailing_bytes_pass_there() -> None:
    """Any number of bytes behind the signature are dropped without a word."""
    text = bare(binary(ROOT) + b"and something else")
    assert they_verify(TheirMacaroon.deserialize(text))
    with refused(Reason.MALFORMED):
        parse_token(text)


@pytest.mark.parametrize("junk", ["!", "\n", " ", ".", "*&^%", "é"])
def test_junk_in_base64_passes_there(junk: str) -> None:
    """Characters outside the alphabet are skipped, so one token has endless spellings."""
    text = bare(binary(ROOT))
    spoiled = text[:20] + junk * 4 + text[20:]
    assert they_verify(TheirMacaroon.deserialize(spoiled))
    with refused(Reason.MALFORMED):
        parse_token(spoiled)


def test_spare_bits_in_base64_pass_there() -> None:
    """The last character has bits that carry nothing, and theirs may be anything."""
    text = bare(binary(ROOT))
    assert len(binary(ROOT)) % 3 == 2
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spoiled = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    assert they_verify(TheirMacaroon.deserialize(spoiled))
    with refused(Reason.MALFORMED):
        parse_token(spoiled)


def test_v1_passes_there() -> None:
    """A second format is a second parser; ours has one."""
    old = TheirMacaroon(location="petsem", identifier="id", key=SECRET)
    old.add_first_party_caveat("org = acme")
    assert they_verify(TheirMacaroon.deserialize(old.serialize()))
    with refused(Reason.MALFORMED):
        parse_token(old.serialize())


def test_duplicate_discharges_pass_there() -> None:
    """The first of two is used and the other never looked at."""
    discharge = bound(SSO, DISCHARGE)
    forged = replace(discharge, signature=bytes(32))
    assert they_verify(theirs(SSO), [theirs(discharge), theirs(forged)])
    for pair in ((discharge, forged), (discharge, discharge)):
        with refused(Reason.DISCHARGE_INVALID):
            we_allow(SSO, *pair)


def test_unused_discharges_pass_there() -> None:
    """Parts that nobody asked for ride along unsigned."""
    stray = made(b"whoever", b"whatever")
    assert they_verify(theirs(ROOT), [theirs(stray)])
    with refused(Reason.DISCHARGE_INVALID):
        we_allow(ROOT, stray)


def test_one_discharge_serves_two_caveats_there() -> None:
    """Two caveats with one ticket are both met by one discharge."""
    twice = required(SSO, b"caveat key", b"ticket")
    discharge = bound(twice, DISCHARGE)
    assert they_verify(theirs(twice), [theirs(discharge)])
    with refused(Reason.DISCHARGE_INVALID):
        we_allow(twice, discharge)


NON_MINIMAL = {
    "identifier": (b"\x02\x02id\x00", b"\x02\x82\x00id\x00"),
    "caveat": (b"\x02\x0aorg = acme\x00", b"\x02\x8a\x00org = acme\x00"),
    "signature": (b"\x00\x06\x20", b"\x00\x06\xa0\x00"),
    "signature, four bytes": (b"\x00\x06\x20", b"\x00\x06\xa0\x80\x80\x00"),
    "field type": (b"\x00\x06\x20", b"\x00\x86\x00\x20"),
}


@pytest.mark.parametrize(("minimal", "longer"), NON_MINIMAL.values(), ids=NON_MINIMAL)
def test_non_minimal_varints_pass_there(minimal: bytes, longer: bytes) -> None:
    """A length written with zeros in front is one more spelling of the same token."""
    data = binary(ROOT)
    assert data.count(minimal) == 1
    spoiled = data.replace(minimal, longer)
    assert they_verify(TheirMacaroon.deserialize(bare(spoiled)))
    with refused(Reason.MALFORMED):
        parse(spoiled)


def test_a_discharge_loop_is_a_recursion_error_there() -> None:
    """A discharge that asks for itself sends their verifier down its own stack."""
    loop = bound(SSO, required(DISCHARGE, b"caveat key", b"ticket"))
    with pytest.raises(RecursionError):
        they_verify(theirs(SSO), [theirs(loop)])
    with refused(Reason.DISCHARGE_INVALID):
        we_allow(SSO, loop)


INDEX_ERRORS = {
    "nothing in base64": "====",
    "V1 with a sealed key before any caveat": bare(b"000evid x \x00\x00\x00\n"),
}


@pytest.mark.parametrize("text", INDEX_ERRORS.values(), ids=INDEX_ERRORS)
def test_an_index_error_there_is_malformed_here(text: str) -> None:
    """Their parser indexes what it has not measured."""
    with pytest.raises(IndexError):
        TheirMacaroon.deserialize(text)
    with refused(Reason.MALFORMED):
        parse_token(text)


def test_a_missing_discharge_is_a_type_error_there() -> None:
    """With no discharges given, they iterate over None."""
    with pytest.raises(TypeError):
        they_verify(theirs(SSO))
    with refused(Reason.DISCHARGE_MISSING):
        we_allow(SSO)


def test_a_location_that_is_not_utf8_is_a_unicode_error_there() -> None:
    """The location decides nothing, so its bytes need not be text."""
    text = bare(binary(ROOT, b"\xff\xfe"))
    with pytest.raises(UnicodeDecodeError):
        TheirMacaroon.deserialize(text)
    assert verify_signatures(parse_token(text), KEY) == (b"org = acme",)


def test_a_caveat_that_is_not_utf8_is_a_unicode_error_there() -> None:
    """Properly signed, it is one more caveat that is not in the grammar."""
    macaroon = made(SECRET, b"id", [b"org = \xff"])
    with pytest.raises(UnicodeDecodeError):
        they_verify(theirs(macaroon))
    with refused(Reason.CAVEAT):
        we_allow(macaroon)


@pytest.mark.parametrize("data", [b"\x02\x02", b"\x02\x02\xff\xff", b"\x02\x82"])
def test_an_unfinished_varint_is_a_bare_exception_there(data: bytes) -> None:
    """`Exception` itself, which no caller can catch without catching everything."""
    with pytest.raises(Exception, match="cannot read uvarint from buffer") as info:
        TheirMacaroon.deserialize(bare(data))
    assert type(info.value) is Exception
    with refused(Reason.MALFORMED):
        parse_token(bare(data))


def test_a_sealed_key_that_does_not_open_is_a_nacl_error_there() -> None:
    """Any holder can add one."""
    vid = bytes(72)
    caveats = (*ROOT.caveats, Caveat(b"ticket", vid, b"x"))
    root = replace(ROOT, caveats=caveats, signature=mac(ROOT.signature, vid, b"ticket"))
    discharge = bound(root, DISCHARGE)
    with pytest.raises(nacl.exceptions.CryptoError):
        they_verify(theirs(root), [theirs(discharge)])
    with refused(Reason.DISCHARGE_INVALID):
        we_allow(root, discharge)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", MacaroonInitException),
        ("A", binascii.Error),
        ("QA", MacaroonDeserializationException),
        ("é", IndexError),
    ],
)
def test_a_few_characters_are_as_many_exceptions_there(text: str, error: type[Exception]) -> None:
    """No two of them of one family; here one class with one reason."""
    with pytest.raises(error):
        TheirMacaroon.deserialize(text)
    with refused(Reason.MALFORMED):
        parse_token(text)


def test_a_signature_of_any_length_is_read_there() -> None:
    """Theirs is found out only when it is compared; ours has 32 bytes or is no macaroon."""
    data = b"\x02" + packet(2, b"id") + b"\x00\x00" + packet(6, b"short")
    assert TheirMacaroon.deserialize(bare(data)).signature == b"short".hex()
    with refused(Reason.MALFORMED):
        parse(data)


def test_published_bad_packets_are_refused_by_both_but_with_one_class_here() -> None:
    """go-macaroon's list, each inside a V2 frame."""
    packets = vectors("token_published.json")["packets"]
    for case in (*packets["fields"], *packets["sections"]):
        data = b"\x02" + bytes.fromhex(case["hex"])
        with pytest.raises(Exception):  # noqa: B017 - bare Exception is among them
            TheirMacaroon.deserialize(bare(data))
        with pytest.raises(TokenRefused):
            parse_token(bare(data))


def test_a_discharge_is_verified_before_any_caveat_is_cleared_here() -> None:
    """A failing caveat of the root does not hide a forged discharge, nor the other way round."""
    root = required(made(SECRET, b"id", [b"org = beta"]), b"caveat key", b"ticket")
    forged = replace(bound(root, DISCHARGE), signature=bytes(32))
    with refused(Reason.DISCHARGE_INVALID):
        we_allow(root, forged)
    with refused(Reason.CAVEAT):
        we_allow(root, bound(root, DISCHARGE))
    assert verify_signatures(UnverifiedToken(root, (bound(root, DISCHARGE),)), KEY)
