"""The caveat grammar: what is a predicate, and what is not and therefore denies."""

from __future__ import annotations

import re
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.tokens import grammar
from petsem.tokens.grammar import (
    Predicate,
    address,
    network,
    one_of,
    parse_predicate,
    parse_predicates,
    time_before,
    time_s,
)
from tests.unit.tokens.build import VECTORS, ids, vectors

CASES = vectors("caveat_grammar.json")
PAGE = (VECTORS.parents[1] / "docs" / "formats" / "caveats.md").read_text()


def raw(case: dict[str, Any]) -> bytes:
    """A case's bytes."""
    return bytes.fromhex(case["hex"]) if "hex" in case else str(case["text"]).encode("ascii")


@pytest.mark.parametrize("case", CASES["accepted"], ids=ids(CASES["accepted"], "text"))
def test_predicates_have_one_meaning_and_one_spelling(case: dict[str, Any]) -> None:
    """The parts come out, and written again they are the same text."""
    predicate = parse_predicate(raw(case))
    assert predicate == Predicate(case["key"], case["op"], tuple(case["values"]))
    assert str(predicate) == case["text"]
    assert parse_predicates([case["text"]]) == (predicate,)


@pytest.mark.parametrize("case", CASES["refused"], ids=ids(CASES["refused"], "text"))
def test_anything_else_is_no_predicate(case: dict[str, Any]) -> None:
    """Not nearly right, not trimmed, not repaired."""
    assert parse_predicate(raw(case)) is None


def rows(heading: str) -> list[str]:
    """The texts in the first column of the table under a heading of the page."""
    section = PAGE.split(f"### {heading}\n")[1].split("\n#")[0]
    return re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)


def test_the_page_s_tables_are_true() -> None:
    """Each accepted text of the page parses and each refused one does not; all are vectors."""
    accepted, no_match = rows("Accepted"), rows("Refused")
    assert len(accepted) > 10
    assert len(no_match) > 20
    assert set(accepted) <= {case["text"] for case in CASES["accepted"]}
    assert set(no_match) <= {case.get("text") for case in CASES["refused"]}


def test_a_bad_caveat_of_a_list_is_named_by_number_and_not_quoted() -> None:
    """What was mistyped may be a secret."""
    with pytest.raises(PetsemError) as info:
        parse_predicates(["org = acme", "hunter2"])
    assert info.value.code is Code.INVALID
    assert "caveat 2" in info.value.message
    assert "hunter2" not in info.value.message


@pytest.mark.parametrize("text", ["org = é", "org = \ud800", "org = \U0001f511"])
def test_a_bad_caveat_of_a_list_may_be_any_text(text: str) -> None:
    """Text that no encoding takes is one more caveat that is not in the grammar."""
    with pytest.raises(PetsemError) as info:
        parse_predicates([text])
    assert info.value.code is Code.INVALID


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2027-01-15T08:00:00Z", 1_800_000_000),
        ("2000-02-29T00:00:01Z", 951_782_401),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ],
)
def test_times_are_exact_seconds(text: str, seconds: int) -> None:
    """Over the whole range, before 1970 too."""
    assert time_s(text) == seconds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("FDAA:0:0::/48", "fdaa::/48"),
    ],
)
def test_networks_have_one_meaning(one: str, other: str) -> None:
    """IPv4-mapped addresses are IPv4 addresses, and spelling does not matter."""
    assert network(one) == network(other) is not None


def test_an_address_is_unmapped_too() -> None:
    """So that a dual-stack socket changes nothing."""
    assert address("::ffff:10.0.0.1") == address("10.0.0.1") is not None
    assert address("fe80::1%eth0") is None
    assert address("10.0.0.0/8") is None


def test_time_before_rounds_down() -> None:
    """A token never lives longer than was asked for."""
    assert time_before(1_800_000_000_999) == "time < 2027-01-15T08:00:00Z"
    assert parse_predicate(time_before(1_800_000_000_999).encode()) is not None


def test_one_of_writes_the_shorter_operator() -> None:
    """One value is `=`, several are `in`."""
    assert one_of("app", "web") == "app = web"
    assert one_of("app", "web", "api") == "app in web, api"


@pytest.mark.parametrize(
    ("key", "values"),
    [("App", ("a",)), ("app", ("a b",)), ("app", ("",)), ("app", ()), ("app", ("w*",))],
)
def test_one_of_refuses_what_the_grammar_cannot_say(key: str, values: tuple[str, ...]) -> None:
    """A builder that wrote a denying caveat would be found out at boot."""
    with pytest.raises(PetsemError) as info:
        one_of(key, *values)
    assert info.value.code is Code.INVALID


@pytest.mark.parametrize("cached", [parse_predicate, time_s, network])
def test_caches_are_bounded(cached: Any) -> None:
    """A stream of caveats that differ cannot fill the memory."""
    assert cached.cache_info().maxsize == grammar._CACHE_ENTRIES
