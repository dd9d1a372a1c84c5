"""A KEK and a branch that was lost: it is not retired without a word about the branch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.daemon import Ran, until
from tests.support.fleet import Fleet, Member, fleet


def keyring(node: Member, *words: str) -> Ran:
    """`petsem keyring` at one node."""
    with node.doors() as doors:
        return doors.cli("keyring", *words, "-o", "json")


def fork(cluster: Fleet) -> tuple[Member, Member]:
    """Only the leader has a transaction when it dies; the replica leads then, and the old leader
    comes back: (new, old)."""
    old, new = cluster.leader, cluster.replicas[0]
    new.daemon.kill()
    with old.doors() as doors:
        doors.set("acme/web", ONLY_HERE="1")
    old.daemon.kill()
    new.daemon.start()
    with new.doors() as doors:
        assert doors.cli("node", "promote", new.node_id, "--force").code == 0
        doors.set("acme/web", AFTER="1")
    cluster.leader, cluster.replicas = new, [old]
    old.daemon.start()
    cluster.converged()
    return new, old


def test_a_kek_that_a_lost_branch_needs(tmp_path: Path) -> None:
    """The leader hears of the branch from the node that keeps it; the way out is that of the
    sentence: delete the branch, or force."""
    with fleet(tmp_path, 1) as cluster:
        listed = json.loads(keyring(cluster.leader, "list").out)["keys"]
        (first,) = [each["id"] for each in listed if each["purpose"] == "secrets"]
        new, old = fork(cluster)
        (branch,) = (old.directory / "lost").iterdir()
        assert first in json.loads((branch / "keks.json").read_text())["secrets"]

        file = new.directory.with_name(new.directory.name + ".keyring.json")
        made = keyring(new, "generate", "--purpose", "secrets", str(file))
        assert made.code == 0, made
        second = json.loads(made.out)["id"]
        shutil.copy(file, old.directory.with_name(old.directory.name + ".keyring.json"))
        assert keyring(old, "list").code == 0
        until(lambda: keyring(new, "promote", second).code == 0, "promotion", 20)
        assert keyring(new, "rewrap").code == 0
        cluster.converged()

        refused = keyring(new, "retire", first)
        assert refused.code == 5
        assert f"under lost/ of {old.node_id}" in refused.err
        forced = keyring(new, "retire", first, "--force")
        assert forced.code == 0
        assert json.loads(forced.out)["lost"] == [old.node_id]
        assert old.node_id in forced.err

        shutil.rmtree(branch)
        until(
            # The one more member, which does not run here, is not known to need it or not.
            lambda: json.loads(keyring(new, "retire", first, "--force").out)["lost"] == [],
            "key that is not needed",
            20,
        )
