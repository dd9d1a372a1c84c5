"""`docs/architecture.md` against the program: limits, tables, packages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import apsw

from petsem import limits
from petsem.server import sql
from petsem.server.schema import migrate
from tests.docs.pages import ROOT, Page, table

_PAGE: Final = Page.read("docs/architecture.md")
_UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "s": 1.0, "ms": 0.001}


def _number(text: str) -> float:
    """What a cell such as `64 KiB` or `2³² − 1` says."""
    if text == "2³² − 1":
        return 2**32 - 1
    figure, _, unit = text.replace(",", "").partition(" ")
    return float(figure) * _UNITS.get(unit, 1)


def test_every_limit_is_explained_with_its_value() -> None:
    """Each name of `petsem.limits` once, in the order of that module."""
    rows = table(_PAGE.section("Limits"), "limit")
    told = {row["limit"].strip("`"): _number(row["value"]) for row in rows}
    assert len(told) == len(rows)
    assert told == {name: value for name, value in vars(limits).items() if name.isupper()}
    assert list(told) == [name for name in vars(limits) if name.isupper()]
    assert all(row["why this size"] for row in rows)


def test_every_table_is_described() -> None:
    """The page names the tables of the schema and no others."""
    db = apsw.Connection(":memory:")
    db.execute("BEGIN")
    migrate(db)
    made = {row[0] for row in sql.rows(db, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    db.close()
    rows = table(_PAGE.section("The database"), "table")
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row["table"])]
    assert sorted(told) == sorted(made)


def test_every_package_is_in_the_layout() -> None:
    """Packages and leaves of the program, and nothing that is not there."""
    told = {
        name.removeprefix("petsem.").removeprefix("client/")
        for row in table(_PAGE.section("Layout"), "package")
        for name in re.findall(r"`([\w./]+)`", row["package"])
    }
    top = ROOT / "petsem"
    packages = {path.parent.name for path in top.glob("*/__init__.py")}
    leaves = {path.stem for path in top.glob("*.py")} - {"__init__", "__main__"}
    assert told == packages | leaves | {"petsem_client"}


def test_every_named_file_is_there() -> None:
    """What stands in backquotes and looks like a file of the program is one."""
    named = set(re.findall(r"`([\w/]+\.py)`", _PAGE.text))
    roots = (ROOT, ROOT / "petsem", ROOT / "petsem" / "server")
    missing = [name for name in named if not any(_is_there(root / name) for root in roots)]
    assert missing == []


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.parent / "service" / path.name).is_file()
