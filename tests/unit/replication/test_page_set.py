"""What pages may be applied: a test a rule."""

from __future__ import annotations

import pytest

from petsem.replication.image import LOCK_PAGE, PAGE_SIZE
from petsem.replication.page_set import (
    NotApplicable,
    added,
    commit_of,
    cut_off,
    in_order,
    stamp_of,
)

STAMP = 0x0102_0304
COMMIT = LOCK_PAGE + 10


def first(stamp: int = STAMP, commit: int = COMMIT) -> tuple[int, bytes]:
    """A page 1."""
    page = bytearray(PAGE_SIZE)
    page[24:28] = stamp.to_bytes(4)
    page[28:32] = commit.to_bytes(4)
    return 1, bytes(page)


PAGE = bytes(PAGE_SIZE)


def test_what_is_in_order_passes() -> None:
    """Pages on both sides of the lock page, up to the last one, come out as they went in."""
    pages = [first(), (2, PAGE), (LOCK_PAGE - 1, PAGE), (LOCK_PAGE + 1, PAGE), (COMMIT, PAGE)]
    assert list(in_order(pages, COMMIT, STAMP)) == pages
    assert (stamp_of(first()[1]), commit_of(first()[1])) == (STAMP, COMMIT)


@pytest.mark.parametrize(
    ("pages", "rule"),
    [
        ([], "page-1-first"),
        ([(2, PAGE)], "page-1-first"),
        ([(0, PAGE)], "page-1-first"),
        ([first(stamp=STAMP + 1)], "stamp"),
        ([first(commit=COMMIT - 1)], "commit"),
        ([(1, first()[1][:-1])], "page-size"),
        ([first(), (2, PAGE + b"\0")], "page-size"),
        ([first(), (3, PAGE), (2, PAGE)], "order"),
        ([first(), (3, PAGE), (3, PAGE)], "order"),
        ([first(), first()], "order"),
        ([first(), (COMMIT + 1, PAGE)], "beyond-commit"),
        ([first(), (LOCK_PAGE, PAGE)], "lock-page"),
    ],
)
def test_what_is_not_is_refused(pages: list[tuple[int, bytes]], rule: str) -> None:
    """Each rule, by its name."""
    with pytest.raises(NotApplicable) as refused:
        list(in_order(pages, COMMIT, STAMP))
    assert refused.value.rule == rule


def test_pages_are_passed_on_as_they_come() -> None:
    """A snapshot is never held as a whole: what is good passes before what is bad is seen."""
    stream = in_order(iter([first(), (2, PAGE), (2, PAGE)]), COMMIT, STAMP)
    assert [next(stream)[0], next(stream)[0]] == [1, 2]
    with pytest.raises(NotApplicable):
        next(stream)


@pytest.mark.parametrize(
    ("commit", "size_pages", "lost", "gained"),
    [
        (5, 5, [], 0),
        (3, 5, [4, 5], 0),
        (5, 3, [], 2),
        (LOCK_PAGE - 1, LOCK_PAGE + 2, [LOCK_PAGE + 1, LOCK_PAGE + 2], 0),
        (LOCK_PAGE + 2, LOCK_PAGE - 1, [], 2),
        (LOCK_PAGE + 2, LOCK_PAGE, [], 2),
        (LOCK_PAGE, LOCK_PAGE + 1, [LOCK_PAGE + 1], 0),
    ],
)
def test_the_lock_page_is_neither_lost_nor_gained(
    commit: int, size_pages: int, lost: list[int], gained: int
) -> None:
    """Growing and shrinking, across the lock page too."""
    assert list(cut_off(commit, size_pages)) == lost
    assert added(commit, size_pages) == gained
