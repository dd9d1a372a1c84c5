"""What the decoder reads, and one case for each way in which a file can be wrong."""

from __future__ import annotations

import lz4.block
import pytest

from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    Decoder,
    Event,
    Header,
    LtxError,
    LtxFile,
    Rule,
    Trailer,
    decode,
)
from tests.unit.replication.ltx import reference
from tests.unit.replication.ltx.reference import TOP, Frame, literals, page

FIRST = reference.header()
FRAMES = [Frame(1, page(1)), Frame(3, page(3))]
GOOD = reference.file(FIRST, FRAMES)
SNAPSHOT = reference.header(min_txid=1, pre_apply_checksum=0)
ALL = [Frame(pgno, page(pgno)) for pgno in (1, 2, 3)]
SUM = reference.database_checksum((frame.pgno, frame.page) for frame in ALL)
SMALL = reference.transactions()[0]
"""Three pages that compress well: 450 bytes."""


def _push(data: bytes, size: int) -> list[Event]:
    decoder = Decoder()
    events: list[Event] = []
    for at in range(0, len(data), size):
        events += decoder.feed(data[at : at + size])
    decoder.finish()
    return events


def _rule(data: bytes) -> Rule:
    """The rule that both readers name."""
    with pytest.raises(LtxError) as whole:
        decode(data)
    for size in (1, 64, len(data) or 1):
        with pytest.raises(LtxError) as pushed:
            _push(data, size)
        assert pushed.value.rule is whole.value.rule
    return whole.value.rule


def _frames(*frames: Frame, first: bytes = FIRST) -> bytes:
    return reference.file(first, frames)


def test_a_file() -> None:
    """Header, pages and trailer, whole."""
    checksum = int.from_bytes(GOOD[-8:], "big")
    assert decode(GOOD) == LtxFile(
        Header(0, 512, 3, 5, 5, 1_700_000_000_000, CHECKSUM_FLAG | 7),
        ((1, page(1)), (3, page(3))),
        Trailer(CHECKSUM_FLAG | 9, checksum),
    )


def test_a_snapshot() -> None:
    """All pages, and the checksum of them."""
    file = decode(reference.file(SNAPSHOT, ALL, SUM))
    assert file.header.is_snapshot
    assert file.pages == tuple((frame.pgno, frame.page) for frame in ALL)


def test_empty_chunks_change_nothing() -> None:
    """A chunk of no bytes gives no events, before, within and after the file."""
    decoder = Decoder()
    assert decoder.feed(b"") == []
    events = decoder.feed(GOOD[:300])
    assert decoder.feed(b"") == []
    events += decoder.feed(GOOD[300:])
    assert decoder.feed(b"") == []
    decoder.finish()
    assert events == _push(GOOD, len(GOOD))


def test_every_split_in_two() -> None:
    """Wherever the file is cut, the two parts give the same events."""
    whole = _push(SMALL, len(SMALL))
    for at in range(1, len(SMALL)):
        decoder = Decoder()
        assert decoder.feed(SMALL[:at]) + decoder.feed(SMALL[at:]) == whole
        decoder.finish()


@pytest.mark.parametrize("data", [SMALL, GOOD], ids=["compressed", "stored"])
def test_truncated_at_each_byte(data: bytes) -> None:
    """Every beginning of a file is refused, and as nothing but truncated."""
    for length in range(len(data)):
        with pytest.raises(LtxError) as caught:
            decode(data[:length])
        assert caught.value.rule is Rule.TRUNCATED
        decoder = Decoder()
        decoder.feed(data[:length])
        with pytest.raises(LtxError) as caught:
            decoder.finish()
        assert caught.value.rule is Rule.TRUNCATED


def test_each_flipped_bit_is_found() -> None:
    """Any altered bit is refused, except one that leaves a block unpacking to the same page."""
    good = decode(SMALL)
    blocks, at = set(), 100
    for _ in good.pages:
        size = int.from_bytes(SMALL[at + 6 : at + 10], "big")
        blocks |= set(range(at + 10, at + 10 + size))
        at += 10 + size
    passed = set()
    for at in range(len(SMALL)):
        for bit in range(8):
            altered = bytearray(SMALL)
            altered[at] ^= 1 << bit
            try:
                found = decode(bytes(altered))
            except LtxError:
                continue
            assert found == good
            passed.add(at)
    assert passed <= blocks


