"""How fresh an answer says that it is."""

from __future__ import annotations

import pytest

from petsem.clock import ManualClock
from petsem.model import Position, Role
from petsem.server.freshness import FreshnessSource
from petsem.wire import petsem_pb2 as pb


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("checksum", [None, 7])
def test_the_quick_way_says_the_same(role: Role, checksum: int | None) -> None:
    """`encoded` and `protobuf` are one message, however often the source was asked before."""
    clock = ManualClock()
    source = FreshnessSource("ams-1", "ams", clock)
    for txid in (1, 2**33, 5):
        clock.advance(1.5)
        source.role = Role.LEADER if txid == 1 else role
        position = Position(txid % 3, txid, checksum)
        assert pb.Freshness.FromString(source.encoded(position)) == source.protobuf(position)


def test_a_leader_lags_behind_nobody_and_a_replica_knows_nothing() -> None:
    """What is unknown is absent, never 0."""
    source = FreshnessSource("ams-1", "ams", ManualClock())
    leading = source.protobuf(Position(1, 2))
    assert (leading.lag_ms, leading.HasField("lag_ms")) == (0, True)
    source.role = Role.REPLICA
    following = source.protobuf(Position(1, 2))
    assert not following.HasField("lag_ms")
    assert not following.HasField("replicated")
