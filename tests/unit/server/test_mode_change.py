"""A database between two roles: what a start finds, and what it does about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from petsem.model import Position
from petsem.replication import steps
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.image import PAGE_SIZE, normalise
from petsem.server.database import open_reader, read_position
from petsem.server.mode_change import (
    create_empty,
    needs_change,
    to_replica,
    was_replica,
)
from tests.unit.server.cluster import Cluster


def is_canonical(path: Path, position: Position) -> bool:
    """Whether page 1 is the one that the stream defines for `position`."""
    file = PageReader(path)
    try:
        page1 = file.read(1)
    finally:
        file.close()
    return page1 is not None and page1 == normalise(page1, position.epoch, position.txid)


class Stopped(Exception):  # noqa: N818 - it is no error of the program
    """The process ends here."""


@pytest.fixture
async def database(cluster: Cluster) -> Path:
    """A leader's, stopped in order."""
    async with cluster.running():
        await cluster.org("acme", "web")
    return cluster.datadir.database


def position_of(database: Path) -> Position:
    db = open_reader(database)
    try:
        return read_position(db)
    finally:
        db.close()


def test_what_the_file_says_decides_what_a_start_does(database: Path) -> None:
    """A leader's file needs a change before it is followed with, a replica's before it is led."""
    assert (needs_change(database), was_replica(database)) == (True, False)
    at = to_replica(database)
    assert (needs_change(database), was_replica(database)) == (False, True)
    assert at == position_of(database)
    assert is_canonical(database, at)
    page1 = database.read_bytes()[:PAGE_SIZE]
    assert page1 == normalise(page1, at.epoch, at.txid)


def test_an_empty_file_is_neither(tmp_path: Path) -> None:
    """And what is not there is made, for this user alone."""
    database = tmp_path / "petsem.db"
    assert (needs_change(database), was_replica(database)) == (False, False)
    create_empty(database)
    assert (database.stat().st_size, database.stat().st_mode & 0o777) == (0, 0o600)
    assert (needs_change(database), was_replica(database)) == (False, False)


@pytest.mark.parametrize(
    "step", [steps.ROLE_TRUNCATE_WAL, steps.ROLE_LEAVE_WAL, steps.ROLE_NORMALISE]
)
def test_cut_off_before_a_step_it_is_done_again(database: Path, step: str) -> None:
    """The position stays, and the second attempt ends as an uninterrupted one does."""

    def reached(now: str) -> None:
        if now == step:
            raise Stopped

    before = position_of(database)
    with pytest.raises(Stopped):
        to_replica(database, reached=reached)
    assert to_replica(database) == before
    assert is_canonical(database, before)
    assert not needs_change(database)
