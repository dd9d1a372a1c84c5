"""Decisions: numbered without gaps, of one form, and all in the index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, Page, table

_DIRECTORY: Final = ROOT / "docs" / "adr"
_DECISIONS: Final = sorted(_DIRECTORY.glob("0*.md"))
_MAX_LINES: Final = 60


def test_numbers_have_no_gaps() -> None:
    """A decision is never taken out, only superseded."""
    assert [int(path.name[:4]) for path in _DECISIONS] == list(range(1, len(_DECISIONS) + 1))


def test_the_index_has_each_with_its_title_and_status() -> None:
    """In order, by number."""
    listed = [
        (row[""], row["decision"], row["status"])
        for row in table(Page.read(_DIRECTORY / "README.md").text, "")
    ]
    written = []
    for path in _DECISIONS:
        title, _, rest = Page.read(path).text.partition("\n\nStatus: ")
        number, _, name = title.removeprefix("# ").partition(". ")
        written.append((f"[{number}]({path.name})", name, re.split(r"\W", rest, maxsplit=1)[0]))
    assert listed == written


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in _DECISIONS])
def test_each_says_what_it_costs(path: Path) -> None:
    """Context, decision, consequences, and short."""
    text = Page.read(path).text
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]
    assert text.count("\n") <= _MAX_LINES
