"""Several linked files as one that leaves the same database.

Guarantees: the newest of each page is kept, pages beyond the final size are dropped, and the
result holds the transactions from the first file's first to the last file's last. Every input is
read to its end and checked before the last piece comes out; without it the result is truncated.
Memory: a page, a frame and a chunk of each input, and the page indexes.

It loses what lies between: times, and positions that a reader could have stopped at.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

from petsem.replication.ltx.chain import check_checksums, check_headers, check_tracked
from petsem.replication.ltx.decoder import Page
from petsem.replication.ltx.encoder import Encoder
from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.header import Header
from petsem.replication.ltx.reader import Reader


def compact(files: Sequence[bytes]) -> bytes:
    """The one file that does what `files`, oldest first, do one after another.

    `LtxError` if a file breaks a rule, two are not linked, or there is none.
    """
    return b"".join(compact_stream([(file,) for file in files]))


def compact_stream(sources: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """The same for files of any size, each given as its chunks; the result comes in pieces."""
    readers = [Reader(chunks) for chunks in sources]
    if not readers:
        raise LtxError(Rule.CHAIN_EMPTY)
    headers = [reader.header for reader in readers]
    for header in headers:
        check_tracked(header)
    for before, after in pairwise(headers):
        check_headers(before, after)
    first, last = headers[0], headers[-1]
    encoder = Encoder(
        Header(
            flags=0,
            page_size=first.page_size,
            commit=last.commit,
            min_txid=first.min_txid,
            max_txid=last.max_txid,
            timestamp_ms=last.timestamp_ms,
            pre_apply_checksum=first.pre_apply_checksum,
        )
    )
    yield encoder.start()
    for pgno, page in merge(readers, [header.commit for header in headers], first.lock_page):
        yield encoder.page(pgno, page)
    for reader, after in zip(readers, headers[1:], strict=False):
        check_checksums(reader.trailer, after)
    yield encoder.finish(readers[-1].trailer.post_apply_checksum)


def merge(
    sources: Sequence[Iterable[Page]], commits: Sequence[int], lock_page: int
) -> Iterator[Page]:
    """The newest of each page up to the last of `commits`, in order; every source is read out.

    `sources` are oldest first and ascending, `commits` the size of the database after each.
    `LtxError` if the database was cut short and grew again without a page of the new part:
    after the single files that page would be zeros, after the merged one whatever was there.
    """
    assert len(sources) == len(commits)
    final = commits[-1]
    # The smallest size after each source: what lay beyond it then is gone since.
    kept = list(accumulate(reversed([*commits[1:], final]), min))[::-1]
    smallest = min(commits)
    missing = final - smallest - (smallest < lock_page <= final)
    last = 0
    for pgno, age, page in heapq.merge(*(_aged(*item) for item in enumerate(sources))):
        if pgno == last or pgno > final:
            continue
        last = pgno
        if pgno > kept[-age]:
            raise LtxError(Rule.CHAIN_GROWTH, str(pgno))
        missing -= pgno > smallest
        yield pgno, page
    if missing:
        raise LtxError(Rule.CHAIN_GROWTH, f"{missing} pages")


def _aged(index: int, source: Iterable[Page]) -> Iterator[tuple[int, int, bytes]]:
    """The pages so that of one number the newest sorts first and no two pages are compared."""
    for pgno, page in source:
        yield pgno, -index, page
