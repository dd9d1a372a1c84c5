"""What the log is asked for and answers with, and how it refuses.

Guarantees: values only; nothing here reads or writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from petsem.model import Position
from petsem.replication.segment import RecordHeader


class LogError(Exception):
    """The log cannot give or take what was asked; its kinds are below."""


class LogGap(LogError):  # noqa: N818 (what is there, not what went wrong)
    """What should follow is not in the log, or what should be appended does not follow."""


class DamagedRecord(LogError):  # noqa: N818
    """The record after `position` does not hold: quarantine it, then fetch it again."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"the record after {position} is damaged")
        self.position = position

    @property
    def txid(self) -> int:
        """The first transaction that is lost."""
        return self.position.txid + 1


class LogDeleted(LogError):  # noqa: N818 (what somebody did)
    """Files of the log were deleted while it was in use: nothing in them survives a crash."""

    def __init__(self) -> None:
        super().__init__("its files were deleted or moved away")


class RecordTooLarge(LogError):  # noqa: N818
    """The record is longer than the caller wants in memory: stream it."""

    def __init__(self, record: RecordInfo) -> None:
        super().__init__(f"a record of {record.length} bytes")
        self.record = record


@dataclass(frozen=True, slots=True)
class RecordInfo:
    """A record without its data, which is an LTX file of `length` bytes."""

    before: Position
    after: Position
    length: int
    timestamp_ms: int

    @classmethod
    def of(cls, header: RecordHeader) -> RecordInfo:
        """The record that `header` begins."""
        return cls(header.before, header.after, header.length, header.timestamp_ms)

    @property
    def min_txid(self) -> int:
        return self.before.txid + 1

    @property
    def max_txid(self) -> int:
        return self.after.txid


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record with its LTX file; `epoch` is that of its last transaction."""

    epoch: int
    min_txid: int
    max_txid: int
    pre_checksum: int
    post_checksum: int
    data: bytes

    @classmethod
    def of(cls, header: RecordHeader, data: bytes) -> LogRecord:
        """The record of `header` and the data that its CRC was compared with."""
        return cls(
            header.epoch,
            header.min_txid,
            header.max_txid,
            header.pre_checksum,
            header.post_checksum,
            data,
        )

    @property
    def position(self) -> Position:
        """Where the database stands after it."""
        return Position(self.epoch, self.max_txid, self.post_checksum)


@dataclass(frozen=True, slots=True)
class Gap:
    """Transactions after `after` and up to `until` that the log lacks between those it has."""

    after: Position
    until: Position


@dataclass(frozen=True, slots=True)
class EpochRange:
    """Transactions `first_txid` to `last_txid`, all of `epoch` as far as the log can tell."""

    epoch: int
    first_txid: int
    last_txid: int


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment, for those who decide what to drop. `oldest_ms` is its first record's time."""

    base: Position
    end: Position
    size_bytes: int
    oldest_ms: int | None
