"""What a reader or writer may ask for beyond the usual, and is told truthfully if it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petsem.model import Position
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import decode_status
from tests.support.daemon import configure, until
from tests.support.doors import Doors, Reply, values_of
from tests.support.fleet import fleet
from tests.support.ports import free_port

SECRETS = "/v1/orgs/acme/apps/web/secrets"


def positions(reply: Reply) -> tuple[Position, Position]:
    """What a stale answer has and needs."""
    detail = decode_status(reply.raw)
    assert detail is not None
    return tuple(  # type: ignore[return-value]
        Position(each.epoch, each.txid) for each in (detail.have, detail.need)
    )


def write(doors: Doors, value: str, durability: Any = None) -> Any:
    """The reply to one write."""
    more = {} if durability is None else {"durability": durability}
    return doors.done("PATCH", SECRETS, {"set": {"FIRST": value}, **more})


def test_reading_your_writes(tmp_path: Path) -> None:
    """A fence that a replica reaches is waited for. While the link to the leader is slow, or gone,
    it is `stale` with both positions; on a branch that is no more it is `conflict`, LOST."""
    with fleet(tmp_path, 1, proxied=True) as cluster:
        (replica,), link = cluster.replicas, cluster.link
        with cluster.leader.doors() as leader, replica.doors() as doors:
            for number in range(20):
                written = write(leader, str(number))
                at = Position.parse(written["position"])
                asked = (
                    {"min_version": written["version"]}
                    if number % 2
                    else {"min_position": pb.Position(epoch=at.epoch, txid=at.txid)}
                )
                fetched = doors.fetch("acme/web", **asked)
                assert values_of(fetched) == {"FIRST": str(number).encode()}
                assert fetched.message.version >= written["version"]
            had = replica.has(at)

            lost = doors.fetch("acme/web", min_position=pb.Position(epoch=1, txid=at.txid))
            assert lost.error == ("ABORTED", "conflict", "LOST")

            link.up.cut = link.down.cut = True
            written = write(leader, "unseen")
            need = Position.parse(written["position"])
            until(lambda: replica.own()["last_error"], "complaint")
            fence = pb.Position(epoch=need.epoch, txid=need.txid)
            stale = doors.fetch("acme/web", min_position=fence)
            assert stale.error == ("FAILED_PRECONDITION", "stale", None)
            assert positions(stale) == (had, need)
            stale = doors.fetch("acme/web", min_version=written["version"])
            assert stale.error == ("FAILED_PRECONDITION", "stale", None)
            # Without a fence it is answered, with its age.
            fetched = doors.fetch("acme/web")
            assert values_of(fetched) == {"FIRST": b"19"}
            assert fetched.message.freshness.lag_ms > 2_000

            link.heal()
            cluster.converged()
            fetched = doors.fetch("acme/web", min_version=written["version"], durable=True)
            assert values_of(fetched) == {"FIRST": b"unseen"}


def test_replicated_writes(tmp_path: Path) -> None:
    """`replicated` is met by nodes that have it on their disk, and named; who asks for more than
    there are is told so, and the write stands."""
    with fleet(tmp_path, 2) as cluster:
        first, second = cluster.replicas
        with cluster.leader.doors() as leader:
            both = write(leader, "1", {"replicated": 2})["durability"]
            assert both["met"] is True
            assert sorted(both["replicated_to"]) == sorted([first.node_id, second.node_id])
            with second.held():
                one = write(leader, "2", {"replicated": 1})["durability"]
                assert (one["met"], one["replicated_to"]) == (True, [first.node_id])
                none = write(leader, "3", {"replicated": 2})["durability"]
                assert (none["met"], none["replicated_to"]) == (False, [first.node_id])
            with first.doors() as doors:
                through = write(doors, "4", {"replicated": 1})["durability"]
                assert through["met"] is True
                assert values_of(doors.fetch("acme/web")) == {"FIRST": b"4"}
        cluster.converged()


def test_one_that_never_had_anything(tmp_path: Path) -> None:
    """A replica that never reached the cluster is not ready and says why; reads and writes are
    `unavailable` at once."""
    with fleet(tmp_path, 0) as cluster:
        replica = cluster.join("fra")
        cluster.leader.daemon.kill()
        configure(replica.directory, "peer", upstream=f"127.0.0.1:{free_port()}")
        with replica.daemon, replica.doors() as doors:
            status, body = replica.ready()
            assert (status, "has not received its data yet" in body) == (503, True)
            assert doors.fetch("acme/web").error == ("UNAVAILABLE", "unavailable", None)
            answer = doors.ask("PATCH", SECRETS, {"set": {"FIRST": "2"}})
            assert answer.error == (503, "unavailable", None)
