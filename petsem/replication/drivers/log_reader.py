"""Reading the log: where it begins and ends, its records, and where the database stood when.

Guarantees: every record that is returned passed its CRC and is the one that was asked for. Safe
beside one thread that appends, cuts and drops: a reader sees the log as it was before or after.
Memory is bounded by what the caller asks for. It does not decode LTX.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from fastcrc import crc64

from petsem import limits
from petsem.model import Position
from petsem.replication.drivers.log_files import READ_CHUNK_BYTES, Descriptor
from petsem.replication.drivers.log_recovery import Report, survey
from petsem.replication.drivers.log_segment import DamagedAt, Segment, data_of
from petsem.replication.drivers.log_store import Store
from petsem.replication.drivers.log_types import (
    DamagedRecord,
    EpochRange,
    Gap,
    LogError,
    LogGap,
    LogRecord,
    RecordInfo,
    RecordTooLarge,
    SegmentInfo,
)
from petsem.replication.segment import HEADER_BYTES, RecordHeader, SegmentError


class LogReader:
    """A log, for reading only."""

    def __init__(self, segments: Sequence[Segment], report: Report) -> None:
        self._segments = tuple(segments)
        # Odd while something is cut: what looks damaged then is only gone.
        self._changes = 0
        self.report = report

    @classmethod
    def open_read_only(cls, directory: Path, *, thorough: bool = False) -> LogReader:
        """The log in `directory` as it is now; nothing is changed, and a node may be using it."""
        return cls(*survey(Store(directory), thorough=thorough))

    @property
    def base(self) -> Position | None:
        """The position before the first record; None if there is no log at all."""
        segments = self._segments
        return segments[0].base if segments else None

    @property
    def end(self) -> Position | None:
        """The position after the last record, or the base if there is none."""
        segments = self._segments
        return segments[-1].tail.end if segments else None

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What is missing between base and end."""
        return tuple(
            Gap(one.end, other.base)
            for one, other in pairwise(self._segments)
            if one.end != other.base
        )

    @property
    def size_bytes(self) -> int:
        """Size on the disk, preallocated room included."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def oldest_ms(self) -> int | None:
        """The time of the oldest record."""
        times = (segment.oldest_ms for segment in self._segments)
        return next((time for time in times if time is not None), None)

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """The segments in order, the last of them the one that grows."""
        return tuple(
            SegmentInfo(each.base, each.end, each.size_bytes, each.oldest_ms)
            for each in self._segments
        )

    def read(self, after_txid: int, max_bytes: int) -> list[LogRecord]:
        """Records that follow `after_txid`, in order, from at most `max_bytes` of the log.

        Not always all that would fit; none only at the end. `LogGap` if what follows is not here,
        `DamagedRecord`, or `RecordTooLarge` if the first alone is longer.
        """
        segment = self._holding(after_txid + 1)
        if segment is None:
            end = self.end
            if end is not None and end.txid == after_txid:
                return []
            raise LogGap(f"the log has nothing after transaction {after_txid}")
        changes = self._changes
        try:
            file = segment.open()
            offset, header = next(segment.headers(file, after_txid + 1))
            if header.min_txid != after_txid + 1:
                raise LogGap(f"transaction {after_txid} is inside a record")
            records = _parse(segment, file, offset, max_bytes)
        except FileNotFoundError:
            raise LogGap("that part of the log was dropped meanwhile") from None
        except (DamagedAt, StopIteration) as error:
            raise self._lost(segment, error, changes) from None
        if not records:
            raise RecordTooLarge(RecordInfo.of(header))
        return records

    def info_at(self, txid: int) -> RecordInfo | None:
        """The record that holds `txid`, without its data; None if the log does not have it."""
        found = self._find(txid)
        return None if found is None else RecordInfo.of(found[3])

    def record_at(
        self, txid: int, max_bytes: int = limits.LOG_RECORD_READ_MAX_BYTES
    ) -> LogRecord | None:
        """The record that holds `txid`; None if the log does not have it."""
        changes = self._changes
        found = self._find(txid)
        if found is None:
            return None
        segment, file, offset, header = found
        if header.length > max_bytes:
            raise RecordTooLarge(RecordInfo.of(header))
        try:
            return LogRecord.of(header, b"".join(data_of(file, offset, header)))
        except DamagedAt as error:
            raise self._lost(segment, error, changes) from None

    def chunks(self, txid: int, chunk_bytes: int = READ_CHUNK_BYTES) -> Iterator[bytes]:
        """The LTX file of the record that holds `txid`, in pieces.

        `DamagedRecord` may come after the last piece, since the CRC is over all of them.
        """
        changes = self._changes
        found = self._find(txid)
        if found is None:
            raise LogGap(f"transaction {txid} is not in the log")
        segment, file, offset, header = found
        try:
            yield from data_of(file, offset, header, chunk_bytes)
        except DamagedAt as error:
            raise self._lost(segment, error, changes) from None

    def infos(self, after_txid: int = 0) -> Iterator[RecordInfo]:
        """Every record that reaches beyond `after_txid`, without data; `DamagedRecord`."""
        for segment in self._segments:
            if segment.end.txid > after_txid:
                yield from self._infos_of(segment, after_txid + 1)

    def position_of(self, txid: int) -> Position | None:
        """Where the database stood after `txid`; None if no record here ends with it."""
        for segment in reversed(self._segments):
            if segment.tail.end.txid == txid:
                return segment.tail.end
            if segment.base.txid == txid:
                return segment.base
            if segment.base.txid < txid:
                break
        found = self._find(txid)
        return None if found is None or found[3].max_txid != txid else found[3].after

    def epochs(self) -> tuple[EpochRange, ...]:
        """Which epoch each transaction is of; a record that spans several counts as its last."""
        ranges: list[EpochRange] = []
        for segment in self._segments:
            first, end = segment.base.txid + 1, segment.end
            if segment.base.epoch == end.epoch and end.txid >= first:
                _extend(ranges, end.epoch, first, end.txid)
                continue
            for info in self._infos_of(segment):
                _extend(ranges, info.after.epoch, info.min_txid, info.max_txid)
        return tuple(ranges)

    def _infos_of(self, segment: Segment, txid: int = 0) -> Iterator[RecordInfo]:
        changes = self._changes
        try:
            for _, header in segment.headers(segment.open(), txid):
                yield RecordInfo.of(header)
        except FileNotFoundError:
            return
        except DamagedAt as error:
            raise self._lost(segment, error, changes) from None

    def _holding(self, txid: int) -> Segment | None:
        segments = self._segments
        at = bisect_left(segments, txid, key=lambda each: each.base.txid)
        if at == 0 or segments[at - 1].tail.end.txid < txid:
            return None
        return segments[at - 1]

    def _find(self, txid: int) -> tuple[Segment, Descriptor, int, RecordHeader] | None:
        segment = self._holding(txid)
        if segment is None:
            return None
        changes = self._changes
        try:
            file = segment.open()
            offset, header = next(segment.headers(file, txid))
        except FileNotFoundError:
            return None
        except (DamagedAt, StopIteration) as error:
            raise self._lost(segment, error, changes) from None
        return segment, file, offset, header

    def _lost(self, segment: Segment, error: Exception, changes: int) -> LogError:
        """What to raise for a record that does not hold."""
        if changes % 2 or changes != self._changes or not isinstance(error, DamagedAt):
            return LogGap("that part of the log was cut meanwhile")
        last = segment.base
        try:
            for offset, header in segment.headers(segment.open()):
                if offset >= error.offset:
                    break
                last = header.after
        except (DamagedAt, FileNotFoundError):
            pass
        return DamagedRecord(last)


def _parse(segment: Segment, file: Descriptor, offset: int, max_bytes: int) -> list[LogRecord]:
    """The whole records in the `max_bytes` at `offset`; `DamagedAt` if the first is damaged."""
    wanted = min(segment.tail.offset - offset, max(max_bytes, HEADER_BYTES))
    if wanted < HEADER_BYTES:
        raise DamagedAt(offset)
    block = file.read(wanted, offset)
    records: list[LogRecord] = []
    at = 0
    while at + HEADER_BYTES <= wanted:
        head = block[at : at + HEADER_BYTES]
        try:
            header = RecordHeader.parse(head, segment.name.number, offset + at)
        except SegmentError:
            return _unless_first(records, offset)
        end = at + HEADER_BYTES + header.length
        if end > wanted:
            break
        data = block[at + HEADER_BYTES : end]
        if crc64.xz(data) != header.data_crc:
            return _unless_first(records, offset)
        records.append(LogRecord.of(header, data))
        at += header.span
    return records


def _unless_first(records: list[LogRecord], offset: int) -> list[LogRecord]:
    # Those before the damaged one are good; the next read begins with it.
    if not records:
        raise DamagedAt(offset)
    return records


def _extend(ranges: list[EpochRange], epoch: int, first: int, last: int) -> None:
    if ranges and ranges[-1].epoch == epoch and ranges[-1].last_txid + 1 == first:
        ranges[-1] = EpochRange(epoch, ranges[-1].first_txid, last)
    else:
        ranges.append(EpochRange(epoch, first, last))