def test_each_flipped_byte_of_stored_pages_is_found() -> None:
    """Where blocks only store, no byte can be altered."""
    for at in range(len(GOOD)):
        altered = bytearray(GOOD)
        altered[at] ^= 0xFF
        with pytest.raises(LtxError):
            decode(bytes(altered))


def test_trailing() -> None:
    """Nothing may follow the trailer, not even another file."""
    for more in (b"\0", bytes(16), GOOD):
        assert _rule(GOOD + more) is Rule.TRAILING


def test_trailing_in_a_chunk_of_its_own() -> None:
    """Also if it comes later."""
    decoder = Decoder()
    decoder.feed(GOOD)
    with pytest.raises(LtxError) as caught:
        decoder.feed(b"\0")
    assert caught.value.rule is Rule.TRAILING


def test_not_a_file_at_all() -> None:
    """Anything else is told from its first bytes."""
    assert _rule(b"SQLite format 3\0".ljust(4096, b"\0")) is Rule.MAGIC
    assert _rule(b"") is Rule.TRUNCATED


def test_a_broken_header() -> None:
    """The rules of the header hold in a file."""
    assert _rule(_frames(first=reference.header(commit=2**32 - 1))) is Rule.COMMIT_LIMIT


def test_page_number_required() -> None:
    """Page 0 with flags is no end marker."""
    assert _rule(_frames(Frame(0, page(0)))) is Rule.PAGE_NUMBER_REQUIRED


@pytest.mark.parametrize("flags", [0, 2, 3, 1 << 15, 0xFFFF])
def test_page_flags(flags: int) -> None:
    """Only frames that state their size: not the older kind, and no unknown flag."""
    assert _rule(_frames(Frame(1, page(1), flags=flags))) is Rule.PAGE_FLAGS


def test_page_order() -> None:
    """Ascending, and no page twice."""
    assert _rule(_frames(FRAMES[1], FRAMES[0])) is Rule.PAGE_ORDER
    assert _rule(_frames(FRAMES[0], FRAMES[0])) is Rule.PAGE_ORDER


def test_page_beyond_commit() -> None:
    """No page that the database does not have."""
    assert _rule(_frames(Frame(4, page(4)))) is Rule.PAGE_BEYOND_COMMIT


def test_lock_page() -> None:
    """The page of byte 2^30 is in no file."""
    lock = 2**30 // 65536 + 1
    first = reference.header(page_size=65536, commit=lock + 1)
    data = page(1, 65536)
    assert _rule(_frames(Frame(lock, data), first=first)) is Rule.LOCK_PAGE
    assert decode(_frames(Frame(lock + 1, data), first=first)).pages == ((lock + 1, data),)


@pytest.mark.parametrize("kept", [[], [1], [1, 2], [2, 3], [1, 3]], ids=str)
def test_snapshot_pages(kept: list[int]) -> None:
    """A snapshot that lacks a page is none."""
    frames = [frame for frame in ALL if frame.pgno in kept]
    after = reference.database_checksum((frame.pgno, frame.page) for frame in frames)
    assert _rule(reference.file(SNAPSHOT, frames, after)) is Rule.SNAPSHOT_PAGES


@pytest.mark.parametrize("size", [0, 512 + 2 + 16 + 1, 2**31, 2**32 - 1])
def test_block_size(size: int) -> None:
    """No block is empty, or larger than the worst that a page can need."""
    assert _rule(_frames(Frame(1, page(1), size=size))) is Rule.BLOCK_SIZE


def test_the_largest_block() -> None:
    """One of the largest size is looked into, and not refused for its size."""
    frame = Frame(1, page(1), block=bytes(512 + 2 + 16))
    assert _rule(_frames(frame)) is Rule.BLOCK


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(literals(page(1, 511)), id="a byte too few"),
        pytest.param(literals(page(1, 513)), id="a byte too many"),
        pytest.param(literals(page(1)) + b"\0", id="a byte behind it"),
        pytest.param(literals(page(1))[:-1], id="cut"),
        pytest.param(b"\0", id="nothing"),
        pytest.param(b"\xff" * 100, id="endless"),
        pytest.param(lz4.block.compress(bytes(65536), store_size=False), id="too much"),
        pytest.param(b"\x14a\xff\xff" + bytes(50), id="from before its beginning"),
    ],
)
def test_block(block: bytes) -> None:
    """A block that does not unpack to exactly one page."""
    assert _rule(_frames(Frame(1, page(1), block=block))) is Rule.BLOCK


