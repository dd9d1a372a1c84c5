"""Destroyed values: where they are gone, which ones stay, and no page that has them still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem import limits
from petsem.errors import PetsemError
from petsem.wire import http
from tests.support.nodes import Running, running
from tests.unit.server.service.web_app import CONFLICT, INVALID, NOT_FOUND, counts, refused


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


def envelopes(node: Running) -> dict[tuple[str, int], bool]:
    """Whether each stored row still has its value, by name and version."""
    rows = node.rows("SELECT name, since, envelope IS NOT NULL, digest IS NOT NULL FROM secrets")
    assert all(row[2] == row[3] for row in rows)
    return {(name, since): bool(there) for name, since, there, _ in rows}


async def test_destroying_a_name_removes_every_value_it_ever_had(node: Running) -> None:
    """It is unset by a version of its own, and no version has a value of it any more."""
    await node.patch({"A": "1", "B": "b"})
    await node.patch({"A": "2"})
    await node.rollback(1)
    gone = await node.destroy("A")
    assert (gone.version, gone.destroyed) == (4, [http.DestroyedSecret("A", [1, 2, 3])])
    assert envelopes(node) == {
        ("A", 1): False, ("A", 2): False, ("A", 3): False, ("B", 1): True,
    }  # fmt: skip
    assert await node.values() == {"B": b"b"}
    assert counts(node) == (4, 1, 2)
    for version in (1, 2, 3):
        with pytest.raises(PetsemError) as error:
            await node.values(version=version)
        assert error.value.code is NOT_FOUND
        assert await node.values(version=version, names=("B",)) == {"B": b"b"}


async def test_destroying_one_version_takes_its_copies_along(node: Running) -> None:
    """A value is one envelope, wherever a rollback copied it; other values of the name stay."""
    await node.patch({"A": "1"})
    await node.patch({"A": "2"})
    await node.rollback(1)
    await node.patch({"A": "4"})
    gone = await node.destroy("A", version=3)
    assert (gone.version, gone.destroyed) == (4, [http.DestroyedSecret("A", [1, 3])])
    assert envelopes(node) == {
        ("A", 1): False, ("A", 2): True, ("A", 3): False, ("A", 4): True,
    }  # fmt: skip
    assert await node.values() == {"A": b"4"}


async def test_the_current_value_is_not_destroyed_by_version(node: Running) -> None:
    """Not by its own version, nor by that of the version it was copied from; and not by one that
    there is not yet."""
    await node.patch({"A": "1"})
    await node.patch({"A": "2"})
    await node.rollback(1)
    for version in (1, 3):
        assert await refused(node.destroy("A", version=version)) == (CONFLICT, None, None)
    for version in (0, 4, limits.VERSION_MAX):
        assert await refused(node.destroy("A", version=version)) == (NOT_FOUND, None, None)
    assert all(envelopes(node).values())


async def test_a_destroy_is_whole_or_nothing(node: Running) -> None:
    """A name that never had a value fails the whole of it; so does one given twice."""
    await node.patch({"A": "1"})
    assert await refused(node.destroy("A", "GONE")) == (NOT_FOUND, None, None)
    assert (await refused(node.destroy("A", "A")))[0] is INVALID
    assert (await refused(node.destroy()))[0] is INVALID
    assert (await refused(node.destroy("A B")))[0] is INVALID
    assert envelopes(node) == {("A", 1): True}
    await node.destroy("A")
    assert await refused(node.destroy("A")) == (NOT_FOUND, None, None)


async def test_destroying_history_makes_no_version(node: Running) -> None:
    """A name that was unset already changes nothing that is current."""
    await node.patch({"A": "1"})
    await node.patch(unset=["A"])
    assert (await node.destroy("A")).version == 2
    assert counts(node) == (2, 0, 0)


@pytest.mark.parametrize("how", ["name", "version", "app", "org"])
async def test_what_is_destroyed_is_on_no_page_of_the_database(node: Running, how: str) -> None:
    """Neither the value's envelope nor the boot bundle that held it is left in the database or its
    WAL when the answer is given."""
    await node.patch({"A": "1" * 5000, "B": "b"})
    sealed = node.rows("SELECT envelope FROM secrets WHERE name = 'A'")[0][0]
    bundle = node.rows("SELECT envelope FROM bundles")[0][0]
    await node.patch({"A": "2"})
    assert sealed[-1000:] in node.on_disk()
    if how in ("name", "version"):
        await node.destroy("A", version=1 if how == "version" else None)
    elif how == "app":
        await node.delete_app(now=True)
    else:
        await node.delete_org(now=True)
    for secret in (sealed, bundle):
        assert secret[-1000:] not in node.on_disk()
