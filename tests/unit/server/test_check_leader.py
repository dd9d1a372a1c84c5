"""What `petsem check` makes of the leader's answer, and of none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from petsem.errors import PetsemError, unavailable
from petsem.model import Position
from petsem.server.check import check
from petsem.server.check_leader import NAME, Ask, LeaderSays, ask_members, judged
from petsem.server.findings import Result
from petsem.server.mode_change import to_replica
from petsem.server.peer.identity import OwnCertificate
from petsem.server.replica.candidates import Candidate
from tests.unit.server.cluster import Cluster

AT = Position(2, 50, 0x8000_0000_0000_0001)
END = Position(2, 90, 0x8000_0000_0000_0009)
OLDEST = Position(1, 10, 0x8000_0000_0000_0003)


def says(found: Position | None, *, oldest: Position = OLDEST, end: Position = END) -> LeaderSays:
    return LeaderSays("ams-1", oldest, end, found)


@pytest.mark.parametrize(
    ("said", "result", "words"),
    [
        (says(AT), Result.OK, f"every page is what the leader ams-1 has at {AT}"),
        (says(Position(2, 50, 5)), Result.PROBLEM, "delete the file 'checksums'"),
        (says(Position(3, 50, AT.checksum), end=Position(3, 60, 1)), Result.PROBLEM, "branch"),
        (says(None, end=Position(3, 49, 1)), Result.PROBLEM, "another branch"),
        (says(None, oldest=Position(2, 51, 1)), Result.SKIPPED, "no longer knows 00000002-"),
        (says(None), Result.SKIPPED, "within one file of the log of the leader ams-1"),
        (says(None, end=Position(1, 99, 1)), Result.SKIPPED, "leads in epoch 1"),
        (says(Position(1, 50, 5), end=Position(1, 99, 1)), Result.SKIPPED, "of epoch 2"),
    ],
)
def test_what_an_answer_means(said: LeaderSays, result: Result, words: str) -> None:
    """Only other bytes at the same place, or another branch, are a problem."""
    found, message = judged(AT, said)
    assert found is result
    assert words in message


@pytest.fixture
async def replica(cluster: Cluster) -> Cluster:
    """A stopped node with a few transactions, whose directory says that it is a replica."""
    async with cluster.running():
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        await cluster.change("INSERT INTO nodes VALUES ('nrt-1', 'nrt', 0, 'h', 'g', 'n:2', 0)")
    to_replica(cluster.datadir.database)
    state = cluster.datadir.read_state()
    cluster.datadir.write_state(dataclasses.replace(state, role="replica"))
    return cluster


def told(cluster: Cluster, ask: Ask | None) -> list[tuple[Result, str]]:
    report = check(cluster.directory, {}, ask=ask, clock=cluster.clock)
    return [(each.result, each.message) for each in report.findings if each.name == NAME]


def test_the_question(replica: Cluster) -> None:
    """Of the copy's own transaction, to the members that the copy knows, with the node's own
    certificate; the answer is held against the checksum of the copy's pages."""
    asked: list[tuple[str, Sequence[Candidate], int]] = []

    def ask(own: OwnCertificate, members: Sequence[Candidate], txid: int) -> LeaderSays:
        asked.append((own.node_id, members, txid))
        return LeaderSays("nrt-1", OLDEST, END, None)

    told(replica, ask)
    ((node_id, members, txid),) = asked
    assert node_id == replica.datadir.read_identity().node_id
    assert members == [Candidate("n:2", "nrt-1")]

    def same(own: OwnCertificate, members: Sequence[Candidate], txid: int) -> LeaderSays:
        report = check(replica.directory, {}, clock=replica.clock)
        ((logged),) = [e.message for e in report.findings if e.name == "database and log"]
        at = Position.parse(logged.split()[-1])
        assert at.txid == txid
        return LeaderSays("nrt-1", at, at, at)

    ((result, message),) = told(replica, same)
    assert (result, "every page is what the leader nrt-1 has" in message) == (Result.OK, True)
    assert txid > 1


def test_no_answer_is_no_problem(replica: Cluster) -> None:
    """It is said, and what nobody could be asked about counts as skipped."""

    def ask(own: OwnCertificate, members: Sequence[Candidate], txid: int) -> LeaderSays:
        raise unavailable("nobody is there")

    assert told(replica, ask) == [(Result.SKIPPED, "not compared with the leader: nobody is there")]


def test_a_leader_asks_nobody(cluster: Cluster) -> None:
    """What it has is what counts."""

    asked: list[int] = []

    def ask(own: OwnCertificate, members: Sequence[Candidate], txid: int) -> LeaderSays:
        asked.append(txid)
        raise unavailable("nobody is there")

    assert told(cluster, ask) == []
    assert asked == []


def test_nobody_is_known(replica: Cluster) -> None:
    """Without an address there is nobody to ask."""
    own = OwnCertificate(replica.datadir, replica.datadir.read_identity())
    with pytest.raises(PetsemError, match="no other node is known"):
        ask_members(own, [], 1)
