"""The rollback journal's bytes, against journals that SQLite itself writes."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from petsem.replication import journal
from petsem.replication.image import PAGE_SIZE


def test_what_sqlite_writes_is_what_we_write(tmp_path: Path) -> None:
    """With SQLite's nonce and pages, the whole journal of a transaction comes out byte for byte."""
    path = tmp_path / "any.db"
    db = apsw.Connection(str(path))
    db.execute("PRAGMA page_size = 4096")
    db.execute("PRAGMA synchronous = off")
    db.execute("CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(30000))")
    image = db.serialize("main")
    db.execute("BEGIN; UPDATE t SET x = randomblob(30000)")
    db.cache_flush()
    written = path.with_name("any.db-journal").read_bytes()
    db.close()
    nonce = int.from_bytes(written[12:16])
    body = written[journal.SECTOR_SIZE :]
    pgnos = [int.from_bytes(body[at : at + 4]) for at in range(0, len(body), journal.RECORD_BYTES)]
    assert len(pgnos) >= 8
    ours = [journal.record(nonce, pgno, page(image, pgno)) for pgno in pgnos]
    assert journal.header(nonce, len(image) // PAGE_SIZE) + b"".join(ours) == written


def page(image: bytes, pgno: int) -> bytes:
    """One page of an image."""
    return image[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE]


def test_the_header_is_one_sector() -> None:
    """Magic, count by size, nonce, size, sector, page size, and nothing else."""
    assert journal.header(0x01020304, 7) == (
        bytes.fromhex("d9d505f920a163d7 ffffffff 01020304 00000007 00000200 00001000")
        + bytes(512 - 28)
    )


def test_a_record_carries_the_check_that_sqlite_looks_for() -> None:
    """Every 200th byte from the end of the page, but not byte 0, and 32 bits of it."""
    content = bytearray(PAGE_SIZE)
    content[0] = content[3897] = 7
    assert journal.record(5, 9, bytes(content))[-4:] == bytes((0, 0, 0, 5))
    content[96] = content[3896] = 200
    made = journal.record(0xFFFF_FF00, 9, bytes(content))
    assert made == b"\0\0\0\x09" + bytes(content) + bytes((0, 0, 0, 144))


@pytest.mark.parametrize(
    ("first", "hot"), [(b"", False), (b"\0", False), (b"\xd9", True), (b"\x01\0", True)]
)
def test_a_cut_or_cleared_journal_is_not_hot(first: bytes, hot: bool) -> None:
    """SQLite looks at the first byte, and so do we."""
    assert journal.looks_hot(first) is hot
