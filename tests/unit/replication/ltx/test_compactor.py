"""Several files as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    NO_CHECKSUM,
    Header,
    LtxError,
    Page,
    Rule,
    compact,
    compact_stream,
    decode,
    encode,
    merge,
)
from tests.unit.replication.ltx import reference
from tests.unit.replication.ltx.reference import page

SIZE = 512


class Chain:
    """A database and the files that made it."""

    def __init__(self) -> None:
        self.image = b""
        self.files: list[bytes] = []
        self.images = [b""]

    def add(self, commit: int, changed: Iterable[int]) -> Chain:
        """One transaction more: these pages get bytes of this transaction alone."""
        txid = len(self.files) + 1
        pages = [(pgno, page((txid, pgno))) for pgno in changed]
        before = reference.database_checksum(reference.pages_of(self.image, SIZE))
        self.image = reference.apply(self.image, SIZE, commit, pages)
        after = reference.database_checksum(reference.pages_of(self.image, SIZE))
        pre = 0 if txid == 1 else before
        header = Header(0, SIZE, commit, txid, txid, 1000 + txid, pre, node_id=txid)
        self.files.append(encode(header, pages, after))
        self.images.append(self.image)
        return self


def _chain() -> Chain:
    chain = Chain().add(4, range(1, 5)).add(4, [1, 3]).add(6, [1, 5, 6])
    return chain.add(3, [1]).add(5, [1, 4, 5]).add(5, [2]).add(2, [1])


def _rule(files: Sequence[bytes]) -> Rule:
    with pytest.raises(LtxError) as caught:
        compact(files)
    return caught.value.rule


def test_any_range_does_what_its_files_do() -> None:
    """Every range of a chain that grows and shrinks leaves the database that its files leave."""
    chain = _chain()
    for start in range(len(chain.files)):
        for end in range(start + 1, len(chain.files) + 1):
            files = chain.files[start:end]
            first, last, one = decode(files[0]), decode(files[-1]), decode(compact(files))
            assert one.header == Header(
                flags=0,
                page_size=SIZE,
                commit=last.header.commit,
                min_txid=start + 1,
                max_txid=end,
                timestamp_ms=1000 + end,
                pre_apply_checksum=first.header.pre_apply_checksum,
            )
            assert one.trailer.post_apply_checksum == last.trailer.post_apply_checksum
            left = reference.apply(chain.images[start], SIZE, one.header.commit, one.pages)
            assert left == chain.images[end]


def test_each_page_once_and_the_newest() -> None:
    """Of two versions of a page the later is kept, and what was cut off is dropped."""
    one = decode(compact(_chain().files[1:4]))
    assert one.pages == ((1, page((4, 1))), (3, page((2, 3))))


def test_compacting_again_changes_nothing() -> None:
    """A range made of ranges is the same file, byte for byte."""
    files = _chain().files
    parts = [compact(files[:3]), compact(files[3:4]), compact(files[4:])]
    assert compact(parts) == compact(files)
    assert compact([compact(files)]) == compact(files)


def test_from_the_first_transaction_it_is_a_snapshot() -> None:
    """It then holds every page of the database."""
    chain = _chain()
    one = decode(compact(chain.files))
    assert one.header.is_snapshot
    assert list(one.pages) == reference.pages_of(chain.image, SIZE)


def test_in_pieces_it_is_the_same() -> None:
    """Sources of small chunks, and the result in pieces."""
    files = _chain().files

    def chunks(data: bytes) -> Iterable[bytes]:
        return (data[at : at + 100] for at in range(0, len(data), 100))

    assert b"".join(compact_stream(map(chunks, files))) == compact(files)


def test_nothing_to_compact() -> None:
    """There must be a file."""
    assert _rule([]) is Rule.CHAIN_EMPTY


def test_txids_must_follow() -> None:
    """No gap, no overlap, no repetition, no other order."""
    files = _chain().files
    for chosen in (
        [files[0], files[2]],
        [files[1], files[0]],
        [files[1], files[1]],
        [compact(files[:2]), files[1]],
        [compact(files[:3]), compact(files[1:])],
    ):
        assert _rule(chosen) is Rule.CHAIN_TXID


def test_checksums_must_follow() -> None:
    """A file from another branch with the right TXID."""
    files = _chain().files
    other = decode(files[1])
    header = replace(other.header, pre_apply_checksum=CHECKSUM_FLAG | 1)
    forged = encode(header, other.pages, other.trailer.post_apply_checksum)
    assert _rule([files[0], forged]) is Rule.CHAIN_CHECKSUM


def test_page_sizes_must_be_one() -> None:
    """A database does not change its page size within a chain."""
    files = _chain().files
    other = encode(replace(decode(files[1]).header, page_size=1024), [], CHECKSUM_FLAG | 1)
    assert _rule([files[0], other]) is Rule.CHAIN_PAGE_SIZE


def test_untracked_files_are_not_linked() -> None:
    """Without checksums nothing shows that one file follows another."""
    files = _chain().files
    header = replace(decode(files[1]).header, flags=NO_CHECKSUM, pre_apply_checksum=0)
    untracked = encode(header, [], 0)
    assert _rule([files[0], untracked]) is Rule.CHAIN_UNTRACKED
    assert _rule([untracked]) is Rule.CHAIN_UNTRACKED


@pytest.mark.parametrize("which", range(7))
def test_a_damaged_input_makes_no_file(which: int) -> None:
    """Whichever is damaged, and though its pages were all used: the last piece never comes."""
    files = _chain().files
    altered = bytearray(files[which])
    altered[-1] ^= 1
    files[which] = bytes(altered)
    pieces = []
    with pytest.raises(LtxError) as caught:
        pieces.extend(compact_stream([(file,) for file in files]))
    assert caught.value.rule is Rule.FILE_CHECKSUM
    with pytest.raises(LtxError) as incomplete:
        decode(b"".join(pieces))
    assert incomplete.value.rule is Rule.TRUNCATED


def test_a_damaged_page_that_is_dropped_is_found_as_well() -> None:
    """Pages that a later file replaced, or that were cut off, are checked like all."""
    files = _chain().files
    altered = bytearray(files[0])
    altered[200] ^= 1
    assert _rule([bytes(altered), *files[1:]]) is Rule.FILE_CHECKSUM


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([(4, [1, 2, 3, 4]), (2, [1]), (3, [1])], id="cut and not written again"),
        pytest.param([(2, [1, 2]), (2, [1]), (5, [1, 3, 5])], id="grown with a gap"),
        pytest.param([(2, [1, 2]), (2, [1]), (5, [1])], id="grown without pages"),
    ],
)
def test_what_grows_must_bring_its_pages(chain: list[tuple[int, list[int]]]) -> None:
    """Applied one by one the page would be zeros; merged it would be what lay there before."""
    made = Chain()
    for commit, changed in chain:
        made.add(commit, changed)
    assert _rule(made.files[1:]) is Rule.CHAIN_GROWTH
    assert _rule(made.files) in (Rule.CHAIN_GROWTH, Rule.SNAPSHOT_PAGES)


def test_merge_takes_pages_from_anywhere() -> None:
    """A base of pages that no file holds, under two files' pages."""
    base = [(pgno, page(("base", pgno))) for pgno in (1, 2, 3)]
    one = [(1, page(1)), (4, page(4))]
    two = [(1, page(11)), (3, page(13))]
    found = list(merge([base, one, two], [3, 4, 4], 2_097_153))
    assert found == [two[0], base[1], two[1], one[1]]


def test_merge_skips_the_lock_page() -> None:
    """A database that grew over byte 2^30 lacks nothing, in a file or at its end."""

    def merged(commits: list[int], *sources: list[int]) -> list[int]:
        pages: list[list[Page]] = [[(pgno, b"") for pgno in source] for source in sources]
        return [pgno for pgno, _ in merge(pages, commits, 5)]

    assert merged([3, 7], [1], [1, 4, 6, 7]) == [1, 4, 6, 7]
    assert merged([3, 5], [1], [1, 4]) == [1, 4]
    assert merged([4, 5], [1], [1]) == [1]
    assert merged([5, 6], [1], [1, 6]) == [1, 6]
    with pytest.raises(LtxError):
        merged([3, 7], [1], [1, 4, 7])
