"""LTX, version 3: transactions of a SQLite database as files (`docs/formats/ltx.md`).

Guarantees: what is read obeys every rule of `errors.Rule` or is refused with that rule's name;
what is written obeys them too, and the public `ltx` tool accepts it; lengths are checked against
`petsem.limits` before memory is taken for them.

Does not know epochs, the canonical image of page 1, or where files lie; does not open files. A
file that passed every rule shows that it is whole, not who made it. The checksum of a database
over its pages is computed here for snapshots only: whoever applies other files compares it.
"""

from petsem.replication.ltx.chain import verify
from petsem.replication.ltx.checksum import CHECKSUM_FLAG, page_checksum
from petsem.replication.ltx.compactor import compact, compact_stream, merge
from petsem.replication.ltx.decoder import Decoder, Event, LtxFile, Page, decode, peek_header
from petsem.replication.ltx.encoder import Encoder, encode
from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.header import HEADER_BYTES, NO_CHECKSUM, Header
from petsem.replication.ltx.names import format_name, parse_name
from petsem.replication.ltx.reader import Reader
from petsem.replication.ltx.trailer import TRAILER_BYTES, Trailer

__all__ = [
    "CHECKSUM_FLAG",
    "HEADER_BYTES",
    "NO_CHECKSUM",
    "TRAILER_BYTES",
    "Decoder",
    "Encoder",
    "Event",
    "Header",
    "LtxError",
    "LtxFile",
    "Page",
    "Reader",
    "Rule",
    "Trailer",
    "compact",
    "compact_stream",
    "decode",
    "encode",
    "format_name",
    "merge",
    "page_checksum",
    "parse_name",
    "peek_header",
    "verify",
]
