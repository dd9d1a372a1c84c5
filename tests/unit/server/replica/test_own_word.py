"""A node's own report is always there, and never too long."""

from __future__ import annotations

import pytest

from petsem import limits
from petsem.crypto.keys import Purpose
from petsem.errors import unavailable
from petsem.server.replica.lost_keks import EVERY
from petsem.server.replica.own_word import described, fit
from petsem.server.service.reports import lacking_kek, needed_by_lost
from petsem.wire import petsem_pb2 as pb


def test_a_node_that_cannot_say_how_it_is() -> None:
    """Says that, and is not ready."""

    def paused() -> pb.NodeReport:
        raise unavailable("the node is changing its role")

    found = described(paused)
    assert (found.ready, len(found.warnings)) == (False, 1)
    assert described(lambda: pb.NodeReport(version="1")) == pb.NodeReport(version="1")


def test_what_fits_stays() -> None:
    """All of it."""
    report = pb.NodeReport(warnings=["w"], last_error="e", lag_ms=3)
    before = pb.NodeReport.FromString(report.SerializeToString())
    fit(report)
    assert report == before


@pytest.mark.parametrize("keys", [1, limits.KEYRING_MAX_KEYS])
def test_what_does_not_fit_is_cut_on_the_safe_side(keys: int) -> None:
    """Words first; then a key that is not named lacks, and a lost branch may need any."""
    ids = [number.to_bytes(32, "big") for number in range(keys)]
    report = pb.NodeReport(
        warnings=["w" * 9_000],
        last_error="e",
        keks=[pb.KekIds(purpose="tokens", ids=ids)],
        lost_keks=[pb.KekIds(purpose="tokens", ids=ids[:1]), pb.KekIds(purpose="secrets")],
    )
    fit(report)
    assert report.ByteSize() < limits.NODE_REPORT_MAX_BYTES - 500
    assert (len(report.warnings), report.last_error) == (1, "")
    lacking = lacking_kek({"a": report}, Purpose.TOKENS, ids[-1])
    assert bool(lacking) is (keys > 1)
    assert bool(needed_by_lost([report], Purpose.TOKENS, b"any")) is (keys > 1)
    assert needed_by_lost([report], Purpose.SECRETS, EVERY) == []
