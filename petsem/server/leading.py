"""Taking up the leader's role: from the files as the last run left them to a writer that serves.

Guarantees: what is in the WAL and not in the log is logged before this start's epoch begins, and
the epoch's own transaction is in the log before anything else is written. A log branch that a
restored database no longer has is saved under `lost/` before it is cut. A promotion is settled when
all that is done: what failed before that can be undone, because nobody was answered yet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from functools import partial

import apsw
import structlog

from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.replication.drivers.capture_start import begin_capture, cut_what_is_beyond
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError
from petsem.replication.drivers.wal_tail import WalLost
from petsem.replication.steps import ROLE_SETTLE, Reached, nothing
from petsem.server import sql
from petsem.server.check import check_start, quick_check
from petsem.server.config import Config
from petsem.server.database import open_reader, read_position, read_refusal
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.leadership import next_epoch, open_epoch, settle
from petsem.server.schema import refuse_newer
from petsem.server.space import Space
from petsem.server.writer import Writer

log = structlog.get_logger(__name__)


def take_up(
    writer: Writer,
    datadir: DataDir,
    identity: NodeIdentity,
    config: Config,
    space: Space,
    now_ms: int,
    *,
    beyond: int | None = None,
    reached: Reached = nothing,
) -> tuple[apsw.Connection, Capture]:
    """On the helper thread: the writing connection in this start's epoch, and what captures it.
    `beyond`: a replica is promoted, to an epoch beyond that.

    Raises as `open_epoch` does, and `unavailable` if the log cannot be written.
    """
    db = writer.open()
    capture: Capture | None = None
    try:
        if beyond is None:
            # Who is promoted was looked at before, and may be bound to less than it has.
            check_start(db, datadir, identity)
        capture = _capture(db, datadir, writer, now_ms)
        addresses = (
            str(config.http.bind),
            str(config.grpc.bind),
            str(config.peer.advertise or config.peer.bind),
        )
        begin = partial(
            open_epoch,
            db,
            datadir,
            identity.node_id,
            now_ms,
            addresses,
            beyond=beyond,
            reached=reached,
        )
        try:
            position = begin()
        except PetsemError as e:
            if e.code is not Code.UNAVAILABLE or not space.low:
                raise
            # A node with a full disk can still serve reads; what the ballast held is for this.
            space.exhausted()
            position = begin()
        capture.committed(frames_in_wal(db), position, now_ms)
        _write(capture)
        reached(ROLE_SETTLE)
        settle(datadir)
    except BaseException:
        if capture is not None:
            with contextlib.suppress(OSError):
                capture.close()
        db.close(True)
        raise
    return db, capture


def check_fit(datadir: DataDir, identity: NodeIdentity, beyond: int) -> None:
    """On the helper thread: whether this replica could lead, as far as that can be told while it
    still follows. Raises `corrupt`, `conflict` or `unavailable` with what is in the way."""
    # A new connection: those of the pool have in their memory what may be gone from the disk.
    with contextlib.closing(open_reader(datadir.database)) as db:
        try:
            refuse_newer(db)
            problems = quick_check(db, identity).problems
            at = None if problems else read_position(db)
        except apsw.Error as e:
            raise read_refusal(e) or e from e
    if at is None:
        raise PetsemError(Code.CORRUPT, f"{problems[0]}; run: petsem check {datadir.path}")
    state = datadir.read_state()
    next_epoch(max(at.epoch, state.bound_epoch, beyond), state)
    if datadir.log.exists() and not os.access(datadir.log, os.R_OK | os.W_OK | os.X_OK):
        raise _unwritable()


def forget_epoch(datadir: DataDir, position: Position) -> None:
    """On the helper thread: take what an unfinished promotion wrote out of the log again. Its
    database is back at `position`."""
    try:
        with contextlib.closing(TransactionLog.open(datadir.log)) as transactions:
            end = transactions.end
            if end is not None and end.txid > position.txid:
                cut_what_is_beyond(transactions, position, [], lambda _: None)
    except OSError as e:
        raise _unwritable() from e


def log_what_is_left(writer: Writer, datadir: DataDir, now_ms: int) -> None:
    """On the helper thread: the WAL of a node that led last into the log, without leading again."""
    db = writer.open()
    try:
        capture = _capture(db, datadir, writer, now_ms)
        try:
            capture.finish()
        finally:
            capture.close()
    except OSError as e:
        raise _unwritable() from e
    finally:
        db.close(True)


def frames_in_wal(db: apsw.Connection) -> int:
    """How many frames SQLite counts as committed."""
    frames: int = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)[0]
    return max(0, frames)


def _capture(db: apsw.Connection, datadir: DataDir, writer: Writer, now_ms: int) -> Capture:
    epochs = [
        (epoch, first)
        for epoch, first in sql.rows(db, "SELECT epoch, first_txid FROM epochs ORDER BY epoch")
    ]
    try:
        # Whoever deleted the log gets a new one, which begins with a snapshot.
        datadir.log.mkdir(mode=0o700, exist_ok=True)
        transactions = TransactionLog.open(datadir.log, reached=writer.logging.reached)
        _report(transactions)
        return begin_capture(
            datadir.database,
            datadir.path,
            transactions,
            read_position(db),
            epochs,
            frames=frames_in_wal(db),
            at_ms=now_ms,
            save_lost=partial(_save_lost, transactions, datadir),
            anew=_report_anew,
            reached=writer.logging.reached,
        )
    except WalLost as e:
        raise unavailable("another process changes the database; end it") from e
    except OSError as e:
        raise _unwritable() from e


def _write(capture: Capture) -> None:
    try:
        capture.write(merged=False)
        capture.log.sync()
    except OSError as e:
        raise _unwritable() from e


def _unwritable() -> PetsemError:
    return unavailable("the transaction log in ltx/ cannot be written; see the node's disk")


def _save_lost(transactions: TransactionLog, datadir: DataDir, fork: Position) -> None:
    """Keep what the log has beyond the database. It may be cut off and done again."""
    end = transactions.end
    kept = datadir.lost / f"{fork}-to-{end}"
    if not kept.exists():
        part = kept.with_name(kept.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700, parents=True)
        try:
            transactions.copy_range(fork.txid, part)
        except LogError as e:
            # What comes before the damage is kept; its bytes are in the log's quarantine.
            log.error("branch_damaged", error=str(e))
        part.rename(kept)
    log.error(
        "branch_lost",
        fork=str(fork),
        end=str(end),
        kept_in=str(kept.relative_to(datadir.path)),
        message="the log went beyond the database, which was restored from an older copy",
    )


def _report_anew(why: str) -> None:
    log.warning(
        "log_began_anew",
        reason=why,
        message="the log begins anew, and replicas that lack what it had take a snapshot",
    )


def _report(transactions: TransactionLog) -> None:
    for damage in transactions.report.damage:
        log.error("log_damaged", damage=str(damage))
