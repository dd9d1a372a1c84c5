"""Pages: their links lead somewhere, and nothing in them is of one machine or one place of work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, Page, pages

_MACHINE: Final = re.compile(
    r"(?<![\w.])/(?:work|root|home|Users|mnt|tmp/v)\b|\bfile://|site-packages|[A-Z]:\\"
)
_PAGES: Final = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]


@pytest.mark.parametrize("path", _PAGES)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file of the checkout, and every fragment a heading of it."""
    page = Page.read(path)
    broken = []
    for link in page.links():
        if link.startswith(("https://", "http://")):
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        found = target.is_relative_to(ROOT) and target.exists()
        if not found or (fragment and fragment not in Page.read(target).anchors()):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", _PAGES)
def test_no_page_knows_a_machine(path: Path) -> None:
    """No path of somebody's home or build machine."""
    assert _MACHINE.findall(Page.read(path).text) == []


@pytest.mark.parametrize("path", _PAGES)
def test_a_page_has_one_title_and_closed_code(path: Path) -> None:
    """One heading of the first level, at the top, and an even number of fences."""
    page = Page.read(path)
    assert page.text.startswith("# ")
    assert len(re.findall(r"^# ", page.prose, re.MULTILINE)) == 1
    assert len(re.findall(r"^```", page.text, re.MULTILINE)) % 2 == 0


def test_the_readme_leads_to_every_page() -> None:
    """Whoever starts at the README finds each page, by itself or by the page it belongs to."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in seen or path.suffix != ".md" or not path.exists():
            continue
        seen.add(path)
        links = (link.partition("#")[0] for link in Page.read(path).links() if "://" not in link)
        waiting += [(path.parent / link).resolve() for link in links if link]
    assert set(pages()) <= seen
