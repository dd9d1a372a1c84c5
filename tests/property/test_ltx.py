"""LTX for whatever files, chains and bytes Hypothesis finds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    Decoder,
    Event,
    Header,
    LtxError,
    LtxFile,
    Page,
    compact,
    decode,
    encode,
    verify,
)
from tests.unit.replication.ltx import reference

SIZE = 512
# The machine is shared, so how long one example takes says nothing.
relaxed = settings(deadline=None)

uint64 = st.integers(0, 2**64 - 1)
checksums = uint64.map(lambda number: number | CHECKSUM_FLAG)
contents = st.one_of(
    st.binary(min_size=SIZE, max_size=SIZE),
    st.binary(min_size=1, max_size=8).map(lambda part: (part * SIZE)[:SIZE]),
)


@st.composite
def files(draw: st.DrawFn) -> tuple[Header, list[Page], int]:
    """Header, pages and checksum of an increment."""
    commit = draw(st.integers(1, 2**24))
    first = draw(st.integers(2, 2**64 - 1))
    header = Header(
        flags=0,
        page_size=SIZE,
        commit=commit,
        min_txid=first,
        max_txid=draw(st.integers(first, 2**64 - 1)),
        timestamp_ms=draw(st.integers(-(2**63), 2**63 - 1)),
        pre_apply_checksum=draw(checksums),
        wal_offset=draw(st.integers(1, 2**63 - 1)),
        wal_size=draw(st.integers(0, 2**63 - 1)),
        wal_salt1=draw(st.integers(0, 2**32 - 1)),
        wal_salt2=draw(st.integers(0, 2**32 - 1)),
        node_id=draw(uint64),
    )
    numbers = st.integers(1, commit).filter(lambda pgno: pgno != header.lock_page)
    pages = draw(st.dictionaries(numbers, contents, max_size=8))
    return header, sorted(pages.items()), draw(checksums)


@dataclass(frozen=True)
class Change:
    """One transaction: the size of the database after it, and which pages it writes with what.

    Numbers beyond that size are folded into it; what it grows by is always written.
    """

    commit: int
    written: dict[int, bytes]


changes = st.builds(
    Change, st.integers(1, 12), st.dictionaries(st.integers(0, 11), contents, max_size=6)
)


def _chain(steps: list[Change]) -> tuple[list[bytes], list[bytes]]:
    """The files of these transactions, and the database before the first and after each."""
    images, made = [b""], []
    for txid, step in enumerate(steps, 1):
        size = len(images[-1]) // SIZE
        pages = {pgno: bytes([txid]) * SIZE for pgno in range(size + 1, step.commit + 1)}
        pages |= {number % step.commit + 1: data for number, data in step.written.items()}
        image = reference.apply(images[-1], SIZE, step.commit, pages.items())
        before, after = (
            reference.database_checksum(reference.pages_of(one, SIZE))
            for one in (images[-1], image)
        )
        pre = 0 if txid == 1 else before
        header = Header(0, SIZE, step.commit, txid, txid, txid, pre)
        made.append(encode(header, sorted(pages.items()), after))
        images.append(image)
    return made, images


def _pushed(data: bytes, cuts: list[int]) -> list[Event]:
    decoder = Decoder()
    events: list[Event] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        events += decoder.feed(data[at:cut])
        at = max(at, cut)
    decoder.finish()
    return events


def _decoded(data: bytes) -> LtxFile | None:
    """The file, or None for an `LtxError`; any other exception is a failure of the test."""
    try:
        return decode(data)
    except LtxError:
        return None


@relaxed
@given(files(), st.data())
def test_round_trip(parts: tuple[Header, list[Page], int], data: st.DataObject) -> None:
    """What was written is read, whole or cut anywhere."""
    header, pages, after = parts
    encoded = encode(header, pages, after)
    file = decode(encoded)
    assert (file.header, list(file.pages), file.trailer.post_apply_checksum) == parts
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=6))
    assert _pushed(encoded, cuts) == [header, *file.pages, file.trailer]


@relaxed
@given(files())
def test_the_reference_agrees(parts: tuple[Header, list[Page], int]) -> None:
    """A file of the reference holds the same, and differs in nothing but its blocks."""
    header, pages, after = parts
    fields = {name: getattr(header, name) for name in Header.__slots__}
    frames = [reference.Frame(*one) for one in pages]
    file = decode(reference.file(reference.header(**fields), frames, after))
    assert (file.header, list(file.pages), file.trailer.post_apply_checksum) == parts


@relaxed
@given(st.lists(changes, min_size=1, max_size=7), st.data())
def test_compaction_is_applying_in_order(steps: list[Change], data: st.DataObject) -> None:
    """Any range as one file leaves the database that its files leave, and stays in its chain."""
    made, images = _chain(steps)
    start = data.draw(st.integers(0, len(made) - 1))
    end = data.draw(st.integers(start + 1, len(made)))
    one = compact(made[start:end])
    file = decode(one)
    left = reference.apply(images[start], SIZE, file.header.commit, file.pages)
    assert left == images[end]
    numbers = [pgno for pgno, _ in file.pages]
    assert numbers == sorted(set(numbers))
    chain = [*made[:start], one, *made[end:]]
    header, trailer = verify((part,) for part in chain)
    assert header.max_txid == len(made)
    assert trailer.post_apply_checksum == decode(made[-1]).trailer.post_apply_checksum


@relaxed
@given(st.binary(max_size=300))
@example(b"LTX1")
def test_any_bytes(data: bytes) -> None:
    """Bytes that nobody wrote are refused by a rule, as a file and behind a good header."""
    assert _decoded(data) is None
    header = Header(0, SIZE, 3, 5, 5, 0, CHECKSUM_FLAG).encode()
    assert _decoded(header + data) is None


@relaxed
@given(files(), st.data())
def test_altered_files(parts: tuple[Header, list[Page], int], data: st.DataObject) -> None:
    """A file with some bytes replaced is refused, or holds what it held."""
    encoded = encode(*parts)
    at = data.draw(st.integers(0, len(encoded)))
    end = data.draw(st.integers(at, min(at + 20, len(encoded))))
    altered = encoded[:at] + data.draw(st.binary(max_size=20)) + encoded[end:]
    found = _decoded(altered)
    assert found is None or found == decode(encoded)


@relaxed
@given(st.lists(changes, min_size=2, max_size=4), st.data())
def test_a_lie_about_the_database_is_found(steps: list[Change], data: st.DataObject) -> None:
    """A snapshot that says another checksum is refused when it is written."""
    made, _ = _chain(steps)
    file = decode(compact(made))
    wrong = data.draw(checksums.filter(lambda one: one != file.trailer.post_apply_checksum))
    with pytest.raises(LtxError, match=r"^post-apply-of-snapshot: "):
        encode(file.header, file.pages, wrong)
