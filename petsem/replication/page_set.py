"""The pages of one transaction, as they must be before they may be written into a database.

Guarantees: page 1 first and of the announced position, then ascending, each of full size, none
beyond the end, never the lock page. It does not guarantee that they are the leader's pages: the
checksums of the LTX file say that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from petsem.replication.image import LOCK_PAGE, PAGE_SIZE


class NotApplicable(ValueError):  # noqa: N818 - it says what the pages are
    """The pages are no transaction of this database. `rule` names what is wrong."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the pages cannot be applied: {rule}")
        self.rule = rule


def stamp_of(page1: bytes) -> int:
    """The change counter in a page 1, which in a canonical image stands for the position."""
    return int.from_bytes(page1[24:28])


def commit_of(page1: bytes) -> int:
    """The size in pages that a page 1 gives the database."""
    return int.from_bytes(page1[28:32])


def in_order(
    pages: Iterable[tuple[int, bytes]], commit: int, stamp: int
) -> Iterator[tuple[int, bytes]]:
    """`pages` as they come, each checked before it is passed on.

    They make a database of `commit` pages whose page 1 carries `stamp`. Raises `NotApplicable`.
    """
    last = 0
    for pgno, page in pages:
        if len(page) != PAGE_SIZE:
            raise NotApplicable("page-size")
        if last == 0:
            _first(pgno, page, commit, stamp)
        elif pgno <= last:
            raise NotApplicable("order")
        if pgno > commit:
            raise NotApplicable("beyond-commit")
        if pgno == LOCK_PAGE:
            raise NotApplicable("lock-page")
        last = pgno
        yield pgno, page
    if last == 0:
        raise NotApplicable("page-1-first")


def _first(pgno: int, page: bytes, commit: int, stamp: int) -> None:
    if pgno != 1:
        raise NotApplicable("page-1-first")
    if stamp_of(page) != stamp:
        raise NotApplicable("stamp")
    if commit_of(page) != commit:
        raise NotApplicable("commit")


def cut_off(commit: int, size_pages: int) -> Iterator[int]:
    """The pages that a database of `size_pages` loses when it becomes `commit` pages long."""
    return (pgno for pgno in range(commit + 1, size_pages + 1) if pgno != LOCK_PAGE)


def added(commit: int, size_pages: int) -> int:
    """How many pages it gains."""
    return max(0, commit - size_pages) - (size_pages < LOCK_PAGE <= commit)
