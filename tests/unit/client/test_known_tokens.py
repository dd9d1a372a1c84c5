"""What is taken for a narrower copy of a token that is remembered, and what only looks like one."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from petsem.tokens.macaroon import Caveat, Macaroon, attenuate, bind_discharge, encode
from petsem.tokens.text import encode_part, encode_token, parse_token
from petsem.tokens.ticket import discharge
from petsem_client.verdicts import VerdictSource
from petsem_client.verified_cache import PARENTS_MAX
from tests.unit.client.verifier_end import ALICE, READ, Verifier, person


def text_of(root: Macaroon, *discharges: Macaroon) -> str:
    return encode_token(root, discharges)


def attacks(verifier: Verifier) -> dict[str, str]:
    """Texts made from a token of Alice's that is remembered, by somebody without its key."""
    token, other = person(verifier), person(verifier)
    for each in (token, other):
        assert verifier.ask(each.text).allowed
    parsed = parse_token(token.narrowed("app = web", "x = 1", discharge=("y = 1",)))
    root, unbound = parsed.root, token.discharge
    assert unbound is not None
    assert other.discharge is not None
    bound = parsed.discharges[0]
    forged = discharge(unbound.identifier, b"attacker's" + bytes(22), [f"user = {ALICE}"])

    def caveats(*kept: Caveat) -> str:
        return text_of(dataclasses.replace(root, caveats=kept), bound)

    def cut(cut_root: Macaroon) -> str:
        return text_of(cut_root, bind_discharge(cut_root, unbound))

    *first, x = root.caveats
    own = first[0]
    return {
        "removed": caveats(*first),
        "removed, rebound": cut(dataclasses.replace(root, caveats=tuple(first))),
        "all that was added": cut(dataclasses.replace(token.root, signature=root.signature)),
        "of the parent removed": caveats(*root.caveats[1:]),
        "reordered": caveats(*first[:-1], x, first[-1]),
        "edited": caveats(*first, Caveat(b"x = 2")),
        "edited in the parent": caveats(Caveat(b"org = beta"), *root.caveats[1:]),
        "duplicated": caveats(*root.caveats, x),
        "duplicated of the parent": caveats(own, *root.caveats),
        "another token's discharge": text_of(root, bind_discharge(root, other.discharge)),
        "bound to another root": text_of(root, bind_discharge(other.root, unbound)),
        "bound to the parent": text_of(root, bind_discharge(token.root, unbound)),
        "not bound": text_of(root, unbound),
        "made by somebody": text_of(root, bind_discharge(root, forged)),
        "caveat of the discharge removed": text_of(
            root, dataclasses.replace(bound, caveats=unbound.caveats)
        ),
        "missing": encode_token(root),
        "twice": text_of(root, bound, bound),
        "extra": text_of(root, bound, bind_discharge(root, other.discharge)),
        "forged tail": cut(dataclasses.replace(root, signature=bytes(32))),
        "forged discharge": text_of(root, dataclasses.replace(bound, signature=bytes(32))),
        "a third party's, signed as one's own": cut(
            dataclasses.replace(
                attenuate(root, ["z = 1"]), caveats=(*root.caveats, Caveat(b"z = 1", bytes(72)))
            )
        ),
    }


def test_no_attack_is_taken_for_a_copy() -> None:
    """Each is asked about, and the node refuses it."""
    verifier = Verifier()
    access = {**READ, "x": "1", "y": "1", "z": "1"}
    for name, text in attacks(verifier).items():
        verdict, asked = verifier.asked(text, access)
        assert (name, verdict.allowed, asked) == (name, False, True)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_last_bytes_of_the_parent_count(length: int) -> None:
    """Those that share a group of letters with what was added, too."""
    verifier = Verifier()
    # The end is the same for all, and the caveat before it has another length.
    token = verifier.node.issue(f"app in web, {'a' * length}")
    assert verifier.ask(token.text).allowed
    end = len(encode(token.root)) - 35
    binary = encode(attenuate(token.root, ["app = web"]))
    assert not verifier.asked(_letters(binary))[1]
    for at in range(end - 4, end):
        altered = bytearray(binary)
        altered[at] ^= 1
        verdict, _ = verifier.asked(_letters(bytes(altered)))
        assert (at, verdict.allowed) == (at, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 10 * 1024 * 1024, "MALFORMED"),
        ("petsem_" + "\udcff" * 50, "MALFORMED"),
        ("petsem_AgEG\udc80", "MALFORMED"),
        ("ü" * 100, "MALFORMED"),
        ("", "MALFORMED"),
        ("," * 6_000, "TRUNCATED"),
    ],
)
def test_text_that_is_no_token(text: str, reason: str) -> None:
    """Refused here, by the node's own parser; nothing of it is sent, quoted or kept."""
    verifier = Verifier()
    verdict, asked = verifier.asked(text)
    assert (verdict.reason, asked, verdict.source) == (reason, False, VerdictSource.CACHE)
    assert len(verdict.message) < 200
    assert not verifier.state._cache._refused


def test_ten_thousand_caveats() -> None:
    """On a copy of what is remembered: too long as text, and too many in 6 KiB."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    root = token.root
    many = dataclasses.replace(root, caveats=(*root.caveats, *[Caveat(b"x = 1")] * 10_000))
    body = _bare(many)
    assert verifier.asked(body)[0].reason == "MALFORMED"
    few = dataclasses.replace(root, caveats=(*root.caveats, *[Caveat(b"x = 1")] * 63))
    verdict, asked = verifier.asked(_bare(few))
    assert (verdict.reason, asked) == ("MALFORMED", False)


@pytest.mark.parametrize(("count", "reason"), [(30, ""), (31, "MALFORMED")])
def test_the_caveats_of_root_and_discharge_together(count: int, reason: str) -> None:
    """64 are allowed, as at the node, however they are spread."""
    verifier = Verifier()
    token = person(verifier)
    verifier.ask(token.text)
    assert token.discharge is not None
    root = attenuate(token.root, ["app = web"] * count)
    bound = bind_discharge(root, attenuate(token.discharge, ["app = web"] * 30))
    verdict, asked = verifier.asked(f"{encode_part(root)},{encode_part(bound)}")
    assert (verdict.reason, asked) == (reason, False)


def test_copies_of_one_token_do_not_make_it_slow() -> None:
    """Only the widest are tried as parents, and the widest stays one."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.narrowed("app = web", "x in 1, 2"), {**READ, "x": "1"})
    verifier.ask(token.text)
    for at in range(2 * PARENTS_MAX):
        # Bare base64 of another library's location: not known as a copy, so it is an entry.
        narrow = parse_token(token.narrowed("app = web", f"y in {at}, 9")).root
        other = dataclasses.replace(narrow, location=b"elsewhere")
        text = _letters(encode(other))
        assert verifier.asked(text, {**READ, "y": "9"})[1]
    (family,) = verifier.state._cache._families.values()
    assert len(family.parents) == PARENTS_MAX
    assert not verifier.asked(token.narrowed("app in web, z"))[1]


def _bare(root: Macaroon) -> str:
    """The base64 of a macaroon with more caveats than `encode` takes."""
    head = encode(dataclasses.replace(root, caveats=root.caveats[:2]))[:-35]
    rest = b"".join(b"\x02" + bytes((len(c.cid),)) + c.cid + b"\x00" for c in root.caveats[2:])
    return _letters(head + rest + b"\x00\x06\x20" + root.signature)


def _letters(binary: bytes) -> str:
    return base64.urlsafe_b64encode(binary).decode().rstrip("=")
