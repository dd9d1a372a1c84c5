"""Files for followers, out of the log.

Guarantees: a file continues exactly the position that it was asked for, and ends at or before the
end that was given. Several transactions become one file only within one epoch and while the
database does not shrink; few of them stay single, so that a follower at the end of the log has
every position. Memory: what is read at once, and a few small messages, kept because all followers
that are at the end ask for the same ones.

Making one file of many takes a while; other work comes between its pages.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from petsem import limits
from petsem.model import Position
from petsem.replication.drivers.log_types import LogError, LogGap, LogRecord, RecordTooLarge
from petsem.replication.image import PAGE_SIZE
from petsem.replication.ltx import TRAILER_BYTES, LtxError, compact_stream, peek_header
from petsem.replication.segment import HEADER_BYTES as RECORD_HEADER_BYTES
from petsem.wire import petsem_pb2 as pb

_SINGLE_FILES_MAX: Final = 8
"""Transactions up to this many are sent one by one."""
_KEPT_MESSAGES: Final = 16
_KEPT_MESSAGE_MAX_BYTES: Final = 64 * 1024
_SLICE_S: Final = 0.001
_INDEX_SIZE_BYTES: Final = 8
_NUMBERS_OF_PAGE: Final = 3
_NOT_LAST_OF_NUMBER: Final = bytes(range(0x80, 0x100))
"""The bytes of a page index that do not end one of its numbers."""


class LogSource(Protocol):
    """What feeding needs of the log; `TransactionLog` is one."""

    @property
    def base(self) -> Position | None: ...

    def read(self, after_txid: int, max_bytes: int) -> list[LogRecord]: ...

    def position_of(self, txid: int) -> Position | None: ...

    def quarantine(self, txid: int) -> object: ...


class TooLong(Exception):  # noqa: N818 (the transaction is)
    """The transaction after `position` does not fit one message, or one decoding of it."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"the transaction after {position} is too long for the stream")
        self.position = position


@dataclass(frozen=True, slots=True)
class File:
    """An LTX file that ends at `position`."""

    position: Position
    data: bytes

    def message(self) -> bytes:
        """The message that carries it."""
        carried = pb.Transactions(epoch=self.position.epoch, ltx=self.data)
        return pb.FromLeader(transactions=carried).SerializeToString()


Kept = tuple[Position, bytes]
"""Where a file ends, and the message that carries it."""


class Files:
    """Files out of one log."""

    def __init__(self, log: LogSource) -> None:
        self.log = log
        self._kept: OrderedDict[Position, Kept] = OrderedDict()

    def kept(self, after: Position, end: Position) -> Kept | None:
        """What leads on from `after`, if another follower was there just before."""
        kept = self._kept.get(after)
        return kept if kept is not None and kept[0].txid <= end.txid else None

    def keep(self, after: Position, position: Position, message: bytes) -> None:
        """Remember what leads from `after` to `position`, if it is small."""
        if len(message) <= _KEPT_MESSAGE_MAX_BYTES:
            self._kept[after] = (position, message)
            if len(self._kept) > _KEPT_MESSAGES:
                self._kept.popitem(last=False)

    def forget(self) -> None:
        """The branch has changed."""
        self._kept.clear()

    def position_of(self, txid: int) -> Position | None:
        """Where the database stood after `txid`; None if the log cannot tell."""
        try:
            return self.log.position_of(txid)
        except LogError:
            return None

    def groups(
        self, after: Position, end: Position, *, bulk: bool = False
    ) -> list[list[LogRecord]]:
        """The next records after `after` and up to `end`, those together that become one file;
        with `bulk` as many together as may be.

        `LogGap` if the log does not lead on from `after`, `DamagedRecord`, `TooLong`.
        """
        records = [each for each in self._read(after, bulk=bulk) if each.max_txid <= end.txid]
        if records:
            if records[0].pre_checksum != after.checksum:
                raise LogGap(f"the log has another transaction {after.txid}")
            if pages_of(records[0].data) * PAGE_SIZE > limits.LTX_DECODE_MAX_BYTES:
                raise TooLong(after)
        if bulk:
            return list(_grouped(records, limits.STREAM_BULK_MAX_PAGES))
        if len(records) <= _SINGLE_FILES_MAX:
            return [[each] for each in records]
        return list(_grouped(records, limits.STREAM_RANGE_MAX_PAGES))

    def _read(self, after: Position, *, bulk: bool) -> list[LogRecord]:
        most = limits.STREAM_WINDOW_BYTES if bulk else limits.STREAM_READ_BYTES
        try:
            return self.log.read(after.txid, most)
        except RecordTooLarge as large:
            length = large.record.length
            if length > limits.STREAM_FILE_MAX_BYTES:
                raise TooLong(after) from None
        return self.log.read(after.txid, RECORD_HEADER_BYTES + length)


async def merged(records: Sequence[LogRecord]) -> list[File]:
    """The file of a group; the single ones if they cannot be one."""
    singles = [File(each.position, each.data) for each in records]
    if len(singles) == 1:
        return singles
    try:
        data = await _compacted([each.data for each in records])
    except LtxError:
        # Such as a database that shrank and grew within one of them.
        return singles
    one = File(records[-1].position, data)
    return [one] if len(data) <= limits.STREAM_FILE_MAX_BYTES else singles


def pages_of(file: bytes) -> int:
    """How many pages an LTX file holds, by the numbers in its index and without decoding it."""
    end = len(file) - TRAILER_BYTES - _INDEX_SIZE_BYTES
    size = int.from_bytes(file[end : end + _INDEX_SIZE_BYTES], "big")
    numbers = file[end - size : end].translate(None, _NOT_LAST_OF_NUMBER)
    # One more than those of the pages: the end of the index.
    return (len(numbers) - 1) // _NUMBERS_OF_PAGE


async def _compacted(files: Sequence[bytes]) -> bytes:
    parts = []
    until_s = time.monotonic() + _SLICE_S
    for part in compact_stream([(file,) for file in files]):
        parts.append(part)
        if time.monotonic() > until_s:
            await asyncio.sleep(0)
            until_s = time.monotonic() + _SLICE_S
    return b"".join(parts)


def _grouped(records: Sequence[LogRecord], most_pages: int) -> Iterator[list[LogRecord]]:
    group: list[LogRecord] = []
    pages = commit = 0
    for each in records:
        size, count = peek_header(each.data).commit, pages_of(each.data)
        if group and (each.epoch != group[-1].epoch or size < commit or pages + count > most_pages):
            yield group
            group, pages = [], 0
        group.append(each)
        pages += count
        commit = size
    if group:
        yield group
