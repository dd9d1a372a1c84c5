"""Revocations that only the old leader had: whoever was refused there is refused again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petsem.server.lost_revocations import MARK
from tests.integration.test_promote import branches, promote
from tests.support.cluster import in_a_day
from tests.support.daemon import until
from tests.support.fleet import Member, fleet

ACCESS = {"org": "acme", "app": "web", "action": "secrets:read"}


def minted(node: Member) -> dict[str, Any]:
    """A token that reads, with its id."""
    body = {
        "org": "acme",
        "kind": "host",
        "caveats": ["action = secrets:read", f"time < {in_a_day()}"],
    }
    with node.doors() as doors:
        token: dict[str, Any] = doors.done("POST", "/v1/tokens", body)
    return token


def revoke(node: Member, token: dict[str, Any]) -> None:
    """End it, on this node."""
    with node.doors() as doors:
        doors.done("DELETE", f"/v1/orgs/acme/tokens/{token['id']}")


def verdict(node: Member, token: dict[str, Any]) -> str:
    """`allowed`, or the reason why not."""
    with node.doors() as doors:
        asked = {"token": token["token"], "access": ACCESS}
        told = doors.done("POST", "/v1/tokens/verify", asked)
    return "allowed" if told["allowed"] else str(told["reason"])


def test_they_are_made_again(tmp_path: Path) -> None:
    """By the new leader, as soon as the old one follows; what was not revoked stays, and a restart
    repeats nothing."""
    with fleet(tmp_path, 2) as cluster:
        old, fra, nrt = cluster.leader, *cluster.replicas
        parent, spared = minted(old), minted(old)
        cluster.converged()
        for replica in cluster.replicas:
            replica.daemon.kill()
        only_here = minted(old)
        revoke(old, parent)
        revoke(old, only_here)
        assert verdict(old, parent) == "REVOKED"
        old.daemon.kill()
        for replica in cluster.replicas:
            replica.daemon.start()
        promote(cluster, fra)
        assert [verdict(fra, each) for each in (parent, spared)] == ["allowed", "allowed"]
        old.daemon.start()
        until(lambda: verdict(fra, parent) == "REVOKED", "the revocation on the new leader")
        (told,) = [old.says("lost_revocations_made_again")]
        assert (told["count"], told["live"]) == (2, 1)
        end = cluster.converged(within_s=30)
        for node in cluster.nodes:
            assert verdict(node, parent) == "REVOKED"
            assert verdict(node, spared) == "allowed"
        # It was minted on the branch that is lost, so it never was a token of this one.
        assert verdict(fra, only_here) in ("NOT_ISSUED", "UNKNOWN_KEY")

        (branch,) = branches(old)
        listed = [each["nonce"] for each in branch["revocations"]]
        assert listed == [parent["id"], only_here["id"]]
        (directory,) = (old.directory / "lost").iterdir()
        until((directory / MARK).exists, "the mark")
        old.daemon.stop()
        with old.daemon:
            old.has(end)
            assert old.logged("lost_revocations_made_again") == []
            assert cluster.position() == end
        assert nrt.position() == end


def test_they_wait_for_a_leader(tmp_path: Path) -> None:
    """What could not be said before this node ended is said by its next run."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, *cluster.replicas
        token = minted(old)
        cluster.converged()
        fra.daemon.kill()
        revoke(old, token)
        old.daemon.kill()
        fra.daemon.start()
        promote(cluster, fra)
        old.daemon.start()
        old.says("lost_revocations_made_again")
        (directory,) = (old.directory / "lost").iterdir()
        old.daemon.kill()
        # As if it had been killed before.
        (directory / MARK).unlink()
        fra.daemon.kill()
        old.daemon.start()
        old.says("lost_revocations_wait")
        assert not (directory / MARK).exists()
        fra.daemon.start()
        told = old.says("lost_revocations_made_again")
        assert (told["count"], told["live"]) == (1, 0)
        assert verdict(fra, token) == "REVOKED"
