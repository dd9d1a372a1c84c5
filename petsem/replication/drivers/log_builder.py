"""A segment written from end to end at once: a long snapshot, records that were fetched again, or
what was saved from a damaged segment.

Guarantees: nothing of it is in the log before `finish`, and all of it, on the disk, after; memory
is bounded by the chunks that are handed in. It is not preallocated, since its length is not known.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastcrc import crc64

from petsem.model import Position
from petsem.replication.drivers.log_segment import Segment, Tail
from petsem.replication.drivers.log_store import Store
from petsem.replication.ltx import TRAILER_BYTES, Header, Trailer
from petsem.replication.segment import HEADER_BYTES, Kind, RecordHeader, span
from petsem.replication.steps import LOG_APPEND


class Builder:
    """Use as a context: leaving it without `finish` removes what was written."""

    def __init__(self, store: Store, base: Position, kind: Kind = Kind.BASE) -> None:
        self._store = store
        self._segment = store.create(base, HEADER_BYTES, kind)
        self._finished = False

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._store.discard(self._segment.path)

    def add(self, epoch: int, header: Header, chunks: Iterable[bytes]) -> None:
        """Append one LTX file whose header is `header`; the caller has checked that it follows."""
        segment, file = self._segment, self._segment.file
        assert file is not None
        offset, end = segment.tail.offset, segment.end
        assert end.checksum is not None
        at, crc, last = offset + HEADER_BYTES, 0, b""
        self._store.reached(LOG_APPEND)
        for chunk in chunks:
            self._store.ops.write(file.fd, (chunk,), at)
            at += len(chunk)
            crc = crc64.xz(chunk, crc)
            last = (last + chunk[-TRAILER_BYTES:])[-TRAILER_BYTES:]
        length = at - offset - HEADER_BYTES
        record = RecordHeader(
            Kind.DATA,
            end.epoch,
            epoch,
            length,
            header.min_txid,
            header.max_txid,
            header.pre_apply_checksum,
            Trailer.parse(last).post_apply_checksum,
            header.timestamp_ms,
            offset,
            crc,
        )
        self._store.ops.write(file.fd, (record.encode(segment.name.number, offset),), offset)
        segment.index.add(header.min_txid, offset)
        if segment.oldest_ms is None:
            segment.oldest_ms = header.timestamp_ms
        segment.tail = Tail(offset + span(length), record.after)

    def finish(self) -> Segment:
        """The segment, sealed, under its name, on the disk."""
        self._store.seal(self._segment)
        self._store.publish(self._segment)
        self._finished = True
        return self._segment
