"""Macaroons carried to another implementation of the libmacaroons format and back.

The other one is npm's `macaroon`, which shares no code with this project or with pymacaroons; it
is of the family that wrote the published values, which the first test holds it to.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from petsem.tokens.macaroon import LOCATION, Macaroon, attenuate, bind_discharge, encode, parse
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.reasons import Reason
from petsem.tokens.text import UnverifiedToken, encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge
from petsem.tokens.verifier import derive_key, verify_signatures
from tests.interop.theirs import TheirError, Theirs
from tests.unit.tokens.build import IDENTIFIER, SECRET, bare, binary, refused, unbare, vectors

PUBLISHED = vectors("token_published.json")
KEY = derive_key(SECRET)
CAVEATS = ["org = acme", "action in secrets:read, secrets:list", "time < 2030-01-01T00:00:00Z"]
CAVEAT_KEY = bytes(range(64, 96))
TICKET = b"\x00\xff not UTF-8: " + bytes(range(128, 160))
"""A ticket is sealed bytes, which no implementation may take for text."""

few = settings(deadline=None, max_examples=40)
predicates = st.sampled_from(
    ("org = acme", "app in web, api", "secret in A*, B", "ip = 10.0.0.0/8", "x = \x21~")
)


def taken(root: Macaroon, *discharges: Macaroon) -> tuple[bytes, ...]:
    """What our verifier takes the token for, read from its text."""
    token = parse_token(encode_token(root, discharges))
    assert token == UnverifiedToken(root, discharges)
    return verify_signatures(token, KEY)


def cids(*texts: str) -> tuple[bytes, ...]:
    """Predicates as bytes."""
    return tuple(text.encode() for text in texts)


@pytest.mark.parametrize("case", PUBLISHED["signatures"], ids=lambda case: case["name"])
def test_they_sign_as_published(theirs: Theirs, case: dict[str, Any]) -> None:
    """Both implementations give the signatures that libmacaroons and its relatives published."""
    made = theirs.mint(case["secret"].encode(), case["identifier"].encode(), cids(*case["caveats"]))
    assert parse(made).signature.hex() == case["signature"]


def test_they_verify_what_is_published_for_both(theirs: Theirs) -> None:
    """Root and bound discharge of the cross-language set, out of our own writer."""
    cross = PUBLISHED["cross_language"]
    token = parse_token(f"{cross['binary_v2']},{cross['binary_v2_discharge']}")
    found = theirs.verify(token.root, cross["secret"].encode(), token.discharges)
    assert sorted(found) == sorted(cross["caveats"])


def test_they_read_what_we_minted(theirs: Theirs) -> None:
    """Every field of our V2 binary is theirs to read, and they write the same bytes again."""
    asked = ThirdParty("https://auth.example", CAVEAT_KEY, TICKET)
    ours = mint(SECRET, IDENTIFIER, CAVEATS, [asked])
    found = theirs.read(encode(ours))
    assert base64.b64decode(found["binary"]) == encode(ours)
    assert found["location"] == "petsem"
    assert base64.b64decode(found["identifier"]) == IDENTIFIER.encode()
    assert base64.b64decode(found["signature"]) == ours.signature
    assert [base64.b64decode(caveat["cid"]) for caveat in found["caveats"]] == [
        *cids(*CAVEATS),
        TICKET,
    ]
    vids = [caveat["vid"] and base64.b64decode(caveat["vid"]) for caveat in found["caveats"]]
    assert vids == [None, None, None, ours.caveats[-1].vid]
    assert found["caveats"][-1]["location"] == "https://auth.example"


def test_they_verify_what_we_minted(theirs: Theirs) -> None:
    """Under the root secret, and under no other; with a caveat gone it is not ours any more."""
    ours = mint(SECRET, IDENTIFIER, CAVEATS)
    assert theirs.verify(ours, SECRET) == CAVEATS
    with pytest.raises(TheirError, match="signature mismatch"):
        theirs.verify(ours, bytes(32))
    fewer = Macaroon(ours.location, ours.identifier, ours.caveats[:-1], ours.signature)
    with pytest.raises(TheirError, match="signature mismatch"):
        theirs.verify(fewer, SECRET)


@few
@given(st.lists(predicates, max_size=4), st.lists(predicates, max_size=4))
def test_both_attenuate_to_the_same_bytes(
    theirs: Theirs, minted: list[str], added: list[str]
) -> None:
    """Whoever narrows a token of ours gets the same one, which both verify."""
    root = mint(SECRET, IDENTIFIER, minted)
    ours, others = attenuate(root, added), theirs.attenuate(root, *added)
    assert others == encode(ours)
    assert taken(parse_token(bare(others)).root) == cids(*minted, *added)
    assert theirs.verify(ours, SECRET) == [*minted, *added]


@few
@given(st.lists(predicates, max_size=4), st.sampled_from(("", "petsem", "elsewhere")))
def test_we_verify_what_they_minted(theirs: Theirs, minted: list[str], location: str) -> None:
    """With a root secret that both know, wherever they say it is from."""
    others = theirs.mint(SECRET, IDENTIFIER.encode(), cids(*minted), location)
    token = parse_token(bare(others))
    assert verify_signatures(token, KEY) == cids(*minted)
    assert token.root.location == (location.encode() or LOCATION)
    with refused(Reason.BAD_SIGNATURE):
        verify_signatures(token, derive_key(bytes(32)))


def test_a_location_left_out_is_an_empty_one(theirs: Theirs) -> None:
    """They leave an empty location out, pymacaroons writes it with length 0: one macaroon to us
    and to them, of the root and of a third-party caveat."""
    absent = theirs.mint(SECRET, IDENTIFIER.encode(), cids(*CAVEATS))
    macaroon = parse(absent)
    assert absent == binary(macaroon, location=None)
    empty = binary(macaroon, location=b"")
    assert parse(empty) == macaroon
    assert theirs.read(empty)["signature"] == theirs.read(absent)["signature"]
    asking = parse(theirs.require(macaroon, CAVEAT_KEY, TICKET, ""))
    assert asking.caveats[-1].location is None
    assert theirs.read(encode(asking))["caveats"][-1]["location"] is None
    spelled = structs.replace(asking.caveats[-1], location=b"")
    empty = binary(replace(asking, caveats=(*asking.caveats[:-1], spelled)))
    assert parse(empty) == asking
    assert theirs.read(empty)["signature"] == theirs.read(encode(asking))["signature"]
    answer = bind_discharge(asking, discharge(TICKET, CAVEAT_KEY, []))
    assert taken(asking, answer) == cids(*CAVEATS)


@pytest.mark.parametrize("binder", ["ours", "theirs"])
@pytest.mark.parametrize("discharger", ["ours", "theirs"])
@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_third_party_caveats_of_either(
    theirs: Theirs, asker: str, discharger: str, binder: str
) -> None:
    """Who asks for a discharge, who makes it and who binds it may each be the other's."""
    root = mint(SECRET, IDENTIFIER, CAVEATS)
    if asker == "ours":
        asking = require_discharge(root, b"auth", CAVEAT_KEY, TICKET)
    else:
        asking = parse(theirs.require(root, CAVEAT_KEY, TICKET, "auth"))
    asking = parse(theirs.attenuate(asking, "app = web"))
    limits = ["user = a@example.com", "time < 2030-01-01T00:00:00Z"]
    if discharger == "ours":
        unbound = discharge(TICKET, CAVEAT_KEY, limits)
    else:
        unbound = parse(theirs.mint(CAVEAT_KEY, TICKET, cids(*limits), "auth"))
    bound = bind_discharge(asking, unbound) if binder == "ours" else theirs.bind(asking, unbound)
    assert bound.signature == bind_discharge(asking, unbound).signature
    expected = [*CAVEATS, "app = web", *limits]
    assert taken(asking, bound) == cids(*expected)
    # They walk into a discharge where the caveat stands, and we after the root.
    assert sorted(theirs.verify(asking, SECRET, [bound])) == sorted(expected)


