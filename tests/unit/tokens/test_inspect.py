"""Inspecting offline: everything a token claims, and nothing that could be used as one."""

from __future__ import annotations

import json

import pytest

from petsem.tokens.inspect import NOT_ASKED_FOR, NOT_IN_GRAMMAR, describe
from petsem.tokens.reasons import UNPRINTABLE_CAVEAT, Reason
from petsem.tokens.text import encode_token
from tests.unit.tokens.build import (
    IDENTIFIER,
    SECRET,
    added,
    bare,
    binary,
    bound,
    made,
    refused,
    required,
)

CIDS = (b"org = acme", b"action in secrets:read, secrets:list", b"time < 2030-01-01T00:00:00Z")
ROOT = made(SECRET, IDENTIFIER.encode(), CIDS)


def test_a_token_is_described_whole() -> None:
    """Identity, limits and every caveat, marked as nobody's word."""
    text = encode_token(ROOT)
    assert describe(text) == {
        "verified": False,
        "note": "read offline; no signature was checked",
        "identifier": {
            "token_id": IDENTIFIER.nonce.hex(),
            "kind": "host",
            "cluster_id": IDENTIFIER.cluster_id.hex(),
            "root_key_id": IDENTIFIER.root_key_id.hex(),
            "minted_at": "00000003-0000000000000063",
        },
        "expires_at": "2030-01-01T00:00:00Z",
        "orgs": ["acme"],
        "actions": ["secrets:list", "secrets:read"],
        "characters": len(text),
        "caveats": [{"caveat": cid.decode()} for cid in CIDS],
        "discharges": [],
    }


def test_what_sets_no_limit_is_none() -> None:
    """An operator's token limits neither org nor action, and a foreign one has no identifier."""
    described = describe(encode_token(made(SECRET, b"elsewhere")))
    assert [described[key] for key in ("identifier", "expires_at", "orgs", "actions")] == [None] * 4


def test_discharges_and_their_caveats_are_described() -> None:
    """Each part beside the ticket it is for, and each third-party caveat with whether the text has
    a discharge for it, also one that a discharge asks for."""
    root = required(ROOT, b"caveat key", b"ticket")
    nested = required(made(b"caveat key", b"ticket", [b"user = a"]), b"other key", b"more")
    ticket, more = b"ticket".hex(), b"more".hex()
    place = "https://auth.example"
    asked = {"third_party": place, "ticket": ticket}
    asked_too = {"third_party": place, "ticket": more}
    described = describe(encode_token(root))
    assert described["caveats"][-1] == {**asked, "discharged": False}
    described = describe(encode_token(root, [bound(root, nested)]))
    assert described["caveats"][-1] == {**asked, "discharged": True}
    found = {
        "location": "petsem",
        "ticket": ticket,
        "caveats": [{"caveat": "user = a"}, {**asked_too, "discharged": False}],
    }
    assert described["discharges"] == [found]
    last = bound(root, made(b"other key", b"more"))
    described = describe(encode_token(root, [last, bound(root, nested)]))
    assert described["discharges"] == [
        {"location": "petsem", "ticket": more, "caveats": []},
        {**found, "caveats": [found["caveats"][0], {**asked_too, "discharged": True}]},
    ]


def test_a_discharge_that_nothing_asks_for_is_pointed_out() -> None:
    """A node refuses the whole token for it."""
    described = describe(encode_token(ROOT, [bound(ROOT, made(b"caveat key", b"ticket"))]))
    assert described["discharges"] == [
        {
            "location": "petsem",
            "ticket": b"ticket".hex(),
            "caveats": [],
            "problem": NOT_ASKED_FOR,
        }
    ]


@pytest.mark.parametrize("cid", [b"whatever", b"a\x1b[2J", b"\xff", b""])
def test_a_caveat_that_denies_is_pointed_out(cid: bytes) -> None:
    """With its text if that can be printed, so that nothing moves the terminal's cursor."""
    described = describe(bare(binary(added(ROOT, cid))))
    shown = "whatever" if cid == b"whatever" else UNPRINTABLE_CAVEAT
    assert described["caveats"][-1] == {"caveat": shown, "problem": NOT_IN_GRAMMAR}


def test_no_description_is_a_credential() -> None:
    """Neither signature nor sealed key, in any spelling."""
    root = required(ROOT, b"caveat key", b"ticket")
    text = json.dumps(describe(encode_token(root)))
    for secret in (root.signature, ROOT.signature, root.caveats[-1].vid or b""):
        assert secret.hex() not in text
        assert bare(secret) not in text


def test_what_is_no_token_is_refused() -> None:
    """With the reason that a node would give."""
    with refused(Reason.TRUNCATED):
        describe(encode_token(ROOT)[:-3])
    with refused(Reason.MALFORMED):
        describe("hunter2")
