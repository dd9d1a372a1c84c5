"""Verifying: signatures of everything first, each discharge exactly once, bound to the root.

Told as attacks: what a holder, a finder or a third party could try with the bytes they have.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

import pytest

from petsem.tokens import verifier
from petsem.tokens.macaroon import Caveat, Macaroon, attenuate
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import UnverifiedToken, parse_token
from petsem.tokens.verifier import signature_under, verify_signatures
from tests.unit.tokens.build import (
    IDENTIFIER,
    SECRET,
    added,
    bare,
    binary,
    bound,
    derived,
    mac,
    made,
    refused,
    required,
)

KEY = derived(SECRET)
CIDS = (b"org = acme", b"app in web, api", b"time < 2030-01-01T00:00:00Z")
ROOT = made(SECRET, IDENTIFIER.encode(), CIDS)
SSO = required(ROOT, b"caveat key", b"ticket")
DISCHARGE = made(b"caveat key", b"ticket", [b"user = a@example.com"])


def verify(root: Macaroon, *discharges: Macaroon) -> tuple[bytes, ...]:
    """What a node does with root and discharges."""
    return verify_signatures(UnverifiedToken(root, discharges), KEY)


def test_a_good_token_gives_its_caveats_in_order() -> None:
    """All of them, once each."""
    assert verify(ROOT) == CIDS
    assert verify(made(SECRET, IDENTIFIER.encode())) == ()
    assert signature_under(KEY, ROOT) == ROOT.signature


def test_a_good_token_with_discharges_gives_the_caveats_of_all() -> None:
    """The root's first, then the discharges' in the order in which they are asked for."""
    nested = made(b"nested key", b"nested", [b"region = ams"])
    asking = required(DISCHARGE, b"nested key", b"nested")
    root = added(required(SSO, b"second key", b"second"), b"machine = m1")
    second = made(b"second key", b"second", [b"ip in 10.0.0.0/8"])
    sent = [bound(root, each) for each in (nested, second, asking)]
    expected = (
        *CIDS,
        b"machine = m1",
        b"user = a@example.com",
        b"ip in 10.0.0.0/8",
        b"region = ams",
    )
    assert verify(root, *sent) == verify(root, *reversed(sent)) == expected


Edit = Callable[[tuple[Caveat, ...]], tuple[Caveat, ...]]
EDITS: dict[str, Edit] = {
    "first removed": lambda c: c[1:],
    "last removed": lambda c: c[:-1],
    "all removed": lambda c: (),
    "reordered": lambda c: (c[1], c[0], *c[2:]),
    "edited": lambda c: (Caveat(b"org = beta"), *c[1:]),
    "emptied": lambda c: (Caveat(b""), *c[1:]),
    "first duplicated": lambda c: (c[0], *c),
    "last duplicated": lambda c: (*c, c[-1]),
    "inserted first": lambda c: (Caveat(b"org = acme"), *c),
    "inserted last": lambda c: (*c, Caveat(b"org = acme")),
    "made third-party": lambda c: (Caveat(c[0].cid, bytes(72)), *c[1:]),
    "joined": lambda c: (Caveat(c[0].cid + c[1].cid), *c[2:]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_caveats_are_a_bad_signature(edit: Edit) -> None:
    """Removed, reordered, edited, duplicated, inserted: the chain covers each and its place."""
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(ROOT, caveats=edit(ROOT.caveats)))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_caveats_of_a_discharge_are_invalid(edit: Edit) -> None:
    """A discharge's own limits hold as the root's do."""
    limits = [b"user = a@example.com", b"time < 2030-01-01T00:00:00Z"]
    whole = bound(SSO, made(b"caveat key", b"ticket", limits))
    assert verify(SSO, whole) == (*CIDS, *limits)
    with refused(Reason.DISCHARGE_INVALID):
        verify(SSO, replace(whole, caveats=edit(whole.caveats)))


@pytest.mark.parametrize("bit", range(0, 256, 5))
def test_a_flipped_bit_of_the_signature_is_a_bad_signature(bit: int) -> None:
    """Any of them."""
    signature = (int.from_bytes(ROOT.signature) ^ 1 << bit).to_bytes(32)
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(ROOT, signature=signature))


def test_a_third_party_caveat_removed_or_turned_is_a_bad_signature() -> None:
    """It may not be skipped, nor read as a first-party one with the ticket as its text."""
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(SSO, caveats=ROOT.caveats))
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(SSO, caveats=(*ROOT.caveats, Caveat(b"ticket"))))


def test_another_identifier_or_key_is_a_bad_signature() -> None:
    """The identifier is signed, the key is the org's."""
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(ROOT, identifier=replace(IDENTIFIER, txid=100).encode()))
    with refused(Reason.BAD_SIGNATURE):
        verify_signatures(UnverifiedToken(ROOT), derived(bytes(32)))
    with refused(Reason.BAD_SIGNATURE):
        verify_signatures(UnverifiedToken(ROOT), SECRET)


