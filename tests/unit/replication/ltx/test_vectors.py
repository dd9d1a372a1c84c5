"""Files that were written elsewhere, and that the public tool verified."""

import hashlib

import pytest

from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    Decoder,
    Header,
    Trailer,
    compact,
    decode,
    encode,
    page_checksum,
    parse_name,
    verify,
)
from tests.unit.replication.ltx import reference

NAMES = sorted(path.name for path in reference.VECTORS.glob("*.ltx"))
EXPECTED = (reference.VECTORS / "expected.db").read_bytes()
CHECKSUM = 0x8FD78EE909CFB813


def test_the_vectors_are_those_of_their_page() -> None:
    """Fourteen transactions, a snapshot, and the database whose hash the page states."""
    assert len(NAMES) == 15
    digest = hashlib.sha256(EXPECTED).hexdigest()
    assert digest == "c00999179ba49ba0d3ca913ff88c7b22daae90fbd3fa2cebf4833c739a77a9ee"
    assert digest in (reference.VECTORS / "README.md").read_text()


def test_the_transactions_in_order_give_the_database() -> None:
    """Each file joins the one before, its checksum is the database's, and all end in it."""
    image, checksum = b"", 0
    for number, data in enumerate(reference.transactions(), 1):
        file = decode(data)
        header = file.header
        assert (header.min_txid, header.max_txid) == (number, number)
        assert header.pre_apply_checksum == checksum
        image = reference.apply(image, header.page_size, header.commit, file.pages)
        checksum = CHECKSUM_FLAG
        for pgno, page in reference.pages_of(image, 4096):
            checksum = (checksum ^ page_checksum(pgno, page)) | CHECKSUM_FLAG
        assert checksum == file.trailer.post_apply_checksum
    assert image == EXPECTED
    assert checksum == CHECKSUM


def test_the_snapshot_of_the_public_tool_is_the_database() -> None:
    """Another encoder's file, and its header to the last field."""
    file = decode((reference.VECTORS / "snapshot-by-ltx-encode-db.ltx").read_bytes())
    assert file.header == Header(0, 4096, 10, 1, 1, file.header.timestamp_ms, 0)
    assert list(file.pages) == reference.pages_of(EXPECTED, 4096)
    assert file.trailer.post_apply_checksum == CHECKSUM


@pytest.mark.parametrize("name", NAMES)
def test_written_again_it_is_the_same_file(name: str) -> None:
    """Decoded content survives; where the blocks are equally long, so does the file checksum."""
    data = (reference.VECTORS / name).read_bytes()
    file = decode(data)
    again = encode(file.header, file.pages, file.trailer.post_apply_checksum)
    assert decode(again).pages == file.pages
    assert decode(again).header == file.header
    if name.startswith("0"):
        txid = file.header.min_txid
        assert parse_name(name) == (txid, txid)
        assert decode(again) == file
        assert again == data


def test_compacted_they_are_the_snapshot() -> None:
    """All fourteen as one file hold what the public tool's snapshot holds."""
    file = decode(compact(reference.transactions()))
    assert file.header == Header(0, 4096, 10, 1, 14, 1_700_000_000_013, 0)
    assert list(file.pages) == reference.pages_of(EXPECTED, 4096)
    assert file.trailer.post_apply_checksum == CHECKSUM


def test_the_chain_is_whole() -> None:
    """Following it leads to the position that the page states."""
    header, trailer = verify((data,) for data in reference.transactions())
    assert (header.max_txid, trailer.post_apply_checksum) == (14, CHECKSUM)


@pytest.mark.parametrize("name", NAMES)
def test_pushed_in_chunks_it_is_the_same(name: str) -> None:
    """Chunks of any size give the events that the whole file gives."""
    data = (reference.VECTORS / name).read_bytes()
    file = decode(data)
    for size in (1, 7, 100, 4096, len(data)):
        decoder = Decoder()
        events = [
            event
            for at in range(0, len(data), size)
            for event in decoder.feed(data[at : at + size])
        ]
        decoder.finish()
        assert events == [file.header, *file.pages, file.trailer]
        assert isinstance(events[-1], Trailer)
