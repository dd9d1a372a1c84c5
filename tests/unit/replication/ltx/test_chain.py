"""Following files one after another."""

import pytest

from petsem.replication.ltx import NO_CHECKSUM, Header, LtxError, Rule, compact, encode, verify
from tests.unit.replication.ltx import reference
from tests.unit.replication.ltx.test_compactor import Chain

FILES = reference.transactions()
"""Fourteen that follow one another."""


def _rule(files: list[bytes]) -> Rule:
    with pytest.raises(LtxError) as caught:
        verify((file,) for file in files)
    return caught.value.rule


def test_whole() -> None:
    """From any file on, and over ranges that were compacted."""
    for start in range(len(FILES)):
        header, _ = verify((file,) for file in FILES[start:])
        assert header.max_txid == 14
    assert verify([(compact(FILES[:5]),), (compact(FILES[5:]),)])[0].min_txid == 6


def test_what_breaks_it() -> None:
    """Nothing at all, a file missing, repeated, of another chain, or damaged."""
    other = Chain().add(3, [1, 2, 3]).add(3, [1]).files
    assert _rule([]) is Rule.CHAIN_EMPTY
    assert _rule([FILES[0], FILES[2]]) is Rule.CHAIN_TXID
    assert _rule([FILES[0], FILES[0]]) is Rule.CHAIN_TXID
    assert _rule([FILES[0], other[1]]) is Rule.CHAIN_PAGE_SIZE
    assert _rule([*FILES[:3], FILES[3][:-1]]) is Rule.TRUNCATED
    assert _rule([FILES[0], FILES[1] + b"\0", FILES[2]]) is Rule.TRAILING


def test_another_branch() -> None:
    """The right TXID on another database: what went before is not what it was made of."""
    left = Chain().add(3, [1, 2, 3]).add(3, [1]).add(3, [2])
    right = Chain().add(3, [1, 2, 3]).add(3, [1, 3]).add(3, [2])
    assert _rule([left.files[0], right.files[1], left.files[2]]) is Rule.CHAIN_CHECKSUM


def test_untracked() -> None:
    """A file without database checksums is no part of a chain, not even as its only file."""
    untracked = [encode(Header(NO_CHECKSUM, 512, 9, txid, txid, 0, 0), [], 0) for txid in (5, 6)]
    assert _rule(untracked) is Rule.CHAIN_UNTRACKED
    assert _rule(untracked[:1]) is Rule.CHAIN_UNTRACKED
