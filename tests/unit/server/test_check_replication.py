"""`petsem check` of what replication keeps: the log, and the database against its checksum."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from petsem.replication.drivers.database_file import PageReader
from petsem.replication.image import PAGE_SIZE
from petsem.server.check import check
from petsem.server.findings import Report, Result
from petsem.server.mode_change import to_replica
from tests.unit.server.cluster import Cluster


@pytest.fixture
async def stopped(cluster: Cluster) -> Cluster:
    """A leader with a few transactions, stopped in order."""
    async with cluster.running():
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1", B="2")
    return cluster


def as_replica(cluster: Cluster) -> None:
    """What a change of role makes of the directory."""
    to_replica(cluster.datadir.database)
    state = cluster.datadir.read_state()
    cluster.datadir.write_state(dataclasses.replace(state, role="replica"))


def look(cluster: Cluster) -> Report:
    return check(cluster.directory, {}, clock=cluster.clock)


def told(report: Report, name: str) -> list[tuple[Result, str]]:
    return [(each.result, each.message) for each in report.findings if each.name == name]


def spoil(path: Path, offset: int) -> None:
    """One bit of a file of a node that is stopped."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_leader_and_a_replica_hold(stopped: Cluster) -> None:
    """In either mode each page is what the log promises, on the same position."""
    leader = told(look(stopped), "database and log")
    as_replica(stopped)
    report = look(stopped)
    assert report.ok
    assert told(report, "database and log") == leader
    assert leader[0][0] is Result.OK
    assert "every page is what the log promises at" in leader[0][1]


def test_a_page_that_is_another_is_found(stopped: Cluster) -> None:
    """Also in a page that SQLite does not look into: the last one."""
    as_replica(stopped)
    reader = PageReader(stopped.datadir.database)
    pages = reader.size_pages()
    reader.close()
    spoil(stopped.datadir.database, pages * PAGE_SIZE - 1)
    ((result, message),) = told(look(stopped), "database and log")
    assert result is Result.PROBLEM
    assert "do not have the checksum that the log promises" in message


def test_a_damaged_log_is_found(stopped: Cluster) -> None:
    """Bytes within its only segment."""
    as_replica(stopped)
    segment = max(stopped.datadir.log.iterdir(), key=lambda path: path.stat().st_size)
    spoil(segment, 3_000)
    results = [result for result, _ in told(look(stopped), "log")]
    assert set(results) == {Result.PROBLEM}


def test_a_replica_without_data_is_no_problem(stopped: Cluster) -> None:
    """It has joined, and was never started."""
    as_replica(stopped)
    stopped.datadir.database.write_bytes(b"")
    for path in stopped.datadir.log.iterdir():
        path.unlink()
    report = look(stopped)
    assert report.ok
    assert told(report, "database")[-1] == (
        Result.OK,
        "empty: the node has not received its data yet",
    )


def test_a_replica_whose_log_is_behind_is_a_problem(stopped: Cluster) -> None:
    """Its log comes first, always. A leader's may be behind: the WAL has the rest."""
    for path in stopped.datadir.log.iterdir():
        path.unlink()
    ((result, message),) = told(look(stopped), "database and log")
    assert (result, "the WAL has the rest" in message) == (Result.OK, True)
    as_replica(stopped)
    ((result, message),) = told(look(stopped), "database and log")
    assert (result, "a replica's log is never behind" in message) == (Result.PROBLEM, True)


@pytest.mark.parametrize("replica", [True, False])
def test_a_log_that_is_not_there_is_a_problem(stopped: Cluster, replica: bool) -> None:
    """Whoever deleted the directory is told, on either kind of node."""
    if replica:
        as_replica(stopped)
    shutil.rmtree(stopped.datadir.log)
    report = look(stopped)
    assert not report.ok
    ((result, message),) = told(report, "log")
    assert (result, "ltx/ is not there" in message) == (Result.PROBLEM, True)


def test_a_log_that_is_emptied_under_a_running_node_is_a_problem(stopped: Cluster) -> None:
    """A leader that runs has a log, always."""
    for path in stopped.datadir.log.iterdir():
        path.unlink()
    with stopped.datadir.lock():
        ((result, message),) = told(look(stopped), "database and log")
    assert (result, "its files were deleted" in message) == (Result.PROBLEM, True)
