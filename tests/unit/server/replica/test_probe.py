"""Asking whether somebody else leads: what is believed of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from petsem import limits
from petsem.model import Role
from petsem.replication.session.follow import Own
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.probe import NOBODY, newest_epoch
from tests.support.feeding import CLUSTER, Feeder, Source, _Own, feeding

AHEAD = limits.EPOCHS_AHEAD_MAX


async def asked(*nodes: Feeder, known: int) -> Any:
    """What a leader in epoch `known` hears from these, and from one that does not answer."""
    own = _Own("fra-1", nodes[0].authority.issue("fra-1"))
    candidates = [Candidate(node.address) for node in nodes] + [Candidate("127.0.0.1:1")]
    return await newest_epoch(
        candidates,
        own,  # type: ignore[arg-type]
        Own("fra-1", CLUSTER, None, known),
        "fra",
    )


@pytest.mark.parametrize(
    ("begun", "word", "led"),
    [
        (3, 3, (3, "here")),
        (3, 9, (9, "")),
        (3, 3 + AHEAD, (3 + AHEAD, "")),
        (3, 4 + AHEAD, NOBODY),
        (3, limits.EPOCH_MAX, NOBODY),
        (3 + 2 * AHEAD, 0, (3 + 2 * AHEAD, "here")),
        (4 + 2 * AHEAD, 0, NOBODY),
        (limits.EPOCH_MAX, 0, NOBODY),
    ],
)
async def test_what_is_believed(
    tmp_path: Path, begun: int, word: int, led: tuple[int, str]
) -> None:
    """An epoch that somebody has heard of within a bound, one of a branch within twice that; who
    says more has said nothing."""
    source = Source(tmp_path)
    async with feeding(source) as node:
        source.epochs = [(begun, 1, "here")]
        node.view.role, node.view.epoch_seen = Role.REPLICA, word
        assert await asked(node, known=3) == led
