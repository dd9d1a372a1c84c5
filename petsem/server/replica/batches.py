"""Transactions read back from the log, as one set of pages to apply.

Guarantees: each page once, the newest; pages come one at a time, so that a batch of any size takes
little memory beside the packed files. The log's CRC and the files' own checksums are compared
while the pages are read: whoever writes them lets nothing count before the last has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from petsem import limits
from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogGap, RecordTooLarge
from petsem.replication.image import LOCK_PAGE
from petsem.replication.ltx import Reader, merge

EVERYTHING: Final = 2**62


@dataclass(frozen=True, slots=True)
class Batch:
    """`pages` may be read once. `end` is where the database stands after them."""

    pages: Iterator[tuple[int, bytes]]
    commit: int
    end: Position


def read_batch(
    log: TransactionLog, after: Position, max_bytes: int, *, until: Position | None = None
) -> Batch | None:
    """What follows `after`, from about `max_bytes` of the log; None at its end. Not beyond `until`,
    which is the end of one of its segments.

    Raises `LogGap` and `DamagedRecord`; reading the pages raises the same and `LtxError`.
    """
    readers: list[Reader] = []
    end, taken = after, 0
    while taken < max_bytes and end != until:
        sources: list[tuple[Iterable[bytes], Position]]
        try:
            most = min(max_bytes - taken, limits.LOG_RECORD_READ_MAX_BYTES)
            records = log.read(end.txid, most)
            sources = [((each.data,), each.position) for each in records]
            taken += sum(len(each.data) for each in records)
        except RecordTooLarge as e:
            if readers and max_bytes != EVERYTHING:
                break
            sources = [(log.chunks(e.record.min_txid), e.record.after)]
            taken += e.record.length
        if not sources:
            break
        readers += [Reader(chunks) for chunks, _ in sources]
        end = sources[-1][1]
    if not readers:
        return None
    if readers[0].header.pre_apply_checksum != after.checksum:
        raise LogGap(f"the log does not continue {after}")
    commits = [reader.header.commit for reader in readers]
    return Batch(merge(readers, commits, LOCK_PAGE), commits[-1], end)
