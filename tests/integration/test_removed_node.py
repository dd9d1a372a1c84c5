"""A node that is removed while it runs: the others leave it, and it answers no more."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import until
from tests.support.fleet import Member, fleet


def test_a_leader_of_before_is_removed(tmp_path: Path) -> None:
    """Its address is the `upstream` of another node, which leaves it for the new leader, and passes
    writes on to that one. The removed node has its data and its keys, and gives nothing of them."""
    with fleet(tmp_path, 2) as cluster:
        old, (new, other) = cluster.leader, cluster.replicas
        with new.doors() as doors:
            assert doors.cli("node", "promote", new.node_id, "--force").code == 0
        at = new.position()
        assert at is not None
        old.has(at)
        other.has(at)
        with new.doors() as doors:
            removed = doors.cli("node", "remove", old.node_id, "--yes", old.node_id)
            assert removed.code == 0, removed
        until(lambda: "removed from the cluster" in old.ready()[1], "it knows that it was removed")
        old.says("removed")
        assert not old.own()["ready"]
        with old.doors() as doors:
            assert doors.fetch("acme/web").error is not None
            assert doors.ask("GET", "/v1/orgs/acme/apps/web/secrets/values").status == 503
        until(lambda: _source(other) == new.node_id, "the other one follows the new leader")
        until(lambda: _left(new, old.node_id), "the leader feeds it no more")
        with other.doors() as doors:
            doors.set("acme/web", FIRST="2")
        assert old.node_id not in other.status()
        assert old.own()["position"] != new.own()["position"]


def _left(leader: Member, node_id: str) -> bool:
    return any(said["node"] == node_id for said in leader.logged("follower_left"))


def _source(node: Member) -> str | None:
    return node.own().get("source")
