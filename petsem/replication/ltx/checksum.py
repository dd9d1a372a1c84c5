"""CRC-64/GO-ISO, and the checksum of a page.

It finds accidents, not forgers: whoever can alter a file can make its checksum fit. Bytes from a
peer are as good as the peer's certificate.
"""

from __future__ import annotations

from typing import Final

from fastcrc import crc64

CHECKSUM_FLAG: Final = 1 << 63
"""Set in every checksum that is stored, so that none is zero: zero says *no checksum*."""

crc = crc64.go_iso
"""`crc(data, before)`: the CRC of what `before` covers followed by `data`."""


def page_checksum(pgno: int, page: bytes) -> int:
    """The page's part of its database's checksum.

    A database's checksum is the XOR of those of its pages, the lock page left out, with
    `CHECKSUM_FLAG` set.
    """
    return crc(page, crc(pgno.to_bytes(4, "big"))) | CHECKSUM_FLAG
