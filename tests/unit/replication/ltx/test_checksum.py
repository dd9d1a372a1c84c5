"""Checksums of pages and databases."""

from petsem.replication.ltx import CHECKSUM_FLAG, page_checksum
from petsem.replication.ltx.checksum import crc
from tests.unit.replication.ltx import reference


def test_the_published_check_value() -> None:
    """CRC-64/GO-ISO of the nine digits is what the catalogues of CRCs give."""
    assert crc(b"123456789") == 0xB90956C775A41001
    assert reference.crc(b"123456789") == 0xB90956C775A41001


def test_a_crc_goes_on_from_another() -> None:
    """The CRC of two parts is that of the whole."""
    assert crc(b"6789", crc(b"12345")) == crc(b"123456789")


def test_page_checksum_is_over_number_and_page() -> None:
    """The page number counts, big-endian, and the top bit is always set."""
    page = reference.page("a", 4096)
    for pgno in (1, 2, 258, 2**32 - 1):
        found = page_checksum(pgno, page)
        assert found == reference.crc(pgno.to_bytes(4, "big") + page) | 1 << 63
        assert found & CHECKSUM_FLAG


def test_database_checksum_of_the_vectors() -> None:
    """The XOR over the pages of the database is what the public tool printed."""
    image = (reference.VECTORS / "expected.db").read_bytes()
    found = 0
    for pgno, page in reference.pages_of(image, 4096):
        found ^= page_checksum(pgno, page)
    assert found | CHECKSUM_FLAG == 0x8FD78EE909CFB813
