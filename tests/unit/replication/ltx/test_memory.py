"""Sizes that a file names cost nothing, and files larger than memory pass through."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import xor

import pytest

from petsem.limits import LTX_COMMIT_MAX_PAGES, LTX_DECODE_MAX_BYTES
from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    Encoder,
    Header,
    LtxError,
    Reader,
    Rule,
    Trailer,
    compact_stream,
    decode,
    encode,
    page_checksum,
)
from tests.unit.replication.ltx import reference
from tests.unit.replication.ltx.reference import Frame, page

FIRST = reference.header()
AFTER = CHECKSUM_FLAG | 9
MIB = 2**20


@contextmanager
def _at_most(bytes_: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        pytest.param(
            reference.file(FIRST, [Frame(1, page(1), size=2**32 - 1)]), Rule.BLOCK_SIZE, id="block"
        ),
        pytest.param(reference.file(FIRST, [], index_size=2**64 - 1), Rule.INDEX, id="index"),
        pytest.param(
            reference.file(reference.header(commit=2**32 - 1), []), Rule.COMMIT_LIMIT, id="commit"
        ),
        pytest.param(
            reference.file(
                reference.header(
                    commit=LTX_COMMIT_MAX_PAGES,
                    min_txid=1,
                    max_txid=2**64 - 1,
                    pre_apply_checksum=0,
                ),
                [],
            ),
            Rule.SNAPSHOT_PAGES,
            id="snapshot",
        ),
        pytest.param(
            reference.file(FIRST, [Frame(1, page(1), block=b"\x1fa\1\0" + b"\xff" * 500 + b"\0")]),
            Rule.BLOCK,
            id="unpacks to 128 KiB",
        ),
    ],
)
def test_declared_sizes_cost_nothing(data: bytes, rule: Rule) -> None:
    """Huge numbers are refused without memory for what they promise."""
    with pytest.raises(LtxError) as warmed:
        decode(data)
    with _at_most(32 * 1024), pytest.raises(LtxError) as caught:
        decode(data)
    assert warmed.value.rule is caught.value.rule is rule


def test_a_file_that_unpacks_to_too_much() -> None:
    """Small on disk and large in memory: refused at the limit when whole, read when streamed."""
    room = LTX_DECODE_MAX_BYTES // 65536
    header = Header(0, 65536, room + 1, 5, 5, 0, CHECKSUM_FLAG)
    zeros = bytes(65536)
    data = encode(header, ((pgno, zeros) for pgno in range(1, room + 2)), AFTER)
    assert len(data) < LTX_DECODE_MAX_BYTES // 150
    with _at_most(LTX_DECODE_MAX_BYTES + MIB), pytest.raises(LtxError) as caught:
        decode(data)
    assert caught.value.rule is Rule.DECODED_SIZE
    with _at_most(MIB):
        assert sum(1 for _ in Reader((data,))) == room + 1
    fits = encode(header, ((pgno, zeros) for pgno in range(1, room + 1)), AFTER)
    assert len(decode(fits).pages) == room


def _pieces(header: Header, count: int, seed: str, after: int) -> Iterator[bytes]:
    encoder = Encoder(header)
    yield encoder.start()
    for pgno in range(1, count + 1):
        yield encoder.page(pgno, _page(pgno, seed))
    yield encoder.finish(after)


def _page(pgno: int, seed: str) -> bytes:
    return struct.pack(">I", pgno) * 256 + page(seed, 3072)


def test_files_larger_than_memory_are_compacted() -> None:
    """Three files of 4 MiB each pass through one MiB."""
    count = 1024
    after = [
        CHECKSUM_FLAG
        | reduce(xor, (page_checksum(pgno, _page(pgno, seed)) for pgno in range(1, count + 1)))
        for seed in "abc"
    ]
    headers = [Header(0, 4096, count, 1, 1, 0, 0)]
    headers += [Header(0, 4096, count, txid, txid, 0, after[txid - 2]) for txid in (2, 3)]
    with _at_most(MIB):
        sources = [
            _pieces(header, count, seed, checksum)
            for header, seed, checksum in zip(headers, "abc", after, strict=True)
        ]
        reader = Reader(compact_stream(sources))
        found = 0
        for pgno, data in reader:
            found += data == _page(pgno, "c")
    assert found == count
    assert reader.header == Header(0, 4096, count, 1, 3, 0, 0)
    assert reader.trailer.post_apply_checksum == after[2]


def test_a_snapshot_beyond_the_lock_page() -> None:
    """More than a GiB: every page but that of byte 2^30, written and read within two MiB."""
    lock, commit = 16_385, 16_387
    zeros = bytes(65536)
    checksum = CHECKSUM_FLAG
    for pgno in range(1, commit + 1):
        if pgno != lock:
            checksum = (checksum ^ page_checksum(pgno, zeros)) | CHECKSUM_FLAG
    header = Header(0, 65536, commit, 1, 9, 0, 0)

    def written() -> Iterator[bytes]:
        encoder = Encoder(header)
        yield encoder.start()
        for pgno in range(1, commit + 1):
            if pgno != lock:
                yield encoder.page(pgno, zeros)
        yield encoder.finish(checksum)

    with _at_most(2 * MIB):
        reader = Reader(written())
        numbers = [pgno for pgno, _ in reader]
    assert numbers == [*range(1, lock), lock + 1, lock + 2]
    assert isinstance(reader.trailer, Trailer)


def test_a_snapshot_that_ends_at_the_lock_page() -> None:
    """The lock page as the last one is missing like any other; the page before it is not."""
    header = Header(0, 65536, 16_385, 1, 1, 0, 0)
    zeros = bytes(65536)
    for last, whole in ((16_384, True), (16_383, False)):
        encoder = Encoder(header)
        encoder.start()
        checksum = CHECKSUM_FLAG
        for pgno in range(1, last + 1):
            encoder.page(pgno, zeros)
            checksum = (checksum ^ page_checksum(pgno, zeros)) | CHECKSUM_FLAG
        if whole:
            encoder.finish(checksum)
            continue
        with pytest.raises(LtxError) as caught:
            encoder.finish(checksum)
        assert caught.value.rule is Rule.SNAPSHOT_PAGES
