"""Clearing: everything that is not clearly allowed is denied."""

from __future__ import annotations

from typing import Any

import pytest

from petsem.tokens.caveats import (
    Access,
    SecretFilter,
    actions_of,
    clear,
    expiry_of,
    inherited_of,
    parse_predicates,
    values_of,
)
from petsem.tokens.reasons import MESSAGES, UNPRINTABLE_CAVEAT, Reason
from tests.unit.tokens.build import NOW_S, ids, refused, vectors

CASES = vectors("caveat_clear.json")["cases"]
GRAMMAR = vectors("caveat_grammar.json")


def access(case: dict[str, Any]) -> Access:
    """A case's access."""
    given = case["access"]
    names = given["secrets"]
    return Access(
        given["attributes"],
        given["now_s"],
        None if names is None else tuple(names),
        given["filterable"],
    )


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_clear(case: dict[str, Any]) -> None:
    """The outcome, the caveat that is named, and which names a filter admits."""
    caveats = [text.encode() for text in case["caveats"]]
    if case["outcome"] != "cleared":
        with refused(Reason(case["outcome"])) as info:
            clear(caveats, access(case))
        assert info.value.caveat == case["caveat"]
        if info.value.reason is Reason.CAVEAT:
            assert (
                info.value.message == f"the token's caveat '{case['caveat']}' does not allow this"
            )
        else:
            assert info.value.message == MESSAGES[info.value.reason]
        return
    found = clear(caveats, access(case))
    assert (found is not None) == ("admits" in case)
    for name in case.get("admits", ()):
        assert found is not None
        assert found.admits(name)
    for name in case.get("leaves_out", ()):
        assert found is not None
        assert not found.admits(name)


@pytest.mark.parametrize("case", GRAMMAR["refused"], ids=ids(GRAMMAR["refused"], "text"))
def test_whatever_is_not_in_the_grammar_denies(case: dict[str, Any]) -> None:
    """Even where the attribute of that name has that very value."""
    cid = bytes.fromhex(case["hex"]) if "hex" in case else case["text"].encode()
    key, _, value = cid.decode("latin-1").partition(" = ")
    with refused(Reason.CAVEAT):
        clear([cid], Access({key: value, cid.decode("latin-1"): value}, NOW_S, filterable=True))


@pytest.mark.parametrize("cid", [b"\xff\xfe", b"a\x1b[31m", b"", b"x" * 5000])
def test_a_caveat_that_cannot_be_printed_is_not_repeated(cid: bytes) -> None:
    """Neither in the caveat nor in the message."""
    with refused(Reason.CAVEAT) as info:
        clear([cid], Access({}, NOW_S))
    assert info.value.caveat == UNPRINTABLE_CAVEAT


def test_attributes_may_be_any_text() -> None:
    """An attribute from a caller can fail to match and do no more."""
    for value in ("", " ", "acme,", "\x00", "é", "\ud800", "x" * 100_000, "acme\n"):
        for caveat in (b"org = acme", b"ip = 10.0.0.1", b"secret = A"):
            with refused(Reason.CAVEAT):
                clear([caveat], Access({"org": value, "ip": value, "secret": value}, NOW_S))


def test_what_is_learnt_late() -> None:
    """It is asked for only where a caveat wants it and no attribute has it; None denies."""
    asked = []

    def late(key: str, values: tuple[str, ...]) -> str | None:
        asked.append((key, values))
        return "b" if key == "host_key" else None

    access = Access({"org": "acme"}, NOW_S, late=late)
    clear([b"org = acme", b"time >= 2020-01-01T00:00:00Z"], access)
    assert asked == []
    clear([b"host_key in a, b"], access)
    for denied in (b"host_key = a", b"boot = x"):
        with refused(Reason.CAVEAT):
            clear([denied], access)
    assert asked == [("host_key", ("a", "b")), ("host_key", ("a",)), ("boot", ("x",))]


def test_a_filter_of_nothing_admits_everything() -> None:
    """No `secret` caveat is no limit; `clear` returns None for it."""
    assert SecretFilter(()).admits("ANY")
    assert clear([b"org = acme"], Access({"org": "acme"}, NOW_S, filterable=True)) is None


def test_actions_are_those_that_every_caveat_allows() -> None:
    """Two caveats leave what they share; none leaves no limit."""
    predicates = parse_predicates(
        ["org = acme", "action in secrets:read, secrets:list, tokens:mint", "action = secrets:read"]
    )
    assert actions_of(predicates) == frozenset({"secrets:read"})
    assert actions_of(predicates[:2]) == frozenset({"secrets:read", "secrets:list", "tokens:mint"})
    assert actions_of(predicates[:1]) is None
    assert actions_of(parse_predicates(["action = a", "action = b"])) == frozenset()
    assert values_of(predicates, "org") == frozenset({"acme"})


def test_expiry_is_the_earliest_end() -> None:
    """`time >=` does not end a token."""
    predicates = parse_predicates(
        [
            "time < 2027-01-15T08:00:01Z",
            "time < 2027-01-15T08:00:00Z",
            "time >= 2020-01-01T00:00:00Z",
        ]
    )
    assert expiry_of(predicates) == NOW_S
    assert expiry_of(predicates[2:]) is None


def test_all_but_time_and_user_is_inherited() -> None:
    """In order, and repeated if it was repeated."""
    texts = [
        "org = acme",
        "time < 2027-01-15T08:00:00Z",
        "user = a",
        "app in web, api",
        "app = web",
    ]
    kept = ("org = acme", "app in web, api", "app = web")
    assert inherited_of(parse_predicates(texts)) == kept
