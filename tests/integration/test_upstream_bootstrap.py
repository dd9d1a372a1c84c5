"""A new replica answers before it has anything: it asks the node that it follows."""

from __future__ import annotations

import os
from pathlib import Path

from petsem.wire import petsem_pb2 as pb
from tests.support.daemon import until
from tests.support.doors import values_of
from tests.support.fleet import fleet

LARGE = tuple(f"large-{number}" for number in range(24))
"""Apps of half a MiB each: over the slow link much slower than all that is asked meanwhile."""


def test_while_the_snapshot_comes(tmp_path: Path) -> None:
    """Reads are answered from upstream and say so, writes are passed on, the node is not ready and
    its lag is unknown; once it has its data it answers from that."""
    with fleet(tmp_path, 0, proxied=True) as cluster:
        link = cluster.link
        with cluster.leader.doors() as doors:
            doors.furnish("archive", *LARGE)
            for app in LARGE:
                values = {f"N{number}": os.urandom(24 * 1024).hex() for number in range(10)}
                doors.set(f"archive/{app}", **values)
        replica = cluster.join("fra")
        link.down.bytes_per_s = 200_000
        with replica.daemon, replica.doors() as doors:
            replica.says("snapshot_begins")
            fetched = doors.fetch("acme/web")
            assert values_of(fetched) == {"FIRST": b"1"}
            fresh = fetched.message.freshness
            assert (fresh.source, fresh.node) == (pb.Source.UPSTREAM, cluster.leader.node_id)
            listed = doors.done("GET", "/v1/orgs/acme/apps/web/secrets")
            assert listed["freshness"]["source"] == "upstream"
            doors.set("acme/web", FIRST="2")
            assert values_of(doors.fetch("acme/web")) == {"FIRST": b"2"}
            status, body = replica.ready()
            assert (status, "has not received its data yet" in body) == (503, True)
            own = replica.own()
            assert (own["position"], own["lag_ms"], own["lag_transactions"]) == (None, None, None)
            assert not own["ready"]
            assert not replica.logged("snapshot_applied"), "the link was not slow enough"

            link.heal()
            cluster.converged()
            until(lambda: replica.ready()[0] == 200, "readiness")
            until(lambda: replica.own()["lag_transactions"] == 0, "lag")
            fetched = doors.fetch("acme/web")
            assert values_of(fetched) == {"FIRST": b"2"}
            assert fetched.message.freshness.source == pb.Source.DISK
            assert len(replica.logged("snapshot_begins")) == 1
