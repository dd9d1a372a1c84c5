"""What other nodes say of themselves, as `status` shows it and as the keyring heeds it."""

from __future__ import annotations

import pytest

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek
from petsem.model import Position
from petsem.server.service.reports import (
    BEHIND_MS,
    as_status,
    held_keks,
    lacking_kek,
    nodes_behind,
    unheard,
)
from petsem.server.store.nodes import NodeRow
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb

ROW = NodeRow("fra-1", "fra", False, "fra:7400", "fra:7401", "fra:7402", 0)


def report(**fields: object) -> pb.NodeReport:
    """Word of a replica."""
    said = pb.NodeReport(
        node="fra-1",
        region="fra",
        version="0.2.0",
        applied=pb.Position(epoch=2, txid=30, checksum=9),
        lag_ms=400,
        source="ams-1",
        ready=True,
        warnings=["w"],
    )
    said.MergeFrom(pb.NodeReport(**fields))  # type: ignore[arg-type]
    return said


def shown(said: pb.NodeReport, **other: object) -> http.NodeStatus:
    """As a row, half a second later."""
    known = {"ago_ms": 500, "heard": True, "leader": "ams-1", "leader_at": Position(2, 34)}
    return as_status(said, ROW, **{**known, **other})  # type: ignore[arg-type]


def test_a_replica_as_it_says_it_is() -> None:
    """With its addresses, whom it follows, and how far it is behind."""
    assert shown(report()) == http.NodeStatus(
        node="fra-1",
        region="fra",
        role="replica",
        epoch=2,
        position="00000002-000000000000001e-0000000000000009",
        lag_transactions=4,
        lag_ms=400,
        last_error=None,
        version="0.2.0",
        ready=True,
        warnings=["w"],
        http="fra:7400",
        grpc="fra:7401",
        source="ams-1",
        heard_ms_ago=500,
    )


def test_what_it_does_not_say_is_unknown() -> None:
    """Nothing becomes 0 that nobody said; its region is the one that it joined with."""
    found = shown(pb.NodeReport(node="fra-1", region="elsewhere"), ago_ms=0)
    assert (found.epoch, found.position, found.lag_ms, found.lag_transactions) == (None,) * 4
    assert (found.version, found.source, found.heard_ms_ago, found.ready) == (None, None, 0, False)
    assert found.region == "fra"
    assert shown(report(), leader_at=None).lag_transactions is None


@pytest.mark.parametrize("leader", ["ams-1", None])
def test_who_leads_is_known_here(leader: str | None) -> None:
    """Whatever a node says of itself; the leader follows nobody."""
    assert shown(pb.NodeReport(node="fra-1"), leader=leader).role == "replica"
    found = shown(report(), leader="fra-1")
    assert (found.role, found.source) == ("leader", None)


def test_a_node_that_fell_silent() -> None:
    """Its last word is shown with its age, without a lag, and it is not ready, leader or not."""
    for leader in ("ams-1", "fra-1"):
        late = shown(report(lag_ms=0), ago_ms=10_500, heard=False, leader=leader)
        assert (late.ready, late.heard_ms_ago) == (False, 10_500)
        assert (late.lag_ms, late.lag_transactions) == (None, None)
        assert late.position == "00000002-000000000000001e-0000000000000009"
        assert late.warnings == ["it was last heard 10 s ago", "w"]


def test_a_member_that_is_not_heard() -> None:
    """It has a row, and nothing else."""
    found = unheard(ROW)
    assert (found.node, found.role, found.ready, found.position) == (
        "fra-1",
        "unknown",
        False,
        None,
    )
    assert (found.http, found.grpc, found.lag_ms, found.heard_ms_ago) == (
        "fra:7400", "fra:7401", None, None,
    )  # fmt: skip


def test_who_lacks_a_key() -> None:
    """Those that use others of its purpose; who holds none of them has nothing to lose."""
    has, lacks, none = (
        report(node=name, keks=[pb.KekIds(purpose="tokens", ids=ids)])
        for name, ids in (("a", [b"old", b"new"]), ("b", [b"old"]), ("c", []))
    )
    other = report(node="d", keks=[pb.KekIds(purpose="secrets", ids=[b"old"])])
    reports = {each.node: each for each in (none, lacks, other, has)}
    assert lacking_kek(reports, Purpose.TOKENS, b"new") == [lacks]


def test_who_is_behind() -> None:
    """Whoever may still need what was rewrapped; an unknown lag counts."""
    behind = report(node="b", lag_ms=BEHIND_MS + 1)
    unknown = pb.NodeReport(node="c")
    reports = {"a": report(lag_ms=BEHIND_MS), "b": behind, "c": unknown}
    assert nodes_behind(reports) == [behind, unknown]


def test_held_keys_by_purpose() -> None:
    """Ids only."""
    key = generate_kek()
    assert held_keks(Keyring().with_key(Purpose.TOKENS, key)) == [
        pb.KekIds(purpose="secrets"),
        pb.KekIds(purpose="tokens", ids=[key.id]),
        pb.KekIds(purpose="cluster"),
    ]
