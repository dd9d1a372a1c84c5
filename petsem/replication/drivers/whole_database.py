"""All pages of a leader's database: as the log begins with them, and whether they still hold.

Guarantees: what is logged is the database file with the WAL over it, each page once, its checksums
in a table of its own. It asks nobody to stand still: the caller, on the thread that commits, sees
to it that neither file changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from petsem.model import Position
from petsem.replication.drivers.database_file import RUN_PAGES, PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.page_checksums import scan
from petsem.replication.image import PAGE_SIZE, normalise, page_numbers
from petsem.replication.ltx import Encoder, Header
from petsem.replication.ltx.checksum import CHECKSUM_FLAG
from petsem.replication.rolling import PageChecksums
from petsem.replication.wal import WalCommit

Pages = Iterator[tuple[int, bytes]]


def log_snapshot(
    log: TransactionLog,
    commits: Sequence[WalCommit],
    file: PageReader,
    position: Position,
    at_ms: int,
) -> tuple[PageChecksums, bytes]:
    """Begin the log anew with the whole database at `position`, which is its file with `commits`,
    all of its WAL, over it; the table of checksums and page 1."""
    size, page = overlaid(commits, file)
    table = PageChecksums()
    header = Header(
        flags=0,
        page_size=PAGE_SIZE,
        commit=size,
        min_txid=1,
        max_txid=position.txid,
        timestamp_ms=at_ms,
        pre_apply_checksum=0,
    )

    def pages() -> Pages:
        for pgno in page_numbers(size):
            found = page(pgno)
            if pgno == 1:
                found = normalise(found, position.epoch, position.txid)
            yield pgno, found

    change = table.plan(pages(), size)
    log.reset()
    log.append_stream(position.epoch, header, chunks(header, pages(), lambda: change.rolling))
    table.accept(change)
    return table, next(pages())[1]


def all_hold(table: PageChecksums, file: PageReader, end: Position) -> bool:
    """Fill in what `table`, which is at `end`, does not know, and whether all pages together have
    the checksum that it carried on."""
    for _ in scanning(table, file, end):
        pass
    return table.verify()


def scanning(table: PageChecksums, file: PageReader, end: Position) -> Iterator[int]:
    """Fill in what `table`, which is at `end`, does not know, some pages a step; as `scan`."""

    def read(size: int, offset: int) -> bytes:
        return file.block(offset // PAGE_SIZE + 1, size // PAGE_SIZE)

    return scan(table, read, end, pages=RUN_PAGES)


def overlaid(commits: Sequence[WalCommit], file: PageReader) -> tuple[int, Callable[[int], bytes]]:
    """The size in pages, and each page, of a database file with the commits of its WAL over it."""
    latest: dict[int, WalCommit] = {}
    for commit in commits:
        latest.update(dict.fromkeys(commit.found, commit))
    size = commits[-1].size if commits else file.size_pages()

    def page(pgno: int) -> bytes:
        commit = latest.get(pgno)
        found = commit.page(pgno) if commit is not None else file.read(pgno)
        assert found is not None
        return found

    return size, page


def chunks(header: Header, pages: Pages, rolling: Callable[[], int]) -> Iterator[bytes]:
    """An LTX file in pieces, none of them larger than a page; `rolling` is asked at the end."""
    encoder = Encoder(header)
    yield encoder.start()
    for pgno, page in pages:
        yield encoder.page(pgno, page)
    yield encoder.finish(rolling() | CHECKSUM_FLAG)
