"""Reading a segment from end to end: what in it holds, what is damaged, and what was torn.

After a loss of power, any part of what was not synced may be missing: that is a tear, and from
there on nothing counts. What was synced and does not hold any more is damage. They are told apart
by evidence that it was synced: every record says how much of its segment was on the disk when it
was written, and so does the mark that each sync leaves behind the last record. So bytes that do
not hold, with a later header that vouches for them, are damage, and else the tail of a tear.

Guarantees: a scan changes nothing; all bytes are in a run, in a damaged part, in the tear, or are
the zeros and the index after the last record. Not found: damage to the last records when the mark
behind them is lost with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from petsem.model import Position
from petsem.replication.drivers.log_files import READ_CHUNK_BYTES, Descriptor
from petsem.replication.drivers.log_segment import data_header_at, header_at, is_whole
from petsem.replication.segment import ALIGNMENT, HEADER_BYTES, MAGIC, Kind, RecordHeader
from petsem.replication.segment_index import SegmentIndex


@dataclass(slots=True)
class Run:
    """Records that hold and continue each other, from `start` to `end`."""

    start: int
    end: int
    base: Position
    last: Position
    index: SegmentIndex = field(default_factory=SegmentIndex)
    oldest_ms: int | None = None

    def add(self, header: RecordHeader) -> None:
        """The record at `end`."""
        self.index.add(header.min_txid, self.end)
        if self.oldest_ms is None:
            self.oldest_ms = header.timestamp_ms
        self.end += header.span
        self.last = header.after


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes that do not hold, from `start` to `end`."""

    start: int
    end: int


@dataclass(slots=True)
class Scan:
    """What was found; `base_holds` is whether the segment's first header does."""

    base_holds: bool
    runs: list[Run] = field(default_factory=list)
    damaged: list[Part] = field(default_factory=list)
    torn: Part | None = None


class Scanner:
    """Scans one segment.

    `all_synced`: nothing in it can be a tear, because a later segment exists or it was finished.
    `durable_txid`: the caller knows from elsewhere that the log was synced up to there.
    `until_txid`: where the next segment takes over; records beyond it are left out.
    """

    def __init__(
        self,
        file: Descriptor,
        number: int,
        size_bytes: int,
        *,
        all_synced: bool = False,
        durable_txid: int = 0,
        until_txid: int | None = None,
    ) -> None:
        self._file = file
        self._number = number
        self._size = size_bytes
        self._all_synced = all_synced
        self._durable_txid = durable_txid
        self._until_txid = until_txid

    def scan(self) -> Scan:
        """Read it all."""
        first = header_at(self._file, self._number, 0)
        found = Scan(first is not None and first.kind in (Kind.BASE, Kind.RESET))
        run: Run | None = None
        at = last_txid = 0
        if found.base_holds and first is not None:
            run = Run(HEADER_BYTES, HEADER_BYTES, first.after, first.after)
        while True:
            if run is not None:
                found.runs.append(run)
                self._extend(run)
                at, last_txid = run.end, run.last.txid
            used = self._used_after(at)
            if run is not None and (used == at or self._is_superseded(at, last_txid)):
                return found
            later = list(self._headers_after(at))
            if not self._was_synced(at, last_txid, later):
                found.torn = Part(at, used)
                return found
            resume, run = self._resume(last_txid, later)
            found.damaged.append(Part(at, (used or self._size) if resume is None else resume))
            if run is None:
                return found

    def _extend(self, run: Run) -> None:
        while True:
            header = data_header_at(self._file, self._number, run.end)
            if header is None or header.before != run.last or self._is_beyond(header):
                return
            if not is_whole(self._file, run.end, header):
                return
            run.add(header)

    def _is_beyond(self, header: RecordHeader) -> bool:
        return self._until_txid is not None and header.max_txid > self._until_txid

    def _is_superseded(self, at: int, last_txid: int) -> bool:
        if last_txid == self._until_txid:
            # The next segment follows at once, so whatever this is, no transaction is in it.
            return True
        header = data_header_at(self._file, self._number, at)
        return header is not None and self._is_beyond(header)

    def _used_after(self, at: int) -> int:
        """The end of what is not zero from `at` on, a mark apart; `at` if there is nothing."""
        header = header_at(self._file, self._number, at)
        behind = at + HEADER_BYTES if header is not None and header.kind is Kind.MARK else at
        end = self._size
        while end > behind:
            start = max(behind, end - READ_CHUNK_BYTES)
            chunk = self._file.read(end - start, start)
            # What cannot be read counts as used: nobody knows that it is zero.
            if len(chunk) < end - start:
                return end
            if used := len(chunk.rstrip(b"\0")):
                return start + used
            end = start
        return at

    def _headers_after(self, at: int) -> Iterator[tuple[int, RecordHeader]]:
        """Every header behind the bytes at `at` that do not hold."""
        header = header_at(self._file, self._number, at)
        # A mark here is only the place of a torn record; of a damaged one the data is passed over.
        at += ALIGNMENT if header is None else header.span
        while at < self._size:
            length = min(READ_CHUNK_BYTES, self._size - at)
            chunk = self._file.read(length, at)
            found = chunk.find(MAGIC)
            while found >= 0:
                if found % ALIGNMENT == 0:
                    header = header_at(self._file, self._number, at + found)
                    if header is not None:
                        yield at + found, header
                found = chunk.find(MAGIC, found + 1)
            at += length

    def _was_synced(self, at: int, last_txid: int, later: list[tuple[int, RecordHeader]]) -> bool:
        # The first header is synced before its segment gets its name.
        return (
            at < HEADER_BYTES
            or self._all_synced
            or self._durable_txid > last_txid
            or any(header.synced > at for _, header in later)
        )

    def _resume(
        self, last_txid: int, later: list[tuple[int, RecordHeader]]
    ) -> tuple[int | None, Run | None]:
        """Where records hold again, and the run that begins there; no run if it is superseded."""
        for offset, header in later:
            if header.kind is not Kind.DATA or header.min_txid <= last_txid:
                continue
            if not is_whole(self._file, offset, header):
                continue
            if self._is_beyond(header):
                return offset, None
            return offset, Run(offset, offset, header.before, header.before)
        return None, None
