"""The V2 codec: one spelling in, one spelling out, and nothing but TokenRefused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.limits import CAVEAT_MAX_BYTES, CAVEATS_MAX, TOKEN_MAX_BYTES
from petsem.tokens.macaroon import (
    LOCATION,
    Caveat,
    Macaroon,
    attenuate,
    bind_discharge,
    derive_key,
    encode,
    parse,
)
from petsem.tokens.reasons import Reason
from tests.unit.tokens.build import (
    IDENTIFIER,
    SECRET,
    added,
    binary,
    bound,
    derived,
    ids,
    made,
    packet,
    refused,
    required,
    vectors,
)

REFUSED = vectors("token_v2_refused.json")["refused"]
PLAIN = made(SECRET, IDENTIFIER.encode(), [b"org = acme", b"app in web, api"])
FULL = required(PLAIN, b"caveat key", b"ticket " * 40)


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_what_is_no_v2_macaroon_is_malformed(case: dict[str, Any]) -> None:
    """Every deviation from the byte table is refused, never repaired."""
    with refused(Reason.MALFORMED):
        parse(bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("macaroon", [PLAIN, FULL], ids=["first-party", "third-party"])
def test_parse_and_encode_are_inverse(macaroon: Macaroon) -> None:
    """Bytes written by hand read as the value, and the value writes the same bytes."""
    assert parse(binary(macaroon)) == macaroon
    assert encode(macaroon) == binary(macaroon)


@pytest.mark.parametrize("macaroon", [PLAIN, FULL], ids=["first-party", "third-party"])
def test_every_prefix_is_malformed(macaroon: Macaroon) -> None:
    """However many bytes arrive before the last, there is no macaroon yet and no over-read."""
    whole = binary(macaroon)
    for length in range(len(whole)):
        with refused(Reason.MALFORMED):
            parse(whole[:length])


def test_every_byte_after_the_end_is_malformed() -> None:
    """Nothing may follow the signature, whichever byte it is."""
    for extra in range(256):
        with refused(Reason.MALFORMED):
            parse(binary(FULL) + bytes((extra,)))


@pytest.mark.parametrize("location", [None, b""], ids=["absent", "empty"])
def test_a_location_left_out_becomes_ours(location: bytes | None) -> None:
    """Other libraries write no location or one of length 0; Petsem writes its own."""
    assert parse(binary(PLAIN, location)) == PLAIN
    assert encode(parse(binary(PLAIN, location))) == binary(PLAIN, LOCATION)


def test_another_location_is_kept() -> None:
    """It is not signed and decides nothing, and a discharge carries its maker's."""
    elsewhere = b"https://elsewhere.example"
    assert parse(binary(PLAIN, elsewhere)) == replace(PLAIN, location=elsewhere)
    assert encode(replace(PLAIN, location=elsewhere)) == binary(PLAIN, elsewhere)


def test_a_third_party_caveat_may_leave_its_location_out() -> None:
    """Absent and empty are one value, written as absent."""
    ticket, vid = b"ticket", bytes(72)
    head = b"\x02" + packet(1, b"petsem") + packet(2, b"id") + b"\x00"
    tail = packet(2, ticket) + packet(4, vid) + b"\x00\x00" + packet(6, bytes(32))
    expected = Macaroon(b"petsem", b"id", (Caveat(ticket, vid),), bytes(32))
    assert parse(head + tail) == parse(head + packet(1, b"") + tail) == expected
    assert encode(expected) == head + tail


def test_the_largest_caveat_and_the_most_caveats_parse() -> None:
    """The limits themselves are inside."""
    for macaroon in (
        made(SECRET, b"id", [b"x" * CAVEAT_MAX_BYTES]),
        made(SECRET, b"id", [b"a = b"] * CAVEATS_MAX),
    ):
        assert parse(binary(macaroon)) == macaroon


def test_more_bytes_than_a_token_may_have_are_not_looked_at() -> None:
    """The bound on length comes before the first byte."""
    with refused(Reason.MALFORMED) as info:
        parse(b"\x02" * (TOKEN_MAX_BYTES + 1))
    assert str(TOKEN_MAX_BYTES) in info.value.message


@pytest.mark.parametrize(
    "macaroon",
    [made(SECRET, b"id", [b"a = b"] * 65), made(SECRET, b"x" * TOKEN_MAX_BYTES)],
    ids=["caveats", "bytes"],
)
def test_nothing_over_the_limits_is_written(macaroon: Macaroon) -> None:
    """What could not be read back is not written."""
    with pytest.raises(PetsemError) as info:
        encode(macaroon)
    assert info.value.code is Code.INVALID


def test_attenuate_adds_caveats_in_order() -> None:
    """Each caveat is signed with the signature before it; the rest stays as it was."""
    narrowed = attenuate(PLAIN, ["machine = 3d8d9014", "time < 2030-01-01T00:00:00Z"])
    assert narrowed == added(added(PLAIN, b"machine = 3d8d9014"), b"time < 2030-01-01T00:00:00Z")
    assert attenuate(PLAIN, ()) == PLAIN


def test_attenuate_takes_any_iterable_once() -> None:
    """A generator of predicates is as good as a list."""
    assert attenuate(PLAIN, (f"app = {app}" for app in ("web",))) == added(PLAIN, b"app = web")


@pytest.mark.parametrize(
    "predicate", ["org=acme", "", "secret = hunter two", "org = é", "time < tomorrow", "app = w*"]
)
def test_attenuate_refuses_what_is_not_in_the_grammar(predicate: str) -> None:
    """A typing mistake is found here and not quoted, rather than denied everywhere later."""
    with pytest.raises(PetsemError) as info:
        attenuate(PLAIN, ["org = acme", predicate])
    assert info.value.code is Code.INVALID
    assert "caveat 2" in info.value.message
    assert predicate == "" or predicate not in info.value.message


def test_attenuate_stops_at_the_limit() -> None:
    """64 caveats and no more."""
    full = attenuate(PLAIN, ["app = web"] * (CAVEATS_MAX - 2))
    with pytest.raises(PetsemError) as info:
        attenuate(full, ["app = web"])
    assert info.value.code is Code.INVALID


def test_binding_covers_both_signatures() -> None:
    """As the published construction says, and leaving everything but the signature."""
    discharge = made(b"caveat key", b"ticket", [b"time < 2030-01-01T00:00:00Z"])
    assert bind_discharge(PLAIN, discharge) == bound(PLAIN, discharge)


def test_derive_key_is_the_family_s() -> None:
    """HMAC under the generator string, which the zero padding of HMAC extends to 32 bytes."""
    assert derive_key(SECRET) == derived(SECRET)


def test_no_repr_shows_a_signature() -> None:
    """Identifier, caveats and signature together are the credential."""
    assert repr(PLAIN.signature) not in repr(PLAIN)
    assert PLAIN.signature.hex() not in repr(PLAIN)
    assert "signature" not in repr(PLAIN)
