"""Secrets are compared with `hmac.compare_digest` and with nothing else, read from the code.

That the comparisons which there are take constant time is `hmac`'s to keep; what is looked at here
is that no other comparison of a signature, a key or a secret comes in unseen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import petsem
import petsem_client

JUDGES: Final = sorted(
    path
    for package, pattern in (
        (petsem, "tokens/**/*.py"),
        (petsem, "sso/**/*.py"),
        (petsem, "server/auth*.py"),
        (petsem, "server/root_keys.py"),
        (petsem, "server/verifying.py"),
        (petsem, "server/**/*login*.py"),
        (petsem_client, "*.py"),
    )
    for path in Path(package.__path__[0]).glob(pattern)
)
"""Where tokens, tickets and people are judged."""

SECRET: Final = re.compile(
    r"(?:^|_)(?:signature|signed|bound|walked|mac|digest|secret|password|verifier|challenge"
    r"|caveat_key|root_key|shared_key|discharge_key)s?$"
)
"""Names of what must not be compared byte by byte. Ids and tickets are no secrets."""

COMPARING: Final = {
    ("tokens/mint.py", "mint"),
    ("tokens/ticket.py", "discharge_caveats"),
    ("tokens/verifier.py", "walk_signatures"),
    ("tokens/verifier.py", "_verify_discharges"),
}
"""Who compares signatures."""


def _name(path: Path) -> str:
    """The package, or the directory in it, and the module."""
    return f"{path.parent.name}/{path.name}"


def name_of(node: ast.expr) -> str:
    """The last name of what is compared: `b` of `a.b` and of `a.b["c"]`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        index = node.slice
        if isinstance(index, ast.Constant) and isinstance(index.value, str):
            return index.value
        return name_of(node.value)
    if isinstance(node, ast.Call):
        # What a call makes of a secret is as secret, unless it is its length or its id.
        named = name_of(node.func)
        return "" if named in ("len", "id", "isinstance", "type") else named
    return ""


def careless(tree: ast.AST) -> Iterator[str]:
    """The comparisons of secrets by `==` and its like, and by `match`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            # Whether there is one at all is no secret.
            against_none = any(
                isinstance(each, ast.Constant) and each.value is None for each in operands
            )
            if not against_none and any(SECRET.search(name_of(each)) for each in operands):
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Match) and SECRET.search(name_of(node.subject)):
            yield f"{node.lineno}: match {ast.unparse(node.subject)}"
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("__eq__", "startswith", "endswith")
            and SECRET.search(name_of(node.func.value))
        ):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", JUDGES, ids=lambda path: _name(path))
def test_no_secret_is_compared_byte_by_byte(path: Path) -> None:
    """Not in any module that judges tokens or people."""
    assert list(careless(ast.parse(path.read_text()))) == []


def test_signatures_are_compared_where_they_should_be() -> None:
    """The functions that compare signatures still do, and each through `hmac.compare_digest`."""
    found = set()
    for path in JUDGES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                calls = {ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)}
                if "hmac.compare_digest" in calls:
                    found.add((_name(path), function.name))
    assert found >= COMPARING


@pytest.mark.parametrize(
    "code",
    [
        "signature == root.signature",
        "a if root.signature != b else c",
        "token.root.signature in seen",
        "b'x' == bind_signature(a, b)",
        "row['client_secret'] == given",
        "macs[0] == macs[1]",
        "caveat_key.startswith(b'x')",
        "signature.__eq__(b)",
        "match poll_secret:\n    case b'x': pass",
    ],
)
def test_a_careless_comparison_is_found(code: str) -> None:
    """The search sees each of these."""
    assert list(careless(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "hmac.compare_digest(signature, root.signature)",
        "len(signature) != 32",
        "signature is None",
        "ticket in tickets",
        "macaroon.identifier == ticket",
    ],
)
def test_others_are_not(code: str) -> None:
    """Lengths, absence and what is public may be compared."""
    assert not list(careless(ast.parse(code)))
