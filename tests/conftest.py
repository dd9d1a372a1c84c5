"""Marks the tests that only ops/test-long runs: those of `long.txt`.

A pattern is that of a shell, and matches node ids; `[!NAME]` at its end stands for all cases of a
test but NAME, and `[!first]` for all but the first of each test.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from pathlib import Path
from typing import Final

import pytest

_HERE: Final = Path(__file__).parent
_BUT: Final = re.compile(r"(.*)\[!([^\]]+)\]\Z")


def _matcher(pattern: str) -> Callable[[str, bool], bool]:
    """Whether a node id, of the first case of its test or another, is meant."""
    but = _BUT.fullmatch(pattern)
    if but is None:
        whole = re.compile(translate(pattern.replace("[", "[[]")))
        return lambda name, _first: whole.match(name) is not None
    test = re.compile(translate(but[1]))
    spared = but[2]

    def matches(name: str, first: bool) -> bool:
        function, bracket, case = name.partition("[")
        if not bracket or test.match(function) is None:
            return False
        return not first if spared == "first" else case != f"{spared}]"

    return matches


def _read() -> list[Callable[[str, bool], bool]]:
    lines = (_HERE / "long.txt").read_text(encoding="utf-8").splitlines()
    return [_matcher(line) for line in lines if line and not line.startswith("#")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in the list."""
    matchers = _read()
    seen: set[str] = set()
    for item in items:
        name = item.nodeid.removeprefix("tests/integration/")
        if name == item.nodeid:
            continue
        function = name.partition("[")[0]
        first = function not in seen
        seen.add(function)
        if any(matches(name, first) for matches in matchers):
            item.add_marker(pytest.mark.slow)
