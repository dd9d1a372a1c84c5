"""The transaction log: whole LTX files in preallocated segments (`docs/formats/log.md`).

Guarantees: what was synced is there after a crash, byte for byte, or is reported as damage; what
was only appended may be gone, from some record on. That somebody deleted its files is noticed at
the next sync. What is cut or dropped is gone from the disk
when the call returns. Damage is never cut: it goes to `quarantine/` and leaves a gap.

For one thread at a time, but any number may read (`LogReader`). It does not decode LTX, does not
sync by itself except where a segment ends, and does not decide what to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petsem import limits
from petsem.model import Position
from petsem.replication.drivers.log_appender import Appender, follows, header_of, post_checksum
from petsem.replication.drivers.log_builder import Builder
from petsem.replication.drivers.log_export import export
from petsem.replication.drivers.log_files import SYSTEM, Descriptor, LogOps
from petsem.replication.drivers.log_recovery import Damage, recover, repair
from petsem.replication.drivers.log_scan import Scanner
from petsem.replication.drivers.log_segment import Segment, Tail
from petsem.replication.drivers.log_store import Store
from petsem.replication.drivers.log_types import LogGap
from petsem.replication.segment import ORIGIN, Kind
from petsem.replication.steps import Reached, nothing


class TransactionLog(Appender):
    """The log of a node."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        durable_txid: int = 0,
        segment_bytes: int = limits.LOG_SEGMENT_BYTES,
        reached: Reached = nothing,
        ops: LogOps = SYSTEM,
    ) -> TransactionLog:
        """The log in `directory`, after whatever ended its last use; see `report`.

        `durable_txid` is a transaction up to which the caller knows the log to have been synced:
        what does not hold before it is damage and no tear. OSError if the disk does not let the
        log be set right; nothing is lost by trying again.
        """
        store = Store(directory, ops=ops, reached=reached)
        segments, report = recover(store, durable_txid)
        return cls(store, segments, report, segment_bytes)

    def reset(self, base: Position | None = None) -> None:
        """Begin anew without records at `base` (default: the empty database), durably."""
        # What an earlier error left undone is void with the rest.
        self._store.make_directory()
        self._store.settle()
        fresh = self._store.create(base or ORIGIN, self._segment_bytes, Kind.RESET)
        self._store.publish(fresh)
        self._replace((fresh,))

    def cut_after(self, position: Position) -> None:
        """Drop all that follows `position`, durably; `LogGap` if the log never was there."""
        self._mend()
        known = self.position_of(position.txid)
        if known is None or (position.checksum is not None and known != position):
            raise LogGap(f"{position} is not a position of this log")
        with self._changing():
            while self._segments[-1].base.txid > known.txid or (
                len(self._segments) > 1 and self._segments[-2].end == known
            ):
                self._drop_last()
            segment = self._segments[-1]
            if segment.end != known:
                self._shorten(segment, known)

    def copy_range(self, after_txid: int, directory: Path) -> list[Path]:
        """Save all that follows `after_txid` as `.ltx` files in `directory`, on the disk."""
        copied = export(self, directory, after_txid=after_txid, ops=self._store.ops)
        return [path for _, path in copied]

    def drop_before(self, txid: int) -> None:
        """Remove the segments all of whose records end at or before `txid`, but the last one."""
        self._mend()
        while len(self._segments) > 1 and self._segments[0].end.txid <= txid:
            dropped, *rest = self._segments
            self._segments = tuple(rest)
            self._store.remove(dropped.path)

    def quarantine(self, txid: int) -> tuple[Damage, ...]:
        """Take what is damaged out of the segment that should hold `txid`.

        What holds behind it stays; between is a gap (`gaps`), to be filled or cut. Nothing happens
        if the whole segment holds after all.
        """
        self._mend()
        segment = self._holding(txid)
        if segment is None:
            raise LogGap(f"transaction {txid} is not in the log")
        if segment is self._growing:
            self._retire()
        file = Descriptor.open(segment.path)
        scan = Scanner(file, segment.name.number, segment.tail.offset, all_synced=True).scan()
        if not scan.damaged:
            return ()
        at = self._segments.index(segment)
        before, after = self._segments[:at], self._segments[at + 1 :]
        until_txid = after[0].base.txid if after else None
        with self._changing():
            repaired = repair(self._store, segment.path, segment.name, scan, until_txid)
            self._segments = (*before, *repaired.segments, *after)
            self._synced = self._segments[-1].tail if self._segments else None
            if repaired.old is None:
                self._store.sync_names()
            else:
                self._spoilt = repaired.old
                self._mend()
        return tuple(repaired.damage)

    def fill(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Put records (epoch, LTX file) that were fetched again into the gap where they belong.

        `LogGap` if they do not continue from its beginning, or do not fit its end.
        """
        assert records
        self._mend()
        headers = [(epoch, header_of(data), data) for epoch, data in records]
        first, last = headers[0][1].min_txid, headers[-1][1].max_txid
        gap = next((gap for gap in self.gaps if gap.after.txid + 1 == first), None)
        if gap is None or last > gap.until.txid:
            raise LogGap(f"there is no gap for transactions {first} to {last}")
        with Builder(self._store, gap.after) as builder:
            at = gap.after
            for epoch, header, data in headers:
                if not follows(at, epoch, header):
                    raise LogGap(f"transaction {header.min_txid} does not follow {at}")
                builder.add(epoch, header, (data,))
                at = Position(epoch, header.max_txid, post_checksum(data))
            if at.txid == gap.until.txid and at != gap.until:
                raise LogGap(f"{at} is not {gap.until}")
            built = builder.finish()
        place = sum(1 for each in self._segments if each.end.txid <= gap.after.txid)
        self._segments = (*self._segments[:place], built, *self._segments[place:])

    def close(self) -> None:
        """Sync, and use it no more."""
        self.sync()
        self._segments = ()

    def _drop_last(self) -> None:
        last = self._segments[-1]
        self._segments = self._segments[:-1]
        self._synced = self._segments[-1].tail
        self._store.remove(last.path)

    def _shorten(self, segment: Segment, end: Position) -> None:
        offset = segment.start
        for at, header in segment.headers(segment.open()):
            if header.max_txid > end.txid:
                break
            offset = at + header.span
        segment.tail = Tail(offset, end)
        segment.index = segment.index.until(offset)
        assert self._synced is not None
        if self._synced.offset > offset:
            self._synced = segment.tail
        self._spoilt = segment
        self._mend()
