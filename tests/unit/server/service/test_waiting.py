"""Fences and waiting: what holds, what may still come, and what never will."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server.changes import POSITION, Changes
from petsem.server.database import open_writer, read_position
from petsem.server.leadership import begin_epoch
from petsem.server.schema import migrate
from petsem.server.service.waiting import check_fence, until_fresh
from petsem.server.stale import stale_version

HOLDS, STALE, LOST = "holds", "stale", "LOST"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    """Epoch 1 from TXID 1, epoch 3 from 10, epoch 4 from 20; the database is at (4, 25). Number 2
    was bound and never used."""
    db = open_writer(tmp_path / "petsem.db", create=True)
    migrate(db)
    for at in (Position(1, 1), Position(3, 10), Position(4, 20)):
        begin_epoch(db, at, "node", 0)
    db.execute("UPDATE position SET txid = 25")
    yield db
    db.close()


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Position(4, 25), HOLDS),
        (Position(4, 20), HOLDS),
        (Position(3, 19), HOLDS),
        (Position(3, 10), HOLDS),
        (Position(1, 9), HOLDS),
        (Position(1, 1), HOLDS),
        (Position(0, 0), HOLDS),
        (Position(4, 26), STALE),
        (Position(5, 1), STALE),
        (Position(5, 26), STALE),
        (Position(2**32 - 1, 2**63 - 1), STALE),
        (Position(3, 20), LOST),
        (Position(1, 10), LOST),
        (Position(1, 2**63 - 1), LOST),
        (Position(2, 10), LOST),
        (Position(4, 19), LOST),
        (Position(3, 9), LOST),
        (Position(1, 0), LOST),
        (Position(0, 1), LOST),
    ],
)
def test_a_fence_holds_where_the_epochs_place_it(
    db: apsw.Connection, need: Position, expected: str
) -> None:
    """Within its epoch and at or before here it holds; ahead of here it may come; anywhere else it
    was on a branch that is gone."""
    have = read_position(db)
    if expected == HOLDS:
        check_fence(db, have, need)
        return
    with pytest.raises(PetsemError) as error:
        check_fence(db, have, need)
    detail = error.value.detail
    assert (detail.have, detail.need) == (have, need)
    code, reason = (Code.STALE, None) if expected == STALE else (Code.CONFLICT, LOST)
    assert (error.value.code, detail.reason) == (code, reason)


LOGGED = {19: Position(3, 19, 1 << 63 | 1), 25: Position(4, 25, 1 << 63 | 2)}


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Position(3, 19, 1 << 63 | 1), HOLDS),
        (Position(4, 25, 1 << 63 | 2), HOLDS),
        (Position(4, 25), HOLDS),
        # The log does not say.
        (Position(3, 18, 1 << 63), HOLDS),
        (Position(3, 19, 1 << 63), LOST),
        (Position(4, 25, 1 << 63 | 1), LOST),
        (Position(4, 26, 1 << 63), STALE),
    ],
)
def test_a_fence_with_a_checksum_is_of_one_branch(
    db: apsw.Connection, need: Position, expected: str
) -> None:
    """Of two that have an epoch of the same number: as far back as the log goes."""
    have = read_position(db)
    if expected == HOLDS:
        check_fence(db, have, need, LOGGED.get)
        return
    with pytest.raises(PetsemError) as error:
        check_fence(db, have, need, LOGGED.get)
    assert error.value.detail.reason == (None if expected == STALE else LOST)
    check_fence(db, have, Position(3, 19, 1 << 63), lambda _: None)
    check_fence(db, have, Position(3, 19, 1 << 63))


class _Source:
    """Something to read that is stale for a number of looks."""

    def __init__(self, stale: int, error: PetsemError | None = None) -> None:
        self.looks = 0
        self._stale = stale
        self._error = error

    def __call__(self) -> int:
        self.looks += 1
        if self.looks <= self._stale:
            raise stale_version(self.looks, 100)
        if self._error is not None:
            raise self._error
        return self.looks


async def test_what_is_there_is_read_once() -> None:
    """No subscription, no wait."""
    changes, source = Changes(), _Source(0)
    assert await until_fresh(changes, POSITION, source) == 1
    assert source.looks == 1


async def test_a_change_between_the_first_look_and_the_subscription_is_not_missed() -> None:
    """The second look comes after subscribing, so nothing falls in between."""
    assert await until_fresh(Changes(), POSITION, _Source(1)) == 2


async def test_each_change_is_a_reason_to_look_again() -> None:
    """Until it is no longer stale."""
    changes, source = Changes(), _Source(4)
    waits = asyncio.create_task(until_fresh(changes, POSITION, source, 5.0))
    while not waits.done():
        changes.publish(())
        await asyncio.sleep(0)
    assert (await waits, source.looks) == (5, 5)
    assert changes.waited_for == set()


@pytest.mark.parametrize("stale", [0, 1, 2])
async def test_any_other_error_ends_the_wait(stale: int) -> None:
    """A token that was revoked, or a value that is damaged, is not waited for."""
    changes = Changes()
    source = _Source(stale, PetsemError(Code.DENIED, "no"))
    waits = asyncio.create_task(until_fresh(changes, POSITION, source, 5.0))
    while not waits.done():
        changes.publish(())
        await asyncio.sleep(0)
    error = waits.exception()
    assert isinstance(error, PetsemError)
    assert error.code is Code.DENIED


async def test_the_time_is_bounded_and_the_last_look_is_at_its_end() -> None:
    """With nothing happening there are three looks: before, after subscribing, and at the end."""
    source = _Source(2)
    assert await until_fresh(Changes(), POSITION, source, 0.02) == 3
    source = _Source(100)
    with pytest.raises(PetsemError) as error:
        await until_fresh(Changes(), POSITION, source, 0.02)
    assert (error.value.code, source.looks) == (Code.STALE, 3)
