"""Appending to the log and syncing it.

Guarantees: what was synced is on the disk; a record follows the one before it, in TXID and in
checksum, or is refused. An OSError leaves a log that can be used: as it was before the call, but
after a failed sync it ends where it was last synced, since nobody knows what the disk has of the
rest, and a second sync would not tell; append that again. A file that was deleted while it grew
counts as synced no more: `LogDeleted`, and only a `reset` makes the log good.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fastcrc import crc64

from petsem.model import Position
from petsem.replication.drivers.log_builder import Builder
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_recovery import Report
from petsem.replication.drivers.log_segment import Segment, Tail
from petsem.replication.drivers.log_store import Store, segment_bytes_for
from petsem.replication.drivers.log_types import LogDeleted, LogGap
from petsem.replication.ltx import HEADER_BYTES as LTX_HEADER_BYTES
from petsem.replication.ltx import TRAILER_BYTES, Header, LtxError, Rule, Trailer, peek_header
from petsem.replication.segment import ORIGIN, Kind, encode, span
from petsem.replication.steps import LOG_APPEND, LOG_SYNC

_LTX_MIN_BYTES: Final = LTX_HEADER_BYTES + TRAILER_BYTES


class Appender(LogReader):
    """A log that grows; its owner alone has it open for writing."""

    def __init__(
        self, store: Store, segments: Sequence[Segment], report: Report, segment_bytes: int
    ) -> None:
        super().__init__(segments, report)
        self._store = store
        self._segment_bytes = segment_bytes
        self._synced = segments[-1].tail if segments else None
        # A write or a cut failed, so nobody knows what lies behind the tail of this one.
        self._spoilt: Segment | None = None

    @property
    def synced(self) -> Position | None:
        """The position up to which everything is on the disk."""
        return None if self._synced is None else self._synced.end

    def is_deleted(self, *, every_file: bool = False) -> bool:
        """Whether somebody has deleted files of it, or moved them away: the last, or any."""
        segments = self._segments if every_file else self._segments[-1:]
        return not all(
            each.path.exists() if each.file is None else each.file.is_at(each.path)
            for each in segments
        )

    def append(self, epoch: int, data: bytes) -> None:
        """Write one LTX file at the end, to be synced; `LogGap` if it does not follow."""
        self._mend()
        header = header_of(data)
        base = self._base_for(epoch, header)
        if base != self.end and self._segments:
            # A snapshot on an empty log that began elsewhere.
            self.append_stream(epoch, header, (data,))
            return
        size = span(len(data))
        segment = self._growing
        if segment is None or segment.tail.offset + size > segment.room_bytes:
            segment = self._change(base, size)
        assert segment.file is not None
        assert self._synced is not None
        at, number = segment.tail.offset, segment.name.number
        post = post_checksum(data)
        head = encode(
            number,
            at,
            Kind.DATA,
            (base.epoch, epoch),
            len(data),
            (header.min_txid, header.max_txid),
            (header.pre_apply_checksum, post),
            header.timestamp_ms,
            self._synced.offset,
            crc64.xz(data),
        )
        self._store.reached(LOG_APPEND)
        try:
            self._store.ops.write(segment.file.fd, (head, data), at)
        except OSError:
            self._spoilt = segment
            raise
        segment.index.add(header.min_txid, at)
        if segment.oldest_ms is None:
            segment.oldest_ms = header.timestamp_ms
        segment.tail = Tail(at + size, Position(epoch, header.max_txid, post))

    def append_stream(self, epoch: int, header: Header, chunks: Iterable[bytes]) -> None:
        """Append the LTX file that `chunks` are, which begins with `header`, whatever its length.

        It gets a segment of its own and is on the disk when this returns.
        """
        self._mend()
        self._require_files()
        base = self._base_for(epoch, header)
        starts_anew = base != self.end
        with Builder(self._store, base, Kind.RESET if starts_anew else Kind.BASE) as builder:
            builder.add(epoch, header, _checked(header, chunks))
            if not starts_anew:
                self._retire()
            built = builder.finish()
        if starts_anew:
            self._replace((built,))
        else:
            self._adopt(built)

    def sync(self) -> None:
        """Everything appended is on the disk when this returns; `LogDeleted`."""
        self._mend()
        segment = self._growing
        if segment is None or segment.tail == self._synced:
            return
        tail = segment.tail
        assert segment.file is not None
        self._store.reached(LOG_SYNC)
        try:
            self._store.ops.fdatasync(segment.file.fd)
        except OSError:
            self._roll_back(segment)
            raise
        self._require_files()
        self._synced = tail
        self._store.mark(segment)

    def roll(self) -> None:
        """Go on in a new segment, so that the one before can be dropped when its time comes."""
        self._mend()
        end, segment = self.end, self._growing
        if end is not None and segment is not None and not segment.is_empty:
            self._change(end, 0)

    @property
    def _growing(self) -> Segment | None:
        segments = self._segments
        return segments[-1] if segments and segments[-1].file is not None else None

    def _base_for(self, epoch: int, header: Header) -> Position:
        """The position that a file with `header` is appended to; `LogGap` if it follows nothing."""
        end = self.end
        if header.tracks_checksum:
            if end is not None and follows(end, epoch, header):
                return end
            is_empty = all(segment.is_empty for segment in self._segments)
            if header.is_snapshot and is_empty:
                return ORIGIN
        raise LogGap(f"transaction {header.min_txid} does not follow {end}")

    def _change(self, base: Position, record_bytes: int) -> Segment:
        """Go on in a new segment."""
        self._require_files()
        size = max(self._segment_bytes, segment_bytes_for(record_bytes))
        fresh = self._store.create(base, size)
        try:
            self._retire()
        except OSError:
            self._store.discard(fresh.path)
            raise
        self._store.publish(fresh)
        self._adopt(fresh)
        return fresh

    def _adopt(self, segment: Segment) -> None:
        self._segments = (*self._segments, segment)
        self._synced = segment.tail

    def _retire(self) -> None:
        """Finish the growing segment."""
        self.sync()
        segment = self._growing
        if segment is None:
            return
        try:
            self._store.seal(segment)
        except OSError:
            self._spoilt = segment
            raise

    def _require_files(self) -> None:
        if self.is_deleted():
            raise LogDeleted

    def _mend(self) -> None:
        """Finish what an earlier error left undone; to be called before anything is changed."""
        if not self._store.is_settled:
            self._store.settle()
        segment = self._spoilt
        if segment is None:
            return
        try:
            self._store.cut(segment)
        except OSError:
            if segment.file is not None:
                self._roll_back(segment)
            raise
        self._spoilt = None
        if segment is self._segments[-1]:
            self._synced = segment.tail

    def _roll_back(self, segment: Segment) -> None:
        assert self._synced is not None
        with self._changing():
            segment.tail = self._synced
            segment.index = segment.index.until(self._synced.offset)
        self._spoilt = segment

    def _replace(self, segments: tuple[Segment, ...]) -> None:
        """Use `segments`, the first of them a reset, instead of all that are there."""
        with self._changing():
            old, self._segments = self._segments, segments
            self._synced = segments[-1].tail
            self._spoilt = None
            for each in old:
                # They are void already; the next opening removes what stays.
                with contextlib.suppress(OSError):
                    self._store.remove(each.path)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._changes += 1
        try:
            yield
        finally:
            self._changes += 1


def follows(end: Position, epoch: int, header: Header) -> bool:
    """Whether an LTX file with `header`, whose last transaction is of `epoch`, continues `end`."""
    return (
        header.min_txid == end.txid + 1
        and header.pre_apply_checksum == end.checksum
        and epoch >= end.epoch
    )


def header_of(data: bytes) -> Header:
    """The header of an LTX file that is long enough for a trailer; `LtxError` otherwise."""
    if len(data) < _LTX_MIN_BYTES:
        raise LtxError(Rule.TRUNCATED)
    return peek_header(data)


def post_checksum(data: bytes) -> int:
    """The checksum of the database after the LTX file `data`, as its trailer says."""
    return Trailer.parse(data[-TRAILER_BYTES:]).post_apply_checksum


def _checked(header: Header, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks, if they begin with `header` and are long enough for a trailer."""
    begun = b""
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if len(begun) < LTX_HEADER_BYTES:
            begun += chunk[: LTX_HEADER_BYTES - len(begun)]
        yield chunk
    if length < _LTX_MIN_BYTES or Header.parse(begun) != header:
        raise LtxError(Rule.TRUNCATED)
