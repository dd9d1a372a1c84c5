"""A leader that runs a newer program than its replica, with data that the older one must not
read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from petsem.server.schema import SCHEMA_VERSION
from tests.support.daemon import Daemon, until
from tests.support.doors import values_of
from tests.support.fleet import Member, fleet

NEWER: Final = SCHEMA_VERSION + 1
_NEWER: Final = """
from petsem.server import schema
schema.MIGRATIONS += (("CREATE TABLE newer (x INTEGER) STRICT", {least}),)
schema.SCHEMA_VERSION = len(schema.MIGRATIONS)
from petsem.cli.main import main
main()
"""


def upgrade(node: Member, least: int) -> None:
    """Run the node with one more migration, whose result programs from version `least` on read."""
    if node.daemon.alive:
        assert node.daemon.stop() == 0
    code = _NEWER.format(least=least)
    node.daemon = Daemon(node.directory, command=(sys.executable, "-c", code, "serve"))
    node.daemon.http, node.daemon.grpc = node.ports.http, node.ports.grpc
    node.daemon.start()


def source(node: Member) -> str:
    """Who answers a boot read at `node`; the value is the right one."""
    with node.doors() as doors:
        answer = doors.fetch("acme/web")
        assert values_of(answer) == {"FIRST": b"1"}
        listed = doors.done("GET", "/v1/orgs/acme/apps/web/secrets")
    return str(listed["freshness"]["source"])


def test_a_newer_schema_that_the_replica_reads(tmp_path: Path) -> None:
    """A migration that older programs understand changes nothing for them."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        upgrade(cluster.leader, 1)
        cluster.converged()
        assert replica.ready()[0] == 200
        assert source(replica) == "disk"


def test_a_newer_schema_that_the_replica_must_not_read(tmp_path: Path) -> None:
    """It goes on replicating, asks upstream for reads, is not ready, and says what to do; alone it
    refuses. It is not promoted. With the newer program it reads from its disk again."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        upgrade(cluster.leader, NEWER)
        at = cluster.position()
        says = f"for programs that know schema version {NEWER} and this one knows {SCHEMA_VERSION}"
        until(lambda: says in replica.ready()[1], "complaint", 20)
        assert replica.ready()[0] == 503
        cluster.converged()
        seen = replica.position()
        assert seen is not None
        assert (seen.epoch, seen.txid) == (at.epoch, at.txid)
        assert source(replica) == "upstream"
        with replica.doors() as doors:
            refused = doors.cli("node", "promote", replica.node_id, "--force")
        assert (refused.code, "run the newer version of petsem" in refused.err) == (5, True)
        assert replica.daemon.stop() == 0
        replica.daemon.start()
        until(lambda: says in replica.ready()[1], "complaint after a restart", 20)

        cluster.leader.daemon.kill()
        with replica.doors() as doors:
            answer = doors.ask("GET", "/v1/orgs/acme/apps/web/secrets")
        assert answer.error is not None
        assert answer.error[1] == "unavailable"
        assert says in str(answer.raw)
        upgrade(replica, NEWER)
        assert replica.ready()[0] == 200
        assert source(replica) == "disk"
