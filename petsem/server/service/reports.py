"""What nodes say of themselves, read: as rows of `status`, and as guards of the keyring.

Guarantees: what a node did not say is None, never 0. A report is as old as it is: of a node that is
not heard any more it is shown where it was and how long ago that was, and no lag. Who leads is what
this node knows, not what anybody says of himself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.model import Position
from petsem.server.replica.lost_keks import EVERY
from petsem.server.store.nodes import NodeRow
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf

BEHIND_MS: Final = 10_000


def held_keks(keyring: Keyring) -> list[pb.KekIds]:
    """The ids of the KEKs that this node holds, by purpose, as it reports them."""
    return [pb.KekIds(purpose=each.value, ids=keyring.ids(each)) for each in Purpose]


def lacking_kek(
    reports: Mapping[str, pb.NodeReport], purpose: Purpose, kek_id: bytes
) -> list[pb.NodeReport]:
    """Nodes that work with keys of this purpose and would no longer without this one. A node that
    holds none of them, as one that never leads holds none of `cluster`, loses nothing."""
    return [
        report
        for _, report in sorted(reports.items())
        for keks in report.keks
        if keks.purpose == purpose.value and keks.ids and kek_id not in keks.ids
    ]


def needed_by_lost(
    reports: Iterable[pb.NodeReport], purpose: Purpose, kek_id: bytes
) -> list[pb.NodeReport]:
    """Nodes that keep a lost branch in which this KEK wraps data keys, or may."""
    return [
        report
        for report in reports
        for keks in report.lost_keks
        if keks.purpose == purpose.value and (kek_id in keks.ids or EVERY in keks.ids)
    ]


def nodes_behind(reports: Mapping[str, pb.NodeReport]) -> list[pb.NodeReport]:
    """Nodes whose data may be so old that it needs keys which newer data does not."""
    return [
        report
        for _, report in sorted(reports.items())
        if not report.HasField("lag_ms") or report.lag_ms > BEHIND_MS
    ]


def as_status(
    report: pb.NodeReport,
    row: NodeRow,
    *,
    ago_ms: int,
    heard: bool,
    leader: str | None,
    leader_at: Position | None,
) -> http.NodeStatus:
    """A member as it said `ago_ms` ago that it is, held against where the leader is. `heard`: word
    of it comes here now. `leader` is the node that leads, as far as this one knows."""
    applied = position_from_protobuf(report.applied) if report.HasField("applied") else None
    leads = report.node == leader
    warnings = list(report.warnings)
    if not heard:
        warnings.insert(0, f"it was last heard {ago_ms // 1000} s ago")
    return http.NodeStatus(
        node=report.node,
        region=row.region,
        role="leader" if leads else "replica",
        epoch=None if applied is None else applied.epoch,
        position=None if applied is None else str(applied),
        lag_transactions=_behind(applied, leader_at) if heard else None,
        lag_ms=report.lag_ms if heard and report.HasField("lag_ms") else None,
        last_error=report.last_error or None,
        version=report.version or None,
        ready=report.ready and heard,
        warnings=warnings,
        http=row.http,
        grpc=row.grpc,
        source=None if leads else report.source or None,
        heard_ms_ago=ago_ms,
    )


def unheard(row: NodeRow) -> http.NodeStatus:
    """A member of which this node has heard nothing."""
    return http.NodeStatus(
        node=row.id,
        region=row.region,
        role="unknown",
        epoch=None,
        position=None,
        lag_transactions=None,
        lag_ms=None,
        last_error=None,
        version=None,
        ready=False,
        warnings=["it is not heard from here"],
        http=row.http,
        grpc=row.grpc,
    )


def _behind(applied: Position | None, leader_at: Position | None) -> int | None:
    if applied is None or leader_at is None:
        return None
    return max(0, leader_at.txid - applied.txid)