def test_an_intermediate_signature_is_not_a_shorter_token() -> None:
    """The holder of a narrowed token cannot go back: no earlier signature fits."""
    narrowed = attenuate(ROOT, ["app = web"])
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(narrowed, caveats=ROOT.caveats))


def test_every_flipped_bit_of_a_bare_part_is_refused_or_unsigned() -> None:
    """A bare part has no check; only its location, which decides nothing, can be changed."""
    data = binary(SSO)
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                token = parse_token(bare(bytes(flipped)))
                verify_signatures(token, KEY)
            except TokenRefused as error:
                if error.reason is Reason.DISCHARGE_MISSING:
                    # The signatures held: whatever changed is a location.
                    assert b"petsem" not in flipped or b"https://auth.example" not in flipped
                continue
            pytest.fail("the third-party caveat was skipped")


def test_a_missing_discharge_is_told() -> None:
    """The client can go and get it."""
    with refused(Reason.DISCHARGE_MISSING):
        verify(SSO)


def test_a_missing_nested_discharge_is_told() -> None:
    """Also if only the discharge asks for it."""
    with refused(Reason.DISCHARGE_MISSING):
        verify(SSO, bound(SSO, required(DISCHARGE, b"nested key", b"nested")))


def test_an_unbound_discharge_is_invalid() -> None:
    """Overheard on its own, it is worth nothing beside another token."""
    with refused(Reason.DISCHARGE_INVALID):
        verify(SSO, DISCHARGE)


def test_a_discharge_bound_to_another_token_is_invalid() -> None:
    """Even to an attenuation of this one, or to what this one was made from."""
    for other in (ROOT, added(SSO, b"app = web")):
        with refused(Reason.DISCHARGE_INVALID):
            verify(SSO, bound(other, DISCHARGE))


def test_a_nested_discharge_is_bound_to_the_root_and_not_to_its_parent() -> None:
    """Bound to the discharge that asks for it, it does not count."""
    asking = required(DISCHARGE, b"nested key", b"nested")
    nested = made(b"nested key", b"nested")
    assert verify(SSO, bound(SSO, asking), bound(SSO, nested))
    for parent in (asking, bound(SSO, asking)):
        with refused(Reason.DISCHARGE_INVALID):
            verify(SSO, bound(SSO, asking), bound(parent, nested))


def test_a_discharge_of_another_key_is_invalid() -> None:
    """Whoever has the ticket's text but not its key discharges nothing."""
    with refused(Reason.DISCHARGE_INVALID):
        verify(SSO, bound(SSO, made(b"another key", b"ticket")))


def test_the_root_is_not_its_own_discharge() -> None:
    """A ticket that names the root's identifier is discharged by no root."""
    root = required(ROOT, SECRET, ROOT.identifier)
    with refused(Reason.DISCHARGE_MISSING):
        verify(root)
    with refused(Reason.DISCHARGE_INVALID):
        verify(root, root)


