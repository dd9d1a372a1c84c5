"""Files that follow one another: what the one leaves the next must begin with.

Two files are linked when the second begins with the TXID after the first's last and with the
database checksum that the first left. A chain shows that nothing is missing or exchanged between
its ends; its first file is taken at its word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.header import Header
from petsem.replication.ltx.reader import Reader
from petsem.replication.ltx.trailer import Trailer


def check_tracked(header: Header) -> None:
    """`LtxError` if the file carries no database checksums, so that nothing can be linked."""
    if not header.tracks_checksum:
        raise LtxError(Rule.CHAIN_UNTRACKED)


def check_headers(before: Header, after: Header) -> None:
    """`LtxError` unless `after` holds the transactions next to those of `before`."""
    if after.page_size != before.page_size:
        raise LtxError(Rule.CHAIN_PAGE_SIZE, f"{after.page_size} after {before.page_size}")
    if after.min_txid != before.max_txid + 1:
        raise LtxError(Rule.CHAIN_TXID, f"{after.min_txid:016x} after {before.max_txid:016x}")


def check_checksums(before: Trailer, after: Header) -> None:
    """`LtxError` unless `after` begins with the database that `before` left."""
    if after.pre_apply_checksum != before.post_apply_checksum:
        raise LtxError(
            Rule.CHAIN_CHECKSUM,
            f"{after.pre_apply_checksum:016x} after {before.post_apply_checksum:016x}",
        )


def verify(sources: Iterable[Iterable[bytes]]) -> tuple[Header, Trailer]:
    """Read files in order, each given as its chunks; the last one's header and trailer.

    `LtxError` if a file breaks a rule, two are not linked, or there is none.
    """
    last: tuple[Header, Trailer] | None = None
    for chunks in sources:
        reader = Reader(chunks)
        check_tracked(reader.header)
        if last is not None:
            check_headers(last[0], reader.header)
            check_checksums(last[1], reader.header)
        deque(reader, maxlen=0)
        last = reader.header, reader.trailer
    if last is None:
        raise LtxError(Rule.CHAIN_EMPTY)
    return last
