"""One page in a file: page number, flags, size of the block, and the page as an LZ4 block.

The format has older frames without the size (an LZ4 stream, flags 0): they are refused, since a
reader could not tell where one ends before unpacking it. One page has many LZ4 encodings, so a
frame is the one part of a file with more than one spelling; what unpacks is checked, not how.
"""

from __future__ import annotations

import struct
from typing import Final

import lz4.block

from petsem.replication.ltx.errors import LtxError, Rule

PAGE_HEAD: Final = struct.Struct(">IH")
"""Page number and flags; all zero it ends the pages."""
FRAME_HEAD: Final = struct.Struct(">IHI")
"""Page number, flags and the size of the block."""
SIZED: Final = 1 << 0
"""Flag: a size follows, and the page is an LZ4 block."""
END: Final = bytes(PAGE_HEAD.size)


def max_block_bytes(page_size: int) -> int:
    """The longest block that a page can need: what LZ4 makes of bytes without any repetition."""
    return page_size + page_size // 255 + 16


def pack(page: bytes) -> bytes:
    """The page as an LZ4 block."""
    block: bytes = lz4.block.compress(page, store_size=False)
    return block


def unpack(block: bytes, page_size: int) -> bytes:
    """The page of `page_size` bytes that `block` holds; never more memory than that."""
    try:
        page: bytes = lz4.block.decompress(block, uncompressed_size=page_size)
    except lz4.block.LZ4BlockError:
        raise LtxError(Rule.BLOCK, "it does not unpack") from None
    if len(page) != page_size:
        raise LtxError(Rule.BLOCK, f"it unpacks to {len(page)} bytes of {page_size}")
    return page