def test_an_unused_discharge_is_invalid() -> None:
    """Every part that is sent must be asked for."""
    with refused(Reason.DISCHARGE_INVALID):
        verify(ROOT, bound(ROOT, DISCHARGE))
    with refused(Reason.DISCHARGE_INVALID):
        verify(SSO, bound(SSO, DISCHARGE), bound(SSO, made(b"k", b"other")))


@pytest.mark.parametrize("same", [True, False], ids=["same", "different"])
def test_two_discharges_for_one_ticket_are_invalid(same: bool) -> None:
    """Neither is chosen, whichever comes first."""
    first = bound(SSO, DISCHARGE)
    second = first if same else bound(SSO, made(b"caveat key", b"ticket", [b"region = ams"]))
    for discharges in ((first, second), (second, first)):
        with refused(Reason.DISCHARGE_INVALID):
            verify(SSO, *discharges)


def test_one_discharge_does_not_serve_two_caveats() -> None:
    """libmacaroons once left one of two equal caveats unchecked; here the pair is refused."""
    twice = required(SSO, b"caveat key", b"ticket")
    with refused(Reason.DISCHARGE_INVALID):
        verify(twice, bound(twice, DISCHARGE))


def test_two_caveats_on_one_ticket_with_two_discharges_are_refused_too() -> None:
    """The published case: conditions of three discharges, two of them for one ticket."""
    root = required(required(made(SECRET, b"id"), b"k1", b"t1"), b"k1", b"t1")
    discharges = [
        made(b"k1", b"t1", [b"splendid", b"top of the world"]),
        made(b"k1", b"t1", [b"wonderful"]),
    ]
    with refused(Reason.DISCHARGE_INVALID):
        verify(root, *(bound(root, each) for each in discharges))


def test_a_discharge_that_asks_for_itself_is_invalid() -> None:
    """The walk ends: a discharge is used once."""
    loop = required(DISCHARGE, b"caveat key", b"ticket")
    with refused(Reason.DISCHARGE_INVALID):
        verify(SSO, bound(SSO, loop))


def test_discharges_that_ask_for_each_other_are_invalid() -> None:
    """A ring of two or of eight ends the same way."""
    for count in (2, 8):
        tickets = [b"ticket", *(b"ticket %d" % number for number in range(1, count))]
        ring = [
            required(made(b"caveat key", ticket), b"caveat key", following)
            for ticket, following in zip(tickets, (*tickets[1:], tickets[0]), strict=True)
        ]
        with refused(Reason.DISCHARGE_INVALID):
            verify(SSO, *(bound(SSO, each) for each in ring))


def test_a_chain_of_eight_discharges_verifies() -> None:
    """As deep as the limit allows, with no recursion."""
    root = required(ROOT, b"key 0", b"ticket 0")
    chain = [
        required(made(b"key %d" % n, b"ticket %d" % n), b"key %d" % (n + 1), b"ticket %d" % (n + 1))
        for n in range(7)
    ]
    chain.append(made(b"key 7", b"ticket 7", [b"user = a@example.com"]))
    assert verify(root, *(bound(root, d) for d in chain)) == (*CIDS, b"user = a@example.com")


def test_a_sealed_key_that_does_not_open_is_invalid() -> None:
    """A holder can add any third-party caveat; it denies and does no more."""
    vid = bytes(72)
    signature = mac(ROOT.signature, vid, b"ticket")
    root = replace(ROOT, caveats=(*ROOT.caveats, Caveat(b"ticket", vid)), signature=signature)
    with refused(Reason.DISCHARGE_INVALID):
        verify(root, bound(root, DISCHARGE))


def test_nothing_is_opened_before_the_root_s_signature_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger's sealed key is not even looked at."""

    def never(*_: object) -> bytes:
        raise AssertionError("opened")

    monkeypatch.setattr(verifier, "open_key", never)
    with refused(Reason.BAD_SIGNATURE):
        verify(replace(SSO, signature=bytes(32)), bound(SSO, DISCHARGE))


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root and discharge alike go through `compare_digest`."""
    compared = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    discharge = bound(SSO, DISCHARGE)
    verify(SSO, discharge)
    assert [other for _, other in compared] == [SSO.signature, discharge.signature]
