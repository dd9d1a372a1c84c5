"""Many revocations at once, on real nodes: at once on the leader, and soon everywhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from petsem.model import Position
from tests.support.daemon import until
from tests.support.doors import Doors, in_seconds
from tests.support.fleet import Member, fleet
from tests.support.offline import nonce_of

MANY = "/v1/orgs/acme/revocations"
ACCESS = {"org": "acme", "app": "web", "action": "secrets:read"}
READS = "action = secrets:read"
SOON_S = 2.0
"""Within this time a replica refuses what the leader has ended."""


def verdict(node: Member, token: str) -> str:
    """`allowed`, or the reason why not."""
    with node.doors() as doors:
        told = doors.done("POST", "/v1/tokens/verify", {"token": token, "access": ACCESS})
    return "allowed" if told["allowed"] else str(told["reason"])


def fetched(node: Member, token: str) -> str | None:
    """None of a boot read that is answered, else the reason why not."""
    with node.doors() as doors:
        return doors.fetch("acme/web", token=token).reason


def ends(nodes: list[Member], *tokens: str) -> None:
    """Each is refused by the first of the nodes now, and by the others soon; for a check of it and
    for a boot read."""
    leader, *replicas = nodes
    for token in tokens:
        assert (verdict(leader, token), fetched(leader, token)) == ("REVOKED", "REVOKED")
    for node in replicas:
        for token in tokens:
            until(partial(_is_revoked, node, token), "its refusal", SOON_S)
            assert fetched(node, token) == "REVOKED"


def _is_revoked(node: Member, token: str) -> bool:
    return verdict(node, token) == "REVOKED"


def feed(doors: Doors, after: str) -> tuple[set[str], str]:
    """Ids in the org's feed past a position, and where it goes on."""
    told = doors.done("GET", f"/v1/revocations?org=acme&after={after}&wait_s=10")
    return {each["token_id"] for each in told["revocations"]}, str(told["next"])


def test_of_a_subject_an_app_and_an_org(tmp_path: Path) -> None:
    """What was minted on their authority ends with them; the others stay until they are meant; the
    feed of another node names each. A replica takes the call, too, and passes it on."""
    with fleet(tmp_path, 1) as cluster, cluster.leader.doors() as leader:
        replica = cluster.replicas[0]
        parent = leader.mint("acme", "action in tokens:mint, secrets:read", kind="service")
        child = leader.mint("acme", READS, token=parent)
        of_web = leader.mint("acme", "app in api, web", READS)
        of_org = leader.mint("acme", READS)
        tokens = {"parent": parent, "child": child, "of web": of_web, "of org": of_org}
        ids = {what: nonce_of(token).hex() for what, token in tokens.items()}
        cluster.converged()
        assert {verdict(replica, token) for token in tokens.values()} == {"allowed"}
        assert {fetched(replica, token) for token in tokens.values()} == {None}
        with replica.doors() as doors:
            begin = doors.done("GET", "/v1/revocations?org=acme")["next"]
            of_parent = {"subject": f"service:{ids['parent']}"}
            told = leader.done("POST", MANY, of_parent, Idempotency_Key="k")
            assert told["revoked"] == 1
            assert told["durability"]["met"], told
            assert told["durability"]["replicated_to"] == [replica.node_id]
            ends(cluster.nodes, parent, child)
            assert leader.done("POST", MANY, of_parent, Idempotency_Key="k") == told
            found, following = feed(doors, begin)
            assert found == {ids["parent"], ids["child"]}
            assert [verdict(replica, each) for each in (of_web, of_org)] == ["allowed"] * 2

            ran = doors.cli("token", "revoke", "--app", "acme/web")
            assert (ran.code, ran.out) == (
                0,
                b"1 token is revoked now: all that may act for acme/web\n",
            )
            ends(cluster.nodes, of_web)
            found, following = feed(doors, following)
            assert found == {ids["of web"]}
            assert verdict(replica, of_org) == "allowed"

            ran = leader.cli("token", "revoke", "--all", "--org", "acme")
            assert (ran.code, ran.out) == (2, b"")
            assert "--yes acme" in ran.err
            ran = leader.cli("token", "revoke", "--all", "--org", "acme", "--yes", "acme")
            # The child had no row of its own before: it ended with its parent.
            assert (ran.code, ran.out) == (0, b"2 tokens are revoked now: all of acme\n")
            ends(cluster.nodes, *tokens.values())
            assert verdict(replica, cluster.operator) == "allowed"
            listed = doors.done("GET", "/v1/orgs/acme/tokens")["tokens"]
            assert {each["state"] for each in listed} == {"revoked"}


def test_more_than_one_transaction_holds(tmp_path: Path) -> None:
    """A thousand and some: the answer comes when the last has ended, and a reader of the feed, who
    asks page by page, is told of each."""
    many = 1_050
    with fleet(tmp_path, 1) as cluster, cluster.leader.doors() as leader:
        body = {"org": "acme", "kind": "host", "caveats": [READS, in_seconds(3_600)]}
        before = Position.parse(leader.done("GET", "/v1/revocations?org=acme")["next"])
        ids = {leader.done("POST", "/v1/tokens", body)["id"] for _ in range(many)}
        last: dict[str, Any] = leader.done("POST", "/v1/tokens", body)
        told = leader.done("POST", MANY, {"all": True})
        assert told["revoked"] == many + 1
        ends(cluster.nodes, last["token"])
        end = Position.parse(told["position"])
        cluster.replicas[0].has(end)
        with cluster.replicas[0].doors() as doors:
            found: set[str] = set()
            at = str(before)
            while Position.parse(at).txid < end.txid:
                some, at = feed(doors, at)
                assert len(some) <= many
                found |= some
        assert found == ids | {last["id"]}


def test_across_orgs(tmp_path: Path) -> None:
    """A token of one org, with all that its key can do, ends nothing of another's."""
    with fleet(tmp_path, 0) as cluster, cluster.leader.doors() as doors:
        doors.furnish("beta", "web")
        victim = doors.mint("acme", "app = web", READS)
        of_victim = {"subject": f"org:{nonce_of(victim).hex()}"}
        for body, own in (({"all": True}, 1), ({"app": "web"}, 0), (of_victim, 0)):
            asker = doors.mint("beta", "action in tokens:revoke, tokens:mint, tokens:list")
            answer = doors.ask("POST", MANY, body, token=asker)
            assert answer.error == (403, "denied", "WRONG_ORG")
            told = doors.done("POST", "/v1/orgs/beta/revocations", body, token=asker)
            assert told["revoked"] == own
        assert verdict(cluster.leader, victim) == "allowed"