def test_nested_discharges_of_either(theirs: Theirs) -> None:
    """A discharge that asks for another one: both are bound to the root, to both verifiers."""
    root = require_discharge(mint(SECRET, IDENTIFIER, CAVEATS), b"auth", CAVEAT_KEY, TICKET)
    outer = parse(theirs.require(discharge(TICKET, CAVEAT_KEY, []), b"n" * 32, b"nested", "more"))
    inner = parse(theirs.mint(b"n" * 32, b"nested", cids("region = ams")))
    sent = [theirs.bind(root, each) for each in (outer, inner)]
    assert taken(root, *sent) == cids(*CAVEATS, "region = ams")
    assert theirs.verify(root, SECRET, sent) == [*CAVEATS, "region = ams"]


def test_both_refuse_the_same(theirs: Theirs) -> None:
    """A discharge that is missing, not bound, bound elsewhere, made with another key, for nothing,
    or sent for two caveats."""
    plain = mint(SECRET, IDENTIFIER, CAVEATS)
    root = require_discharge(plain, b"auth", CAVEAT_KEY, TICKET)
    twice = require_discharge(root, b"auth", CAVEAT_KEY, TICKET)
    made = discharge(TICKET, CAVEAT_KEY, [])
    good = bind_discharge(root, made)
    for what, asked, sent, reason in (
        ("missing", root, [], Reason.DISCHARGE_MISSING),
        ("not bound", root, [made], Reason.DISCHARGE_INVALID),
        ("bound elsewhere", root, [bind_discharge(plain, made)], Reason.DISCHARGE_INVALID),
        (
            "another key",
            root,
            [bind_discharge(root, discharge(TICKET, bytes(32), []))],
            Reason.DISCHARGE_INVALID,
        ),
        ("for nothing", plain, [bind_discharge(plain, made)], Reason.DISCHARGE_INVALID),
        ("two caveats", twice, [bind_discharge(twice, made)], Reason.DISCHARGE_INVALID),
    ):
        with refused(reason):
            taken(asked, *sent)
        with pytest.raises(TheirError):
            theirs.verify(asked, SECRET, sent)
        assert what
    assert taken(root, good) == cids(*CAVEATS)


def test_only_the_binary_form_of_theirs_is_ours(theirs: Theirs) -> None:
    """Unpadded base64url of their bytes is a token; padded, or with more behind it, it is none."""
    others = theirs.mint(SECRET, IDENTIFIER.encode(), cids("org = acme"))
    assert encode(parse_token(bare(others)).root) == binary(parse(others))
    padded = base64.urlsafe_b64encode(others + b"\x00").decode()
    for text in (padded, base64.b64encode(others).decode() + "==", bare(others) + "AAAA"):
        with refused(Reason.MALFORMED):
            parse_token(text)
    assert unbare(bare(others)) == others
