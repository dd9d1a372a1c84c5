"""Programs that know nothing of us and open the databases of a running cluster."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from petsem.replication.drivers.locks import NAME_HOLDERS_AFTER_S
from tests.support import stock
from tests.support.doors import values_of
from tests.support.fleet import fleet

_HOLD: Final = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
db.execute("SELECT count(*) FROM secrets").fetchall()
print("holds", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def foreign_reader(database: Path) -> Iterator[int]:
    """The pid of a process in the middle of a read transaction."""
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert held.stdin is not None
    assert held.stdout is not None
    try:
        assert held.stdout.readline() == b"holds\n"
        yield held.pid
    finally:
        held.stdin.close()
        held.stdout.close()
        held.wait(10)


def test_one_that_stays(tmp_path: Path) -> None:
    """A foreign reader that keeps its lock is named by its pid after a while. Until it leaves,
    everybody else reads what was there, from this node and from its file, the answers say that
    they are behind, what arrives is durable all the same; then it is applied at once."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        with cluster.leader.doors() as leader, replica.doors() as doors:
            before = cluster.position()
            with foreign_reader(replica.database) as pid:
                written = leader.done(
                    "PATCH",
                    "/v1/orgs/acme/apps/web/secrets",
                    {"set": {"FIRST": "2"}, "durability": {"replicated": 1}},
                )
                assert written["durability"]["met"] is True, written
                assert replica.says("apply_waits")["pids"] == [pid]
                for _ in range(20):
                    assert values_of(doors.fetch("acme/web")) == {"FIRST": b"1"}
                for command in stock.commands(replica.database):
                    assert stock.ask(command, "SELECT txid FROM position;") == [str(before.txid)]
                own = replica.own()
                assert own["lag_transactions"] > 0
                assert own["lag_ms"] > 1000 * NAME_HOLDERS_AFTER_S
                assert replica.ready()[0] == 200
            replica.says("apply_goes_on", 5)
            assert values_of(doors.fetch("acme/web")) == {"FIRST": b"2"}
        cluster.converged()


@pytest.mark.parametrize("which", ["leader", "replica"])
def test_the_stock_shell_after_a_kill(tmp_path: Path, which: str) -> None:
    """After `kill -9` the stock shell opens the database, sees what was committed, and writes no
    harm into it: the node starts again and the cluster is in step."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        node = cluster.leader if which == "leader" else replica
        with cluster.leader.doors() as leader:
            for number in range(20):
                leader.set("acme/web", FIRST=str(number))
        replica.has(cluster.position())
        at = node.position()
        assert at is not None
        node.daemon.kill()
        for command in stock.commands(node.database):
            found = stock.ask(
                command, "PRAGMA integrity_check;", "SELECT epoch, txid FROM position;"
            )
            assert found == ["ok", f"{at.epoch}|{at.txid}"]
        node.daemon.start()
        with cluster.leader.doors() as leader:
            leader.set("acme/web", FIRST="after")
        cluster.converged()
        with replica.doors() as doors:
            assert values_of(doors.fetch("acme/web")) == {"FIRST": b"after"}
        assert "needs_snapshot" not in replica.daemon.log.read_text()
