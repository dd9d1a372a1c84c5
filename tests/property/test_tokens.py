"""Properties of tokens: one spelling, no widening, the same signatures as pymacaroons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from pymacaroons import Macaroon as TheirMacaroon
from pymacaroons import Verifier
from pymacaroons.macaroon import MACAROON_V2
from pymacaroons.serializers import BinarySerializer

from petsem.tokens.caveats import Access, SecretFilter, clear
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.inspect import describe
from petsem.tokens.macaroon import Caveat, Macaroon, attenuate, bind_discharge, encode, parse
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import UnverifiedToken, encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.verifier import verify_signatures
from tests.unit.tokens.build import (
    IDENTIFIER,
    NOW_S,
    SECRET,
    bare,
    binary,
    bound,
    derived,
    made,
    prefixed,
    required,
)

thorough = settings(deadline=None, max_examples=200)

KEY = derived(SECRET)

WORDS = ("web", "api", "jobs", "A", "AB", "B", "10.0.0.1", "::ffff:10.0.0.1")
values = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(", ".join)
times = st.sampled_from(("2027-01-15T07:59:59Z", "2027-01-15T08:00:00Z", "2027-01-15T08:00:01Z"))
predicates = st.one_of(
    st.builds("{} = {}".format, st.sampled_from(("org", "app", "x")), st.sampled_from(WORDS)),
    st.builds("{} in {}".format, st.sampled_from(("org", "app", "x")), values),
    st.builds("secret in {}".format, st.sampled_from(("A", "A*", "B, A*", "*", "web"))),
    st.builds("ip in {}".format, st.sampled_from(("10.0.0.0/8", "::/0", "10.0.0.1, fdaa::1"))),
    st.builds("time {} {}".format, st.sampled_from(("<", ">=")), times),
)
cids = st.one_of(predicates.map(str.encode), st.binary(max_size=300))
accesses = st.builds(
    Access,
    st.dictionaries(
        st.sampled_from(("org", "app", "x", "ip", "secret", "time")), st.sampled_from(WORDS)
    ),
    st.just(NOW_S),
    st.none() | st.lists(st.sampled_from(("A", "AB", "B", "web")), max_size=3).map(tuple),
    st.booleans(),
)
macaroons = st.builds(
    lambda identifier, texts, third: (
        required(made(SECRET, identifier, texts), b"caveat key", b"ticket")
        if third
        else made(SECRET, identifier, texts)
    ),
    st.binary(max_size=200),
    st.lists(cids, max_size=6),
    st.booleans(),
)


def cleared(caveats: Sequence[bytes], access: Access) -> SecretFilter | bool | None:
    """What `clear` answers, with False for a refusal."""
    try:
        return clear(caveats, access)
    except TokenRefused:
        return False


def they_verify(root: Macaroon, *discharges: Macaroon) -> bool:
    """pymacaroons' verdict with every caveat taken to hold."""
    judge = Verifier()
    judge.satisfy_general(lambda _: True)
    parts = [TheirMacaroon.deserialize(bare(encode(part))) for part in (root, *discharges)]
    return bool(judge.verify(parts[0], SECRET, parts[1:]))


# The same tokens as pymacaroons


@thorough
@given(st.lists(predicates, max_size=5), st.lists(predicates, max_size=5))
def test_both_attenuate_to_the_same_token(minted: list[str], added: list[str]) -> None:
    """Minted there and narrowed by either: equal bytes, and each verifies the other's."""
    root = mint(SECRET, IDENTIFIER, minted)
    ours = attenuate(root, added)
    theirs = TheirMacaroon.deserialize(bare(encode(root)))
    for predicate in added:
        theirs.add_first_party_caveat(predicate)
    assert theirs.signature == ours.signature.hex()
    assert parse(BinarySerializer().serialize_raw(theirs)) == ours
    assert parse_token(theirs.serialize()) == UnverifiedToken(ours)
    assert they_verify(ours)
    expected = tuple(text.encode() for text in (*minted, *added))
    assert verify_signatures(UnverifiedToken(ours), KEY) == expected


@thorough
@given(st.binary(min_size=1, max_size=64), st.binary(max_size=200), st.lists(st.text(max_size=60)))
def test_both_sign_any_identifier_and_caveat_alike(
    secret: bytes, identifier: bytes, texts: list[str]
) -> None:
    """Beyond our own identifiers and grammar, so that the walk is theirs in all."""
    theirs = TheirMacaroon("petsem", identifier, secret, version=MACAROON_V2)
    for text in texts:
        theirs.add_first_party_caveat(text)
    ours = made(secret, identifier, [text.encode() for text in texts])
    assert theirs.signature == ours.signature.hex()
    if len(texts) <= 64 and len(binary(ours)) <= 6 * 1024:
        assert BinarySerializer().serialize_raw(theirs) == encode(ours)
        expected = tuple(text.encode() for text in texts)
        assert verify_signatures(UnverifiedToken(ours), derived(secret)) == expected


