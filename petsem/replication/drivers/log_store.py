"""The log's directory: which segments are in it, making, finishing and removing them.

Guarantees: a segment appears under its name with its first header on the disk, or not at all; a
number is never used twice, so that what is left of one segment cannot pass for another's; removed
is removed on the disk. What is damaged goes to `quarantine/` and is never deleted from there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from fastcrc import crc64

from petsem.model import Position
from petsem.replication.drivers.log_files import READ_CHUNK_BYTES, SYSTEM, Descriptor, LogOps
from petsem.replication.drivers.log_segment import Segment, Tail
from petsem.replication.segment import (
    HEADER_BYTES,
    Kind,
    RecordHeader,
    SegmentName,
    point,
)
from petsem.replication.segment_index import ENTRY_BYTES, SegmentIndex, room_bytes
from petsem.replication.steps import LOG_CUT, SEGMENT_CHANGE, Reached, nothing

QUARANTINE: Final = "quarantine"
_TEMPORARY: Final = ".tmp"


class Store:
    """A directory of segments. `ops` and `reached` are parameters for tests."""

    def __init__(
        self, directory: Path, *, ops: LogOps = SYSTEM, reached: Reached = nothing
    ) -> None:
        self.directory = directory
        self.ops = ops
        self.reached = reached
        self._last_number = 0
        self._unwanted: list[Path] = []

    def names(self) -> list[SegmentName]:
        """The segments, in the order of their transactions."""
        found = (SegmentName.parse(path.name) for path in self.directory.iterdir())
        names = sorted(name for name in found if name is not None)
        quarantined = self.directory / QUARANTINE
        if quarantined.is_dir():
            saved = (SegmentName.parse(path.name[:29]) for path in quarantined.iterdir())
            self._last_number = max((name.number for name in saved if name), default=0)
        self._last_number = max((self._last_number, *(name.number for name in names)))
        return names

    def sweep(self) -> None:
        """Remove segments that a crash left unfinished."""
        for path in self.directory.glob(f"*{_TEMPORARY}"):
            self.ops.unlink(path)

    def path(self, name: SegmentName) -> Path:
        return self.directory / str(name)

    def make_directory(self) -> None:
        """Make the directory, 0700, if somebody has deleted it."""
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            return
        self.ops.fsync_directory(self.directory.parent)

    def create(self, base: Position, size_bytes: int, kind: Kind = Kind.BASE) -> Segment:
        """An empty growing segment of `size_bytes`, on the disk but not under its name yet.

        OSError, as when the disk is full, leaves everything as it was.
        """
        self._last_number += 1
        name = SegmentName(base.txid, self._last_number)
        path = self.path(name).with_suffix(_TEMPORARY)
        self.reached(SEGMENT_CHANGE)
        file = Descriptor(self.ops.create(path))
        try:
            self.ops.allocate(file.fd, size_bytes)
            self.ops.write(file.fd, (point(kind, base).encode(name.number, 0),), 0)
            self.ops.fsync(file.fd)
        except OSError:
            self.discard(path)
            raise
        return Segment(
            path,
            name,
            base,
            Tail(HEADER_BYTES, base),
            SegmentIndex(),
            size_bytes=size_bytes,
            oldest_ms=None,
            file=file,
            room_bytes=record_room_bytes(size_bytes),
        )

    def publish(self, segment: Segment) -> None:
        """Give a created segment its name. On OSError it is gone."""
        target = self.path(segment.name)
        self.reached(SEGMENT_CHANGE)
        try:
            self.ops.rename(segment.path, target)
            self.ops.fsync_directory(self.directory)
        except OSError:
            self.discard(segment.path)
            self.discard(target)
            raise
        segment.path = target

    def mark(self, segment: Segment) -> None:
        """Note behind the last record that all of the segment is on the disk.

        Only evidence for the next start, so it may fail, and waits for the next sync. There is
        always room for it, since the seal will need more.
        """
        offset = segment.tail.offset
        if segment.file is not None:
            header = point(Kind.MARK, segment.end, offset)
            encoded = header.encode(segment.name.number, offset)
            with contextlib.suppress(OSError):
                self.ops.write(segment.file.fd, (encoded,), offset)

    def seal(self, segment: Segment) -> None:
        """Finish a segment all of whose records are synced: index and seal, no room left over."""
        file = segment.file or Descriptor.open(segment.path, writable=True)
        tail = segment.tail
        index = segment.index.thinned()
        encoded = index.encode()
        header = _seal(segment, encoded)
        at = tail.offset + len(encoded)
        number = segment.name.number
        self.ops.write(file.fd, (encoded, header.encode(number, at)), tail.offset)
        self.ops.truncate(file.fd, at + HEADER_BYTES)
        self.ops.fsync(file.fd)
        segment.index = index
        segment.size_bytes = at + HEADER_BYTES
        segment.room_bytes = 0
        segment.file = None

    def cut(self, segment: Segment) -> None:
        """Make the segment's file end at its tail, durably, and seal it."""
        file = segment.file or Descriptor.open(segment.path, writable=True)
        self.reached(LOG_CUT)
        self.ops.truncate(file.fd, segment.tail.offset)
        # Before the seal: were it on the disk and the cut not, it would look like damage.
        self.ops.fsync(file.fd)
        self.reached(LOG_CUT)
        self.seal(segment)

    def remove(self, path: Path) -> None:
        """Remove a segment, durably: one after the other, so that a crash leaves no hole.

        After an OSError it may still be there; `settle` tries again.
        """
        self._unwanted.append(path)
        self.settle()

    def discard(self, path: Path) -> None:
        """Remove what was not finished; the error that led here is the one to report."""
        with contextlib.suppress(OSError):
            self.remove(path)

    @property
    def is_settled(self) -> bool:
        """Whether everything that was removed is gone."""
        return not self._unwanted

    def settle(self) -> None:
        """Remove what could not be removed before.

        To be done before the log changes again: a segment that is not part of it must not lie in
        its way at the next start.
        """
        while self._unwanted:
            self.reached(LOG_CUT)
            self.ops.unlink(self._unwanted[0])
            self.ops.fsync_directory(self.directory)
            self._unwanted.pop(0)

    def save_damaged(self, segment_path: Path, file: Descriptor, start: int, end: int) -> Path:
        """Copy damaged bytes to quarantine; what cannot be read is left out."""
        target = self._quarantined(f"{segment_path.name}-{start:x}")
        copy = Descriptor(self.ops.create(target))
        for at in range(start, end, READ_CHUNK_BYTES):
            chunk = file.read(min(READ_CHUNK_BYTES, end - at), at)
            self.ops.write(copy.fd, (chunk,), at - start)
        self.ops.fsync(copy.fd)
        self.ops.fsync_directory(target.parent)
        return target

    def move_damaged(self, path: Path) -> Path:
        """Move a whole segment to quarantine; `sync_names` makes it durable."""
        target = self._quarantined(path.name)
        self.ops.rename(path, target)
        return target

    def sync_names(self) -> None:
        """Make what was moved to quarantine durable."""
        self.ops.fsync_directory(self.directory / QUARANTINE)
        self.ops.fsync_directory(self.directory)

    def _quarantined(self, name: str) -> Path:
        directory = self.directory / QUARANTINE
        if not directory.exists():
            directory.mkdir(mode=0o700)
            self.ops.fsync_directory(self.directory)
        path, again = directory / name, 1
        while path.exists():
            path, again = directory / f"{name}.{again}", again + 1
        return path


def record_room_bytes(segment_bytes: int) -> int:
    """The offset up to which records may go, so that index and seal fit behind them."""
    return segment_bytes - room_bytes(segment_bytes) - HEADER_BYTES


def segment_bytes_for(record_bytes: int) -> int:
    """The size of a segment that holds one record of `record_bytes`."""
    # Twice, because the room for the index makes the segment longer, and with it the index.
    return 2 * HEADER_BYTES + record_bytes + 2 * room_bytes(record_bytes) + ENTRY_BYTES


def _seal(segment: Segment, encoded_index: bytes) -> RecordHeader:
    base, end = segment.base, segment.end
    assert base.checksum is not None
    assert end.checksum is not None
    return RecordHeader(
        Kind.SEAL,
        base.epoch,
        end.epoch,
        len(encoded_index),
        base.txid,
        end.txid,
        base.checksum,
        end.checksum,
        segment.oldest_ms or 0,
        segment.tail.offset,
        crc64.xz(encoded_index),
    )
