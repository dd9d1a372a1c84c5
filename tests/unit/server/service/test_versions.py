"""An app's next version: its room, its number, and of which version it has to come after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem import limits
from petsem.errors import PetsemError
from tests.support.nodes import Running, running
from tests.unit.server.service.web_app import CONFLICT, INVALID, counts, diff, refused


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


# Room


async def test_a_thousand_secrets_and_not_one_more(node: Running) -> None:
    """The 1,001st name is refused; in exchange for another one it is taken."""
    await node.patch({f"N{n}": "" for n in range(1000)})
    assert counts(node)[1] == 1000
    assert await refused(node.patch({"ONE_MORE": ""})) == (INVALID, "TOO_LARGE", None)
    await node.patch({"ONE_MORE": "", "N1": "again"}, unset=["N0"])
    assert counts(node)[1] == 1000
    assert len(await node.values()) == 1000


async def test_a_mebibyte_of_names_and_values_and_not_one_byte_more(node: Running) -> None:
    """Names count as values do, to the byte, and room that is given back can be used again."""
    values = {f"N{n:02}": "x" * (limits.VALUE_MAX_BYTES - 3) for n in range(16)}
    await node.patch(values)
    assert counts(node)[2] == limits.APP_MAX_BYTES
    assert await refused(node.patch({"A": ""})) == (INVALID, "TOO_LARGE", None)
    assert await refused(node.patch({"N00": "x" * (limits.VALUE_MAX_BYTES - 2)}))
    await node.patch({"A": "ab", "N00": "x" * (limits.VALUE_MAX_BYTES - 6)})
    assert counts(node)[2] == limits.APP_MAX_BYTES
    await node.patch({"B": "x" * 100}, unset=["N01"])
    assert counts(node)[2] == limits.APP_MAX_BYTES - limits.VALUE_MAX_BYTES + 101


# Numbers


async def test_the_last_version_there_can_be(node: Running) -> None:
    """A version is 32 bits; after the last one nothing is written any more."""
    await node.tamper("UPDATE apps SET version = ?", limits.VERSION_MAX - 1)
    assert (await node.patch({"A": "x"})).version == limits.VERSION_MAX
    assert (await refused(node.patch({"A": "y"})))[0] is CONFLICT
    assert (await refused(node.destroy("A")))[0] is CONFLICT


async def test_if_version_tells_the_current_one(node: Running) -> None:
    """A batch, a rollback and a diff that assume another version are told which there is."""
    await node.patch({"A": "1"}, if_version=0)
    await node.patch({"A": "2"}, if_version=1)
    for write in (node.patch({"A": "3"}, if_version=1), node.rollback(1, if_version=3)):
        with pytest.raises(PetsemError) as error:
            await write
        detail = error.value.detail
        assert (error.value.code, detail.have_version) == (CONFLICT, 2)
    with pytest.raises(PetsemError) as error:
        diff(node, {"A": "3"}, if_version=1)
    assert error.value.detail.have_version == 2
    assert (await node.rollback(1, if_version=2)).version == 3


async def test_of_two_that_assume_the_same_version_one_wins(node: Running) -> None:
    """In one group too: the second sees what the first one did."""
    found = await asyncio.gather(
        *(node.patch({"A": f"{n}"}, if_version=0) for n in range(3)), return_exceptions=True
    )
    assert [getattr(each, "version", None) for each in found] == [1, None, None]
    assert await node.values() == {"A": b"0"}
