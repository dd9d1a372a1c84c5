"""Listings that come in pages.

Guarantees: every row once, in the node's order, until it says that there are no more; a node that
repeats its cursor is an error and no endless loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from petsem.cli.api import Api
from petsem.cli.narrowing import Scope
from petsem.errors import Code, PetsemError

Page = TypeVar("Page")
Row = TypeVar("Row")


def rows_of(
    api: Api,
    path: str,
    page_type: type[Page],
    scope: Scope,
    split: Callable[[Page], tuple[Sequence[Row], str | int | None]],
    *,
    most: int | None = None,
    cursor: str = "after",
) -> list[Row]:
    """The rows of every page, or the first `most`.

    `split` takes a page apart into its rows and its next cursor; `cursor` is the parameter that
    the next cursor goes into.
    """
    rows: list[Row] = []
    after: str | int | None = None
    while True:
        params = None if after is None else {cursor: after}
        found, following = split(api.get(path, page_type, scope, params))
        rows.extend(found)
        if following is None or (most is not None and len(rows) >= most):
            return rows[:most]
        if following == after:
            raise PetsemError(Code.INTERNAL, "the node's listing does not come to an end")
        after = following