def _index(*entries: tuple[bytes, ...]) -> bytes:
    return b"".join(part for entry in entries for part in entry)


_RIGHT = reference.index_of(FRAMES)
_V = reference.varint


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(b"\0", id="empty"),
        pytest.param(_RIGHT[:5] + b"\0", id="a page missing"),
        pytest.param(_RIGHT[5:], id="the first missing"),
        pytest.param(_RIGHT[:-1] + _RIGHT, id="pages twice"),
        pytest.param(_RIGHT[:-1] + _V(4) + _V(1150) + _V(525) + b"\0", id="a page too many"),
        pytest.param(_V(2) + _RIGHT[1:], id="another page"),
        pytest.param(_RIGHT[:1] + _V(101) + _RIGHT[2:], id="another offset"),
        pytest.param(_RIGHT[:2] + _V(526) + _RIGHT[4:], id="another size"),
        pytest.param(b"\x81\0" + _RIGHT[1:], id="a number with a needless byte"),
        pytest.param(_RIGHT[:-1] + b"\x80\0", id="an end with a needless byte"),
        pytest.param(_RIGHT + b"\0", id="two ends"),
        pytest.param(b"\xff" * 64, id="an endless number"),
    ],
)
def test_index(index: bytes) -> None:
    """Whatever is not the index of these pages, and any other spelling of it."""
    assert index != _RIGHT
    assert _rule(reference.file(FIRST, FRAMES, index=index)) is Rule.INDEX


def test_the_index_cut_in_the_cases_above() -> None:
    """The cases alter what they say: entries of 1, 1 and 2, then 1, 2 and 2 bytes."""
    assert _index((_V(1), _V(100), _V(525)), (_V(3), _V(625), _V(525)), (_V(0),)) == _RIGHT
    assert [len(_V(number)) for number in (1, 100, 525, 3, 625, 0)] == [1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("size", [0, len(_RIGHT) - 1, len(_RIGHT) + 1, 2**63, 2**64 - 1])
def test_index_size(size: int) -> None:
    """The size of the index is that of these pages, whatever it says."""
    assert _rule(reference.file(FIRST, FRAMES, index_size=size)) is Rule.INDEX


def test_end_marker() -> None:
    """Six zero bytes end the pages, and nothing else does."""
    for end in (b"\0\0\0\0\0\1", b"\0\0\0\1\0\0", b"\xff" * 6):
        with pytest.raises(LtxError):
            decode(reference.file(FIRST, FRAMES, end=end))


@pytest.mark.parametrize(
    ("after", "rule"), [(0, Rule.POST_APPLY_REQUIRED), (9, Rule.POST_APPLY_FORMAT)]
)
def test_post_apply(after: int, rule: Rule) -> None:
    """The rules of the trailer hold in a file."""
    assert _rule(reference.file(FIRST, FRAMES, after)) is rule


def test_post_apply_of_snapshot() -> None:
    """A snapshot that lies about its database's checksum."""
    assert _rule(reference.file(SNAPSHOT, ALL, SUM ^ 1)) is Rule.POST_APPLY_OF_SNAPSHOT


@pytest.mark.parametrize(
    ("stored", "rule"),
    [
        (0, Rule.FILE_CHECKSUM_REQUIRED),
        (TOP - 1, Rule.FILE_CHECKSUM_FORMAT),
        (TOP, Rule.FILE_CHECKSUM),
    ],
)
def test_file_checksum(stored: int, rule: Rule) -> None:
    """Absent, not a checksum, or another file's."""
    assert _rule(reference.file(FIRST, FRAMES, file_checksum=stored)) is rule


def test_a_damaged_snapshot_is_damaged_and_not_a_liar() -> None:
    """Where both checksums are wrong the file's is named, since it says where the fault is."""
    altered = bytearray(reference.file(SNAPSHOT, ALL, SUM))
    altered[300] ^= 1
    assert _rule(bytes(altered)) is Rule.FILE_CHECKSUM


def test_an_error_names_numbers_and_nothing_else() -> None:
    """The message holds the rule and what was found."""
    with pytest.raises(LtxError, match=r"^page-order: 1 after 3$"):
        decode(_frames(FRAMES[1], FRAMES[0]))
