"""A replica that feeds another one: one crossing serves a region, and outlives the leader."""

from __future__ import annotations

from pathlib import Path

from petsem.model import Position, Role
from petsem.wire import petsem_pb2 as pb
from tests.support.daemon import configure, until
from tests.support.doors import values_of
from tests.support.fleet import fleet


def test_a_chain(tmp_path: Path) -> None:
    """The last of three follows the middle one, writes through both and reads its write; when the
    leader is gone both answer and say how old that is, the last one after a `kill -9` too, and the
    middle one still makes a replica of a node that has nothing. When the leader is back, all are in
    step."""
    with fleet(tmp_path, 2, start=False) as cluster:
        leader, (middle, last) = cluster.leader, cluster.replicas
        configure(last.directory, "peer", upstream=f"127.0.0.1:{middle.ports.peer}")
        cluster.start()
        until(lambda: middle.own()["source"] == leader.node_id, "first link")
        until(lambda: last.own()["source"] == middle.node_id, "second link")
        cluster.converged()

        with last.doors() as doors:
            written = doors.set("acme/web", FIRST="through")
            fetched = doors.fetch("acme/web")
        assert values_of(fetched) == {"FIRST": b"through"}
        fresh = fetched.message.freshness
        assert (fresh.source, fresh.node, fresh.role) == (
            pb.Source.DISK,
            last.node_id,
            int(Role.REPLICA),
        )
        assert Position(fresh.position.epoch, fresh.position.txid) == Position.parse(
            written["position"]
        )
        until(lambda: leader.status()[last.node_id]["heard_ms_ago"] is not None, "report")
        late = cluster.join("iad")
        configure(late.directory, "peer", upstream=f"127.0.0.1:{middle.ports.peer}")

        at = cluster.converged(middle, last)
        leader.daemon.kill()
        late.daemon.start()
        late.has(at)
        # With nobody to tell it how old its data is, it has to know that itself.
        last.daemon.kill()
        last.daemon.start()
        for node in cluster.replicas:
            with node.doors() as doors:
                fetched = doors.fetch("acme/web")
                refused = doors.ask(
                    "PATCH", "/v1/orgs/acme/apps/web/secrets", {"set": {"FIRST": "no"}}
                )
            assert values_of(fetched) == {"FIRST": b"through"}
            assert fetched.message.freshness.source == pb.Source.DISK
            assert refused.error == (503, "unavailable", None)

        def quiet() -> bool:
            with last.doors() as doors:
                return bool(doors.fetch("acme/web").message.freshness.leader_seen_ms_ago > 2_000)

        until(quiet, "age")

        leader.daemon.start()
        with leader.doors() as doors:
            doors.set("acme/web", FIRST="again")
        cluster.converged()
