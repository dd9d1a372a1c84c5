"""The format page shows what the code does."""

import re

from petsem.limits import LTX_COMMIT_MAX_PAGES, LTX_DECODE_MAX_BYTES
from petsem.replication.ltx import (
    CHECKSUM_FLAG,
    HEADER_BYTES,
    TRAILER_BYTES,
    Header,
    Rule,
    decode,
    page_checksum,
)
from petsem.replication.ltx.frame import FRAME_HEAD, max_block_bytes
from tests.unit.replication.ltx import reference

TEXT = reference.DOCS.read_text()


def test_every_rule_is_on_the_page() -> None:
    """Each name once, in the order of the code."""
    refused = TEXT[TEXT.index("\n## What is refused") :]
    assert re.findall(r"^\| `([a-z-]+)` \|", refused, re.MULTILINE) == list(Rule)


def test_the_example_is_a_file() -> None:
    """It decodes to what the page says of it."""
    (block,) = re.findall(r"^```\n([0-9a-f\n]+)^```$", TEXT, re.MULTILINE)
    data = bytes.fromhex(block.replace("\n", ""))
    file = decode(data)
    assert f"({len(data)} bytes)" in TEXT
    assert file.header == Header(0, 512, 1, 1, 1, 1_700_000_000_000, 0)
    assert file.pages == ((1, bytes(512)),)
    assert file.trailer.post_apply_checksum == page_checksum(1, bytes(512))


def test_the_fields_of_the_tables_leave_no_gap() -> None:
    """Each table's fields stand one behind the other up to the length the page states."""
    tables = re.findall(r"\| at \| bytes \| field \| value \|\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT)
    ends = []
    for table in tables:
        rows = re.findall(r"^\| (\d+) \| (\d+|n) \|", table, re.MULTILINE)
        at = 0
        for start, size in rows:
            assert int(start) == at
            at += 0 if size == "n" else int(size)
        ends.append(at)
    assert ends == [HEADER_BYTES, FRAME_HEAD.size, TRAILER_BYTES]


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    """Limits, lock page, empty database and largest block."""
    assert f"at most {LTX_COMMIT_MAX_PAGES:,} pages" in TEXT
    assert f"up to {LTX_DECODE_MAX_BYTES // 2**20} MiB of pages" in TEXT
    assert f"page {Header(0, 4096, 1, 1, 1, 0, 0).lock_page:,} where" in TEXT
    assert f"with no pages `{CHECKSUM_FLAG:016x}`" in TEXT
    assert max_block_bytes(4096) == 4096 + 4096 // 255 + 16
