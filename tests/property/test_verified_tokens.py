"""A verifier that remembers allows nothing that a node would deny, and takes nothing for a narrower
copy that is none."""

from __future__ import annotations

import base64

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from petsem.clock import rfc3339
from petsem.model import Kind
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge, derive_key, encode
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.verifier import walk_signatures
from petsem_client.known_tokens import KnownPart
from petsem_client.verdicts import VerdictSource
from tests.unit.client.verifier_end import ROOT_SECRET, Verifier

thorough = settings(deadline=None, max_examples=300)

ALICE = "alice@example.com"
NOW_MS = Verifier().clock.unix_ms()
WORDS = ("acme", "beta", "web", "api", "web:read", "nodes:read", "apps:admin", ALICE, "10.0.0.1")
KEYS = ("org", "app", "action", "user", "x")
values = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(", ".join)
times = st.integers(-2, 5).map(lambda s: rfc3339(NOW_MS + s * 1000))
predicates = st.one_of(
    st.builds("{} in {}".format, st.sampled_from(KEYS), values),
    st.builds("ip in {}".format, st.sampled_from(("10.0.0.0/8", "::/0"))),
    st.builds("time {} {}".format, st.sampled_from(("<", ">=")), times),
)
accesses = st.fixed_dictionaries(
    {
        "org": st.sampled_from(("acme", "acme", "beta")),
        "action": st.sampled_from(("web:read", "nodes:read", "apps:admin")),
    },
    optional={
        "app": st.sampled_from(WORDS),
        "user": st.sampled_from(WORDS),
        "time": st.just("2000-01-01T00:00:00Z"),
        "x": st.sampled_from(WORDS),
        "ip": st.just("10.0.0.1"),
    },
)
kinds = st.sampled_from((Kind.PERSON, Kind.DEPLOY, Kind.OPERATOR))
added = st.lists(predicates, max_size=3)


@thorough
@given(kinds, st.lists(predicates, max_size=2), st.data())
def test_what_is_remembered_answers_as_the_node_does(
    kind: Kind, minted: list[str], data: st.DataObject
) -> None:
    """For the token and its copies, over time: the same word, reason, caveat and sentence."""
    verifier = Verifier()
    token = verifier.node.issue(
        *minted,
        kind=kind,
        org=None if kind is Kind.OPERATOR else "acme",
        person=ALICE if kind is Kind.PERSON else "",
    )
    verifier.ask(token.text, data.draw(accesses))
    for _ in range(3):
        verifier.clock.advance(data.draw(st.sampled_from((0, 0.5, 1, 2))))
        limits = tuple(data.draw(added)) if token.discharge is not None else ()
        text = token.narrowed(*data.draw(added), discharge=limits)
        access = data.draw(accesses)
        verdict = verifier.ask(text, access)
        reply = verifier.node.verify(text, access)
        assert verdict.allowed == reply.allowed
        assert (verdict.reason, verdict.caveat, verdict.message) == (
            reply.reason,
            reply.caveat,
            reply.message,
        )
        assert (verdict.token_id, verdict.org, verdict.subject, verdict.expires_at_ms) == (
            reply.token_id,
            reply.org,
            reply.subject,
            reply.expires_at_ms,
        )


@thorough
@given(st.lists(predicates, max_size=2), added, added, st.data())
def test_an_altered_copy_is_what_the_node_says(
    minted: list[str], more: list[str], limits: list[str], data: st.DataObject
) -> None:
    """Any byte of a copy's text or of its binary form changed, cut out or put in."""
    verifier = Verifier()
    token = verifier.node.issue(*minted, kind=Kind.PERSON, person=ALICE)
    verifier.ask(token.text, {"org": "acme", "action": "web:read"})
    text = token.narrowed(*more, discharge=tuple(limits))
    altered = data.draw(st.one_of(st.just(_in_text(text, data)), st.just(_in_bytes(text, data))))
    assume(altered != text)
    access = data.draw(accesses)
    assert verifier.ask(altered, access).allowed == verifier.node.verify(altered, access).allowed


@thorough
@given(added, st.data())
def test_only_tokens_are_taken_for_copies(more: list[str], data: st.DataObject) -> None:
    """Whatever is recognised, the strict parser takes, and finds the same caveats in."""
    token = Verifier().node.issue("app in web, api")
    known = KnownPart(token.root, token.root.signature)
    text = token.narrowed(*more)
    if data.draw(st.booleans()):
        text = _bare(attenuate(token.root, more))
    altered = data.draw(st.sampled_from((text, _in_text(text, data), _in_bytes(text, data))))
    found = known.narrowing(altered)
    if altered == text:
        assert found is not None
    if found is None:
        return
    parsed = parse_token(altered)
    assert not parsed.discharges
    assert found == (
        tuple(c.cid for c in parsed.root.caveats[len(token.root.caveats) :]),
        parsed.root.signature,
    )
    assert parsed.root.caveats[: len(token.root.caveats)] == token.root.caveats
    assert parsed.root.identifier == token.root.identifier


@thorough
@given(added, added)
def test_copies_are_recognised(more: list[str], limits: list[str]) -> None:
    """Each narrowing that a holder can make is answered from memory, prefixed or bare."""
    verifier = Verifier()
    token = verifier.node.issue("app in web, api", kind=Kind.PERSON, person=ALICE)
    access = {"org": "acme", "action": "web:read", "app": "web"}
    assert verifier.ask(token.text, access).allowed
    root = attenuate(token.root, more)
    assert token.discharge is not None
    bound = bind_discharge(root, attenuate(token.discharge, limits))
    for text in (encode_token(root, [bound]), f"{_bare(root)},{_bare(bound)}"):
        assert verifier.ask(text, access).source is VerdictSource.CACHE
        signed = walk_signatures(parse_token(text), derive_key(ROOT_SECRET))
        (entry,) = verifier.state._cache._entries.values()
        found = entry.narrowed(text.split(","))
        assert found is not None
        assert found[0] == signed.caveats


def _bare(macaroon: Macaroon) -> str:
    return base64.urlsafe_b64encode(encode(macaroon)).decode().rstrip("=")


def _in_text(text: str, data: st.DataObject) -> str:
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 2))
    put = data.draw(st.text("AZaz09-_.,=p", max_size=2))
    return text[:at] + put + text[at + cut :]


def _in_bytes(text: str, data: st.DataObject) -> str:
    """One byte of the root's binary form, with everything that can be made anew made anew."""
    root, *rest = text.split(",")
    try:
        binary = bytearray(encode(parse_token(root).root))
    except TokenRefused:
        return text
    at = data.draw(st.integers(0, len(binary) - 1))
    binary[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    body = base64.urlsafe_b64encode(bytes(binary)).decode().rstrip("=")
    return ",".join((body, *rest))