@thorough
@given(
    st.lists(predicates, max_size=3),
    st.lists(predicates, max_size=3),
    st.binary(min_size=1, max_size=40),
    st.booleans(),
)
def test_both_discharge_alike(
    minted: list[str], limits: list[str], caveat_key: bytes, nested: bool
) -> None:
    """Third-party caveats of either, nested or not, bound by either, verified by both."""
    root = mint(SECRET, IDENTIFIER, minted, [ThirdParty("x", caveat_key, b"ticket")])
    root = attenuate(root, ["app = web"])
    discharges = [made(caveat_key, b"ticket", [text.encode() for text in limits])]
    if nested:
        discharges = [
            require_discharge(discharges[0], b"y", caveat_key, b"nested"),
            made(caveat_key, b"nested"),
        ]
    theirs = TheirMacaroon.deserialize(bare(encode(root)))
    sent = [bind_discharge(root, each) for each in discharges]
    for ours, unbound in zip(sent, discharges, strict=True):
        other = theirs.prepare_for_request(TheirMacaroon.deserialize(bare(encode(unbound))))
        assert other.signature == ours.signature.hex()
    assert they_verify(root, *sent)
    expected = tuple(text.encode() for text in (*minted, "app = web", *limits))
    assert verify_signatures(UnverifiedToken(root, tuple(sent)), KEY) == expected


@thorough
@given(st.lists(predicates, max_size=4), st.binary(min_size=1, max_size=40))
def test_we_discharge_what_they_ask_for(minted: list[str], caveat_key: bytes) -> None:
    """A third-party caveat added with pymacaroons by a holder is as good as ours."""
    theirs = TheirMacaroon.deserialize(bare(encode(mint(SECRET, IDENTIFIER, minted))))
    theirs.add_third_party_caveat("https://auth.example", caveat_key, b"ticket")
    root = parse_token(theirs.serialize()).root
    discharge = bind_discharge(root, made(caveat_key, b"ticket"))
    expected = tuple(text.encode() for text in minted)
    assert verify_signatures(UnverifiedToken(root, (discharge,)), KEY) == expected


# One spelling


