"""An LTX file from another node, held against this node's database before anything is written.

Guarantees: a `Frame` is a whole LTX file of the transactions next to `at`, canonical in page 1, and
its pages may be applied as they are. `plan` shows that they leave the database which the file
promises: page by page, from the checksums of the pages they replace. It does not show that the
sender is honest about what the leader wrote: whoever holds a node's certificate may say so.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from petsem import limits
from petsem.model import Position
from petsem.replication.image import PAGE_SIZE, normalise, stamp
from petsem.replication.ltx import Header, LtxError, Reader, Rule, decode
from petsem.replication.page_set import NotApplicable, in_order
from petsem.replication.rolling import Change, ChecksumTableError, PageChecksums
from petsem.server.replica.errors import BadFrame, NotContiguous

Page = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Frame:
    """`pages` gives them anew each time it is called; `held` is all of them, or None if they are
    too many for memory. `end` is where the database stands afterwards."""

    epoch: int
    data: bytes
    header: Header
    numbers: array[int]
    end: Position
    pages: Callable[[], Iterator[Page]]
    held: tuple[Page, ...] | None


class WrongSum(BadFrame):
    """The pages do not leave the database that the file promises. If this node's own database is
    damaged, an honest file looks so too."""

    def __init__(self) -> None:
        super().__init__("rolling-checksum")


def open_frame(epoch: int, data: bytes, at: Position) -> Frame:
    """The file `data`, whose last transaction is of `epoch`, to be stored behind `at`.

    Reads all of it: for a large one not on the loop. Raises `BadFrame` and `NotContiguous`.
    """
    if len(data) > limits.STREAM_FILE_MAX_BYTES:
        raise BadFrame("size")
    try:
        held: tuple[Page, ...] | None
        try:
            file = decode(data)
            header, held = file.header, file.pages
            post = file.trailer.post_apply_checksum
        except LtxError as e:
            if e.rule is not Rule.DECODED_SIZE:
                raise
            reader = Reader((data,))
            header, held = reader.header, None
        _check_place(header, epoch, at)
        numbers = array("I", _numbers(reader if held is None else held, header, epoch))
        if held is None:
            post = reader.trailer.post_apply_checksum
    except LtxError as e:
        raise BadFrame(str(e.rule)) from e
    except NotApplicable as e:
        raise BadFrame(e.rule) from e
    end = Position(epoch, header.max_txid, post)
    if held is None:
        return Frame(epoch, data, header, numbers, end, lambda: iter(Reader((data,))), None)
    kept = held
    return Frame(epoch, data, header, numbers, end, lambda: iter(kept), kept)


def plan(frame: Frame, table: PageChecksums) -> Change:
    """What the frame makes of `table`, in which the pages it replaces are known. `BadFrame`."""
    try:
        change = table.plan(frame.pages(), frame.header.commit)
    except ChecksumTableError as e:
        raise BadFrame(e.rule.lower()) from e
    if change.rolling != frame.end.checksum:
        raise WrongSum
    return change


def is_canonical(page1: bytes, position: Position, commit: int) -> bool:
    """Whether this is page 1 of the image at `position`, of a database of `commit` pages."""
    return (
        page1 == normalise(page1, position.epoch, position.txid)
        and int.from_bytes(page1[28:32]) == commit
    )


def _check_place(header: Header, epoch: int, at: Position) -> None:
    if header.page_size != PAGE_SIZE:
        raise BadFrame("page-size")
    if not header.tracks_checksum:
        raise BadFrame("no-checksums")
    if header.min_txid != at.txid + 1:
        raise NotContiguous(f"transaction {header.min_txid} does not follow {at}")
    if header.pre_apply_checksum != at.checksum:
        raise NotContiguous(f"transaction {header.min_txid} follows another database than {at}")
    if epoch < at.epoch:
        raise NotContiguous(f"epoch {epoch} does not follow {at}")


def _numbers(pages: Iterable[Page], header: Header, epoch: int) -> Iterator[int]:
    ordered = in_order(pages, header.commit, stamp(epoch, header.max_txid))
    for pgno, page in ordered:
        if pgno == 1 and page != normalise(page, epoch, header.max_txid):
            raise NotApplicable("not-canonical")
        yield pgno
