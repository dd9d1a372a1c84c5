"""The project's pages as tests read them: text, tables, code blocks, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_TOP: Final = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`[^`\n]+`")
_FENCE: Final = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Every page that people read."""
    return [ROOT / name for name in _TOP] + sorted((ROOT / "docs").rglob("*.md"))


@dataclass(frozen=True, slots=True)
class Page:
    """One page of Markdown."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path | str) -> Page:
        """The page at `path`, which may be relative to the checkout."""
        where = ROOT / path
        return cls(where, where.read_text(encoding="utf-8"))

    @property
    def prose(self) -> str:
        """The text without code blocks."""
        return _FENCE.sub("", self.text)

    def links(self) -> list[str]:
        """The targets of all links."""
        return _LINK.findall(_CODE.sub("", self.prose))

    def anchors(self) -> set[str]:
        """What a link to a heading of this page may name, as GitHub spells it."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
        return {heading.replace(" ", "-") for heading in kept}

    def blocks(self, language: str) -> list[str]:
        """The code blocks in a language."""
        return [body for _, name, body in _FENCE.findall(self.text) if name.strip() == language]

    def section(self, heading: str) -> str:
        """What stands under a heading of the second level."""
        _, found, rest = self.text.partition(f"\n## {heading}\n")
        assert found, f"{self.path.name} has no section {heading!r}"
        return rest.partition("\n## ")[0]


def table(text: str, first_heading: str) -> list[dict[str, str]]:
    """The rows of the table whose first column has that heading, cells by heading."""
    lines = iter(text.splitlines())
    for line in lines:
        headings = _cells(line)
        if headings[:1] == [first_heading]:
            next(lines)
            return [dict(zip(headings, row, strict=True)) for row in _rows(lines)]
    raise AssertionError(f"there is no table that starts with {first_heading!r}")


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield _cells(line)


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
