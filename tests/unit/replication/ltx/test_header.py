"""The header: its bytes, and one case for each of its rules."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from petsem.limits import LTX_COMMIT_MAX_PAGES
from petsem.replication.ltx import CHECKSUM_FLAG, NO_CHECKSUM, Header, LtxError, Rule, peek_header
from petsem.replication.ltx.header import RULES
from tests.unit.replication.ltx import reference

INCREMENT = Header(0, 4096, 3, 5, 8, 1_700_000_000_000, CHECKSUM_FLAG | 7)
SNAPSHOT = Header(0, 4096, 3, 1, 8, 1_700_000_000_000, 0)

# Each breaks one rule, and obeys all that are looked at before it.
BROKEN: dict[Rule, list[Header]] = {
    Rule.FLAGS: [replace(INCREMENT, flags=flags) for flags in (1, 3, 4, 1 << 31)],
    Rule.PAGE_SIZE: [
        replace(INCREMENT, page_size=size) for size in (0, 1, 256, 511, 4095, 6144, 131072)
    ],
    Rule.COMMIT_LIMIT: [
        replace(INCREMENT, commit=LTX_COMMIT_MAX_PAGES + 1),
        replace(INCREMENT, commit=2**32 - 1),
    ],
    Rule.MIN_TXID_REQUIRED: [replace(INCREMENT, min_txid=0)],
    Rule.MAX_TXID_REQUIRED: [replace(INCREMENT, max_txid=0)],
    Rule.TXID_ORDER: [replace(INCREMENT, min_txid=9)],
    Rule.WAL_OFFSET_NEGATIVE: [replace(INCREMENT, wal_offset=-1)],
    Rule.WAL_SIZE_NEGATIVE: [replace(INCREMENT, wal_offset=32, wal_size=-1)],
    Rule.WAL_SALT_WITHOUT_OFFSET: [
        replace(INCREMENT, wal_salt1=1),
        replace(INCREMENT, wal_salt2=1),
    ],
    Rule.WAL_SIZE_WITHOUT_OFFSET: [replace(INCREMENT, wal_size=1)],
    Rule.PRE_APPLY_ON_SNAPSHOT: [
        replace(SNAPSHOT, pre_apply_checksum=CHECKSUM_FLAG),
        replace(SNAPSHOT, pre_apply_checksum=CHECKSUM_FLAG, flags=NO_CHECKSUM),
    ],
    Rule.PRE_APPLY_NOT_ALLOWED: [replace(INCREMENT, flags=NO_CHECKSUM)],
    Rule.PRE_APPLY_REQUIRED: [replace(INCREMENT, pre_apply_checksum=0)],
    Rule.PRE_APPLY_FORMAT: [replace(INCREMENT, pre_apply_checksum=CHECKSUM_FLAG - 1)],
}
ALLOWED = {
    "increment": INCREMENT,
    "snapshot": SNAPSHOT,
    "one transaction": replace(INCREMENT, max_txid=5),
    "largest TXIDs": replace(INCREMENT, min_txid=2**64 - 1, max_txid=2**64 - 1),
    "empty database": replace(INCREMENT, commit=0),
    "largest database": replace(INCREMENT, commit=LTX_COMMIT_MAX_PAGES),
    "smallest pages": replace(INCREMENT, page_size=512),
    "largest pages": replace(INCREMENT, page_size=65536),
    "before 1970": replace(INCREMENT, timestamp_ms=-1),
    "untracked": replace(INCREMENT, flags=NO_CHECKSUM, pre_apply_checksum=0),
    "untracked snapshot": replace(SNAPSHOT, flags=NO_CHECKSUM),
    "from a WAL": replace(INCREMENT, wal_offset=32, wal_size=4120, wal_salt1=1, wal_salt2=2),
    "salts without size": replace(INCREMENT, wal_offset=32, wal_salt1=1),
    "a node": replace(INCREMENT, node_id=2**64 - 1),
}


def _fields(header: Header) -> dict[str, Any]:
    return {name: getattr(header, name) for name in Header.__slots__}


def _rule_of(data: bytes) -> Rule:
    with pytest.raises(LtxError) as caught:
        Header.parse(data)
    return caught.value.rule


@pytest.mark.parametrize("header", ALLOWED.values(), ids=ALLOWED)
def test_allowed(header: Header) -> None:
    """Encodes to the bytes of the table and comes back whole."""
    encoded = header.encode()
    assert encoded == reference.header(**_fields(header))
    assert Header.parse(encoded) == header
    assert peek_header(encoded + b"more") == header


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES], ids=str)
def test_rule(rule: Rule) -> None:
    """A header that breaks the rule is neither written nor read, and the rule is named."""
    for header in BROKEN[rule]:
        with pytest.raises(LtxError) as caught:
            header.encode()
        assert caught.value.rule is rule
        assert _rule_of(reference.header(**_fields(header))) is rule


def test_every_rule_is_looked_at_once() -> None:
    """No rule stands twice in the list."""
    assert sorted(BROKEN) == sorted(rule for rule, _ in RULES)


def test_magic() -> None:
    """Any other first four bytes are another kind of file."""
    assert _rule_of(reference.header(magic=b"LTX0")) is Rule.MAGIC


def test_reserved() -> None:
    """Each of the twenty bytes must be zero, since there is one spelling of a header."""
    for at in range(20):
        assert _rule_of(reference.header(reserved=bytes(at) + b"\1" + bytes(19 - at))) is (
            Rule.RESERVED
        )


def test_truncated() -> None:
    """A header is 100 bytes, no fewer and no more."""
    encoded = INCREMENT.encode()
    assert [_rule_of(encoded[:length]) for length in range(100)] == [Rule.TRUNCATED] * 100
    assert _rule_of(encoded + b"\0") is Rule.TRUNCATED
    with pytest.raises(LtxError, match=r"^truncated: a header of 99 bytes$"):
        peek_header(encoded[:99])


@pytest.mark.parametrize(
    "change",
    [
        {"max_txid": 2**64},
        {"timestamp_ms": 2**63},
        {"node_id": -1},
        {"commit": -1},
        {"wal_offset": 1, "wal_salt1": 2**32},
    ],
    ids=str,
)
def test_field_range(change: dict[str, int]) -> None:
    """A number that does not fit its field is refused and not cut."""
    with pytest.raises(LtxError) as caught:
        replace(INCREMENT, **change).encode()
    assert caught.value.rule is Rule.FIELD_RANGE


def test_places_of_the_fields() -> None:
    """Every field stands where the table says, big-endian."""
    header = Header(0, 8192, 3, 5, 6, 7, CHECKSUM_FLAG | 8, 9, 10, 11, 12, 13)
    encoded = header.encode()
    assert encoded[:4] == b"LTX1"
    assert struct.unpack_from(">3I", encoded, 4) == (0, 8192, 3)
    assert struct.unpack_from(">6Q", encoded, 16) == (5, 6, 7, CHECKSUM_FLAG | 8, 9, 10)
    assert struct.unpack_from(">2I", encoded, 64) == (11, 12)
    assert struct.unpack_from(">Q", encoded, 72) == (13,)
    assert encoded[80:] == bytes(20)


def test_what_a_header_says_of_itself() -> None:
    """Snapshot, tracking and lock page follow from the fields."""
    assert (SNAPSHOT.is_snapshot, INCREMENT.is_snapshot) == (True, False)
    assert (SNAPSHOT.tracks_checksum, replace(SNAPSHOT, flags=2).tracks_checksum) == (True, False)
    locks = {size: replace(SNAPSHOT, page_size=size).lock_page for size in (512, 4096, 65536)}
    assert locks == {512: 2_097_153, 4096: 262_145, 65536: 16_385}
