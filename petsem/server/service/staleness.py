"""How old what is answered may be: an org's bound for boot reads, the asker's for verdicts.

Guarantees: on the leader both cost a comparison and never refuse. A boot read is served as long as
the leader was heard within the org's bound; a verdict only while the data is known to be no older
than the asker takes. What is not known counts as too old.
"""

from __future__ import annotations

from typing import Final

import apsw

from petsem.model import Position
from petsem.server.freshness import FreshnessSource
from petsem.server.service.settings import boot_max_staleness_s
from petsem.server.stale import leader_unheard

VERIFY_MAX_STALENESS_S: Final = 30


def check_boot(
    db: apsw.Connection, freshness: FreshnessSource, org_id: int, position: Position
) -> None:
    """Raise `stale` if the leader was not heard for longer than the org allows."""
    if not freshness.leader_is_quiet():
        return
    ago_ms = freshness.view.leader_seen_ms_ago()
    bound_s = boot_max_staleness_s(db, org_id)
    if ago_ms is None or ago_ms > bound_s * 1000:
        raise leader_unheard(position, ago_ms, bound_s)


def check_verdict(freshness: FreshnessSource, bound_s: int | None, position: Position) -> None:
    """Raise `stale` if the data is older than `bound_s`, or than is allowed when nobody says."""
    age_ms = freshness.view.lag_ms()
    bound_s = VERIFY_MAX_STALENESS_S if bound_s is None else bound_s
    if age_ms is None or age_ms > bound_s * 1000:
        raise leader_unheard(position, age_ms, bound_s)
