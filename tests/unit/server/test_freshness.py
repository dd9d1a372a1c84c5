"""How fresh an answer says that it is."""

from __future__ import annotations

import msgspec
import pytest

from petsem.clock import ManualClock
from petsem.model import Position, Role
from petsem.server.cluster_view import ClusterView
from petsem.server.freshness import HEARD_MS, FreshnessSource, to_http
from petsem.wire import petsem_pb2 as pb


def source(clock: ManualClock, role: Role = Role.REPLICA) -> FreshnessSource:
    """A node that has data."""
    return FreshnessSource("ams-1", "ams", clock, ClusterView(clock, role=role, synced=True))


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("checksum", [None, 7])
def test_the_quick_way_says_the_same(role: Role, checksum: int | None) -> None:
    """`encoded` and `protobuf` are one message, however often the source was asked before."""
    clock = ManualClock()
    asked = source(clock)
    for txid in (1, 2**33, 5):
        clock.advance(1.5)
        asked.view.role = Role.LEADER if txid == 1 else role
        position = Position(txid % 3, txid, checksum)
        assert pb.Freshness.FromString(asked.encoded(position)) == asked.protobuf(position)


def test_a_node_alone_leads_and_lags_behind_nobody() -> None:
    """That is what a source without a view says."""
    asked = FreshnessSource("ams-1", "ams", ManualClock())
    leading = asked.protobuf(Position(1, 2))
    assert (leading.role, leading.lag_ms, leading.HasField("lag_ms")) == (pb.LEADER, 0, True)
    assert leading.replicated == pb.Position(epoch=1, txid=2)
    assert not asked.leader_is_quiet()


def test_a_replica_that_heard_nothing_knows_nothing() -> None:
    """What is unknown is absent, never 0, in both forms."""
    asked = source(ManualClock())
    following = asked.protobuf(Position(1, 2))
    for field in ("lag_ms", "leader_seen_ms_ago", "replicated"):
        assert not following.HasField(field)
    body = to_http(asked.at(Position(1, 2)))
    assert (body.lag_ms, body.leader_seen_ms_ago, body.replicated) == (msgspec.UNSET,) * 3
    assert asked.leader_is_quiet()


def test_a_replica_says_how_old_its_data_may_be() -> None:
    """The lag counts from when it had all of the leader's, which may be before it was last
    heard."""
    clock = ManualClock()
    asked = source(clock)
    view = asked.view
    view.has_applied(Position(1, 5))
    view.leader_heard(Position(1, 5), ago_ms=100, epoch_seen=1)
    clock.advance(2)
    view.leader_heard(Position(1, 6), ago_ms=0, epoch_seen=1)
    view.replicated = Position(1, 4)
    clock.advance(1)
    found = asked.at(Position(1, 5))
    assert (found.lag_ms, found.leader_seen_ms_ago, found.replicated) == (
        3_100, 1_000, Position(1, 4),
    )  # fmt: skip


def test_a_lag_beyond_the_field_is_the_most_that_it_holds() -> None:
    """Fifty days without the leader are answered, not an error."""
    clock = ManualClock()
    asked = source(clock)
    asked.view.remember_leader(0)
    clock.advance(50 * 24 * 3600)
    assert asked.protobuf(Position(1, 2)).lag_ms == 2**32 - 1


@pytest.mark.parametrize(("ago_ms", "quiet"), [(0, False), (HEARD_MS, False), (HEARD_MS + 1, True)])
def test_a_leader_is_quiet_when_it_was_not_heard_lately(ago_ms: int, quiet: bool) -> None:
    """Three heartbeats may be missed."""
    asked = source(ManualClock())
    asked.view.remember_leader(ago_ms)
    assert asked.leader_is_quiet() is quiet
