"""What the encoder writes, and what it refuses to."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    NO_CHECKSUM,
    Encoder,
    Header,
    LtxError,
    LtxFile,
    Rule,
    Trailer,
    decode,
    encode,
)
from tests.unit.replication.ltx import reference
from tests.unit.replication.ltx.reference import Frame, page

AFTER = CHECKSUM_FLAG | 9
INCREMENT = Header(0, 512, 300, 5, 5, 1_700_000_000_000, CHECKSUM_FLAG | 7)
SNAPSHOT = Header(0, 512, 3, 1, 8, 1_700_000_000_000, 0)
PAGES = [(pgno, page(pgno)) for pgno in (1, 2, 200, 300)]
ALL = [(pgno, page(pgno)) for pgno in (1, 2, 3)]


def _refused(header: Header, pages: list[tuple[int, bytes]], after: int = AFTER) -> Rule:
    with pytest.raises(LtxError) as caught:
        encode(header, pages, after)
    return caught.value.rule


def _fields(header: Header) -> dict[str, int]:
    return {name: getattr(header, name) for name in Header.__slots__}


def test_the_bytes_of_a_file() -> None:
    """Pages that cannot be compressed give exactly the file that the byte tables describe."""
    frames = [Frame(*one) for one in PAGES]
    expected = reference.file(reference.header(**_fields(INCREMENT)), frames, AFTER)
    assert encode(INCREMENT, PAGES, AFTER) == expected


def test_the_file_checksum_is_over_pages_not_blocks() -> None:
    """A page that compresses well counts with all its bytes, and with its block's size."""
    data = encode(INCREMENT, [(7, bytes(512))], AFTER)
    size = struct.unpack_from(">I", data, 106)[0]
    frame = Frame(7, bytes(512), block=data[110 : 110 + size])
    assert size < 30
    assert data == reference.file(reference.header(**_fields(INCREMENT)), [frame], AFTER)


def test_pieces_are_the_file() -> None:
    """Start, pages and finish, one after another, are what `encode` makes of them."""
    encoder = Encoder(INCREMENT)
    pieces = [encoder.start(), *(encoder.page(*one) for one in PAGES), encoder.finish(AFTER)]
    assert b"".join(pieces) == encode(INCREMENT, iter(PAGES), AFTER)
    assert [len(piece) for piece in pieces] == [100, 525, 525, 525, 525, 6 + 22 + 8 + 16]


def test_a_file_without_pages() -> None:
    """Allowed: a transaction may only have made the database smaller."""
    data = encode(INCREMENT, [], AFTER)
    assert decode(data).pages == ()
    assert len(data) == 100 + 6 + 1 + 8 + 16


def test_an_emptied_database() -> None:
    """Its checksum is the flag alone, and it has no pages."""
    empty = replace(INCREMENT, commit=0)
    file = decode(encode(empty, [], CHECKSUM_FLAG))
    assert file == LtxFile(empty, (), Trailer(CHECKSUM_FLAG, file.trailer.file_checksum))
    assert _refused(empty, []) is Rule.POST_APPLY_OF_NOTHING
    assert _refused(empty, PAGES[:1], CHECKSUM_FLAG) is Rule.PAGE_BEYOND_COMMIT


def test_an_untracked_file() -> None:
    """Without database checksums both are zero, and the file checksum is still there."""
    header = replace(INCREMENT, flags=NO_CHECKSUM, pre_apply_checksum=0)
    assert decode(encode(header, PAGES, 0)).pages == tuple(PAGES)
    assert _refused(header, PAGES) is Rule.POST_APPLY_NOT_ALLOWED
    snapshot = replace(SNAPSHOT, flags=NO_CHECKSUM)
    assert decode(encode(snapshot, ALL, 0)).pages == tuple(ALL)


def test_a_snapshot_must_have_the_checksum_of_its_pages() -> None:
    """The one kind of file in which the database's checksum can be compared."""
    right = reference.database_checksum(ALL)
    assert decode(encode(SNAPSHOT, ALL, right)).trailer.post_apply_checksum == right
    assert _refused(SNAPSHOT, ALL, right ^ 1) is Rule.POST_APPLY_OF_SNAPSHOT


def test_a_snapshot_must_have_all_pages() -> None:
    """From page 1 to the last, without a gap."""
    for pages in ([], ALL[1:], ALL[:2], [ALL[0], ALL[2]], [ALL[2]]):
        assert _refused(SNAPSHOT, pages) is Rule.SNAPSHOT_PAGES


def test_a_broken_header_is_not_written() -> None:
    """The header's rules hold for what is written as well."""
    assert _refused(replace(INCREMENT, page_size=500), []) is Rule.PAGE_SIZE


@pytest.mark.parametrize(
    ("pages", "rule"),
    [
        ([(0, page(0))], Rule.PAGE_NUMBER_REQUIRED),
        ([(-1, page(0))], Rule.PAGE_NUMBER_REQUIRED),
        ([(301, page(0))], Rule.PAGE_BEYOND_COMMIT),
        ([(2, page(0)), (1, page(0))], Rule.PAGE_ORDER),
        ([(2, page(0)), (2, page(0))], Rule.PAGE_ORDER),
        ([(2, b"")], Rule.PAGE_LENGTH),
        ([(2, page(0, 511))], Rule.PAGE_LENGTH),
        ([(2, page(0, 513))], Rule.PAGE_LENGTH),
    ],
)
def test_refused_pages(pages: list[tuple[int, bytes]], rule: Rule) -> None:
    """Pages out of order, out of bounds or of another length are not written."""
    assert _refused(INCREMENT, pages) is rule


def test_the_lock_page_is_never_written() -> None:
    """The page of byte 2^30, at every page size; its neighbours are."""
    for page_size in (512, 4096, 65536):
        header = replace(INCREMENT, page_size=page_size, commit=2**30 // page_size + 2)
        lock = 2**30 // page_size + 1
        data = bytes(page_size)
        assert _refused(header, [(lock, data)]) is Rule.LOCK_PAGE
        beside = ((lock - 1, data), (lock + 1, data))
        assert decode(encode(header, beside, AFTER)).pages == beside


@pytest.mark.parametrize(
    ("after", "rule"),
    [
        (0, Rule.POST_APPLY_REQUIRED),
        (1, Rule.POST_APPLY_FORMAT),
        (2**64, Rule.FIELD_RANGE),
        (-1, Rule.FIELD_RANGE),
    ],
)
def test_refused_checksums(after: int, rule: Rule) -> None:
    """What no trailer could say is not written."""
    assert _refused(INCREMENT, PAGES, after) is rule


def test_pieces_in_the_wrong_order_are_our_own_mistake() -> None:
    """A page before the start or after the finish, or two starts, is an assertion."""
    encoder = Encoder(INCREMENT)
    with pytest.raises(AssertionError):
        encoder.page(*PAGES[0])
    encoder.start()
    with pytest.raises(AssertionError):
        encoder.start()
    encoder.finish(AFTER)
    with pytest.raises(AssertionError):
        encoder.page(*PAGES[0])
    with pytest.raises(AssertionError):
        encoder.finish(AFTER)
