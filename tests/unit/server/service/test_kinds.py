"""No token lives for ever, of no kind; and what the pages say of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem.errors import Code, PetsemError
from petsem.model import LIFE_DEFAULT_S, Kind
from petsem.server.service.kinds import LIFE_MAX_S
from tests.docs.pages import Page, table
from tests.support.nodes import Running, running

_UNIT_S = {"min": 60, "h": 3_600, "days": 86_400}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


def test_each_kind_has_an_end() -> None:
    """The usual life of each is within the longest, and the longest is no more than 90 days."""
    assert LIFE_MAX_S.keys() == LIFE_DEFAULT_S.keys() == set(Kind)
    for kind in Kind:
        assert 0 < LIFE_DEFAULT_S[kind] <= LIFE_MAX_S[kind] <= 90 * 86_400


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.PERSON])
async def test_nothing_is_minted_without_one(node: Running, kind: Kind) -> None:
    """Neither without a time, nor with one that only begins, nor in ten years."""
    org = None if kind is Kind.OPERATOR else "acme"
    for *caveats, life_s in ((None,), (node.time_in(0).replace("<", ">="), None), (315_360_000,)):
        with pytest.raises(PetsemError) as error:
            await node.mint(
                "action = secrets:read", *caveats, org=org, kind=kind.text, life_s=life_s
            )
        assert error.value.code is Code.INVALID
    assert node.rows("SELECT count(*) FROM tokens") == [(1,)]


def test_the_page_says_so() -> None:
    """Each kind in the order of its number, with both lives."""
    rows = table(Page.read("docs/formats/token.md").section("Kinds"), "kind")
    assert [row["kind"] for row in rows] == [kind.text for kind in Kind]
    for kind, row in zip(Kind, rows, strict=True):
        longest, usual = list(row.values())[-2:]
        assert _seconds(longest) == LIFE_MAX_S[kind]
        # A person's token is made by signing in, which has a time of its own.
        assert usual == "–" if kind is Kind.PERSON else _seconds(usual) == LIFE_DEFAULT_S[kind]


def _seconds(text: str) -> int:
    number, unit = text.split()
    return int(number) * _UNIT_S[unit]
