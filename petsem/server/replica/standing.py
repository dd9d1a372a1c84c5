"""A replica's database whose log is damaged or gone, and which answers all the same.

Guarantees: what is answered from is whole: no power was lost since it was, or all of its pages
together have the checksum that the log, as far as it holds, has for that position. Then the log
goes on from there, the node acknowledges no more than that, and gets what it lacks when somebody
can be reached. Else nothing is answered from it, and `problem` says so. It reads the whole
database, which only a start with a damaged log does.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor
from typing import Final

import structlog

from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import DamagedRecord, LogError
from petsem.replication.ltx import LtxError
from petsem.replication.page_set import NotApplicable
from petsem.replication.rolling import PageChecksums
from petsem.server.datadir import CLOSED, DOUBTED, DataDir
from petsem.server.replica.offload import offload
from petsem.server.replica.replaying import Recovered, known_at, replay_to, settle
from petsem.server.replica.whole import remember_whole, sums_of

log = structlog.get_logger(__name__)

_ATTEMPTS: Final = 20
"""Each but the last finds another damaged segment."""


async def stand(
    found: Recovered,
    synced: int | None,
    place: Position | None,
    trusted: bool,
    datadir: DataDir,
    helper: Executor,
) -> None:
    """See whether the database, which is on the disk up to `synced` and says that it is at `place`,
    can be shown to be whole there, or where the log brings it. Then that is where `found` is, and
    else it keeps its problem. `trusted`: no page of it is torn."""
    why = found.problem
    if synced is None or (place is not None and place.txid < synced):
        # Nothing is known of it, or it is another file than this node wrote.
        return
    # The next start finds a log without what was damaged, and must not find it good.
    await offload(helper, remember_whole, datadir, DOUBTED)
    if place is not None:
        await _stay(found, place, trusted, datadir, helper)
    start = await offload(helper, known_at, found.log, synced)
    if found.at is None and start is not None:
        await _bring(found, start, datadir, helper)
    if found.at is not None:
        found.problem = None
        log.warning(
            "database_is_whole",
            reason=why,
            message=f"the database is whole at {found.at}, and the log goes on from there",
        )


async def _stay(
    found: Recovered, place: Position, trusted: bool, datadir: DataDir, helper: Executor
) -> None:
    """Begin where the database says that it is, if it is whole there."""
    table = await offload(helper, sums_of, datadir.database, found.applier.vfs)
    known = await offload(helper, known_at, found.log, place.txid)
    if table is None:
        return
    at = dataclasses.replace(place, checksum=table.rolling)
    if trusted if known is None else known == at:
        end = await _go_on(found, at, datadir, helper)
        await offload(helper, _begin_at, found, end, table if end == at else None, datadir)


async def _bring(found: Recovered, start: Position, datadir: DataDir, helper: Executor) -> None:
    """Begin where the log brings a database that is on the disk up to `start`, if no page of it
    is of a later transaction, which the log does not have any more."""
    end = await _go_on(found, start, datadir, helper)
    if end == start:
        return
    table = await offload(helper, sums_of, datadir.database, found.applier.vfs)
    if table is not None and table.rolling == end.checksum:
        await offload(helper, _begin_at, found, end, table, datadir)


async def _go_on(found: Recovered, at: Position, datadir: DataDir, helper: Executor) -> Position:
    """Replay what holds of the log behind `at`; where the database is then."""
    for _ in range(_ATTEMPTS):
        end = await offload(helper, _holds_to, found.log, at)
        if end == at:
            break
        try:
            await replay_to(found, at, end, datadir, helper)
        except DamagedRecord as e:
            await offload(helper, found.log.quarantine, e.txid)
        except (LogError, LtxError, NotApplicable) as e:
            log.error("replay_failed", after=str(at), error=str(e))
            break
        else:
            return end
    return at


def _holds_to(transactions: TransactionLog, at: Position) -> Position:
    """The end of what the log has behind `at` without a gap; `at` itself if it does not have it."""
    end = transactions.end
    if end is None or known_at(transactions, at.txid) != at:
        return at
    return next((gap.after for gap in transactions.gaps if gap.after.txid >= at.txid), end)


def _begin_at(
    found: Recovered, at: Position, table: PageChecksums | None, datadir: DataDir
) -> None:
    """Let the log end where the database is."""
    settle(found, datadir, at)
    # A crash from here on finds a database that is on the disk, whatever the log is then.
    remember_whole(datadir, CLOSED)
    for gap in found.log.gaps:
        if gap.until.txid <= at.txid:
            found.log.drop_before(gap.until.txid)
    if found.log.gaps or found.log.end != at:
        found.log.reset(at)
    if table is None:
        assert at.checksum is not None
        table = PageChecksums.all_unknown(found.applier.size_pages(), at.checksum)
    found.table, found.at = table, at