@thorough
@given(macaroons)
def test_every_macaroon_survives_its_bytes_and_its_text(macaroon: Macaroon) -> None:
    """Whatever the identifier and caveats are."""
    assert parse(encode(macaroon)) == macaroon
    assert encode(macaroon) == binary(macaroon)
    assert parse_token(encode_token(macaroon)) == UnverifiedToken(macaroon)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Bytes near a macaroon: some replaced, removed or inserted."""
    data = bytearray(binary(draw(macaroons), draw(st.sampled_from((None, b"", b"petsem", b"x")))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 3)))
        data[at:end] = draw(st.binary(max_size=3))
    return bytes(data)


def spellings(caveat: Caveat) -> tuple[Caveat, ...]:
    """A third-party caveat may leave its location out in two ways."""
    if caveat.vid is None or caveat.location is not None:
        return (caveat,)
    return caveat, structs.replace(caveat, location=b"")


@thorough
@given(st.binary(max_size=200) | spoiled())
def test_bytes_are_a_macaroon_in_one_spelling_or_refused(data: bytes) -> None:
    """Nothing but TokenRefused, and what parses is canonical but for a location left out."""
    try:
        macaroon = parse(data)
    except TokenRefused:
        return
    no_location = data[1:2] == b"\x02" or data[1:3] == b"\x01\x00"
    locations = (None, b"") if no_location else (macaroon.location,)
    spelled = [
        binary(replace(macaroon, caveats=tuple(caveats)), location)
        for caveats in product(*(spellings(caveat) for caveat in macaroon.caveats))
        for location in locations
    ]
    assert data in spelled
    assert parse(encode(macaroon)) == macaroon


bodies = st.binary(max_size=200) | spoiled()
texts = st.one_of(
    st.text(max_size=80),
    st.text("petsm_.,-AgEG=", max_size=40),
    bodies.map(bare),
    bodies.map(bare).map(prefixed),
    st.lists(bodies.map(bare).map(prefixed), max_size=10).map(",".join),
)


@thorough
@given(texts)
def test_text_is_a_token_or_refused(text: str) -> None:
    """Nothing but TokenRefused from text to walk, whatever a stranger sends."""
    try:
        token = parse_token(text)
        assert parse_token(encode_token(token.root, token.discharges)) == token
        json.dumps(describe(text))
        clear(verify_signatures(token, KEY), Access({}, NOW_S))
    except TokenRefused:
        return


@thorough
@given(st.data())
def test_every_changed_character_of_a_token_s_text_is_refused(data: st.DataObject) -> None:
    """One character replaced by any other, anywhere, with discharges or without."""
    root = required(made(SECRET, IDENTIFIER.encode(), [b"org = acme"]), b"caveat key", b"ticket")
    text = encode_token(root, [bound(root, made(b"caveat key", b"ticket"))])
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[at]))
    with pytest.raises(TokenRefused):
        parse_token(text[:at] + other + text[at + 1 :])


@thorough
@given(cids)
def test_a_caveat_is_a_predicate_in_one_spelling_or_none(cid: bytes) -> None:
    """What is in the grammar writes itself back byte for byte."""
    predicate = parse_predicate(cid)
    assert predicate is None or str(predicate).encode() == cid


@thorough
@given(st.binary(max_size=80))
def test_identifiers_are_62_bytes_in_one_spelling_or_refused(data: bytes) -> None:
    """Also for bytes that begin and end as one does."""
    for candidate in (data, IDENTIFIER.encode()[: -len(data) or None] + data):
        try:
            assert Identifier.parse(candidate).encode() == candidate
        except TokenRefused:
            continue


# No widening


@thorough
@given(st.lists(cids, max_size=6), st.lists(cids, max_size=4), accesses, st.data())
def test_more_caveats_never_allow_more(
    caveats: list[bytes], extra: list[bytes], access: Access, data: st.DataObject
) -> None:
    """What clears with more caveats, wherever they stand, clears with fewer, and admits no less."""
    order = data.draw(st.permutations([*caveats, *extra]))
    with_more = cleared(order, access)
    with_fewer = cleared(caveats, access)
    if with_more is not False:
        assert with_fewer is not False
        for name in ("A", "AB", "B", "web", "OTHER"):
            if not isinstance(with_more, SecretFilter) or with_more.admits(name):
                assert not isinstance(with_fewer, SecretFilter) or with_fewer.admits(name)


@thorough
@given(st.lists(cids, max_size=6), accesses)
def test_the_order_of_caveats_decides_nothing(caveats: list[bytes], access: Access) -> None:
    """Only which of several failures is reported."""
    one, two = cleared(caveats, access), cleared(sorted(caveats), access)
    assert (one is False) == (two is False)
    assert isinstance(one, SecretFilter) == isinstance(two, SecretFilter)


@thorough
@given(st.lists(cids, min_size=1, max_size=6), accesses, st.integers(0, 5))
def test_a_caveat_twice_is_the_caveat_once(
    caveats: list[bytes], access: Access, index: int
) -> None:
    """Inheritance may repeat caveats; that changes nothing."""
    again = [*caveats, caveats[index % len(caveats)]]
    assert (cleared(caveats, access) is False) == (cleared(again, access) is False)


@thorough
@given(st.lists(cids, max_size=4), st.lists(cids, max_size=4), accesses)
def test_an_attenuated_token_never_allows_more(
    minted: list[bytes], added: list[bytes], access: Access
) -> None:
    """From text to verdict, with caveats of any bytes."""
    narrow = made(SECRET, IDENTIFIER.encode(), [*minted, *added])
    wide = made(SECRET, IDENTIFIER.encode(), minted)
    verdicts = [
        cleared(verify_signatures(parse_token(encode_token(each)), KEY), access)
        for each in (narrow, wide)
    ]
    assert verdicts[0] is False or verdicts[1] is not False


@thorough
@given(st.lists(cids, min_size=1, max_size=5), st.data())
def test_a_changed_list_of_caveats_never_verifies(
    caveats: list[bytes], data: st.DataObject
) -> None:
    """Any other list under the same signature."""
    macaroon = made(SECRET, IDENTIFIER.encode(), caveats)
    other = data.draw(st.lists(st.sampled_from(caveats) | cids, max_size=6))
    forged = replace(made(SECRET, b"", other), identifier=macaroon.identifier)
    forged = replace(forged, signature=macaroon.signature)
    if other == caveats:
        return
    with pytest.raises(TokenRefused):
        verify_signatures(UnverifiedToken(forged), KEY)
