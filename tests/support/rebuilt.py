"""The database twice: as its log tells it, file by file, and as SQLite shows it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import reduce
from operator import xor
from pathlib import Path

import apsw

from petsem.model import Position
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_verify import verify
from petsem.replication.image import PAGE_SIZE, normalise
from petsem.replication.ltx import decode, page_checksum
from petsem.replication.ltx.checksum import CHECKSUM_FLAG


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the log says: the image, its position, and first and last TXID of each file."""

    image: bytes
    end: Position
    files: list[tuple[int, int]]


def rebuild(directory: Path) -> Rebuilt:
    """Every file of the log applied in order. After each the image has the checksum that the file
    gives, so a chain that only agrees with itself does not pass."""
    found = verify(directory)
    assert found.problems == ()
    log = LogReader.open_read_only(directory)
    image = bytearray()
    files = []
    rolling = 0
    for info in log.infos():
        record = log.record_at(info.min_txid)
        assert record is not None
        ltx = decode(record.data)
        assert ltx.header.pre_apply_checksum == rolling
        size = ltx.header.commit * PAGE_SIZE
        image.extend(bytes(max(0, size - len(image))))
        for pgno, page in ltx.pages:
            image[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE] = page
        del image[size:]
        rolling = ltx.trailer.post_apply_checksum
        assert rolling == rolling_of(bytes(image)), f"{info} does not give its checksum"
        files.append((info.min_txid, info.max_txid))
    assert log.end is not None
    return Rebuilt(bytes(image), log.end, files)


def rolling_of(image: bytes) -> int:
    """The checksum of all pages together."""
    pages = (image[at : at + PAGE_SIZE] for at in range(0, len(image), PAGE_SIZE))
    return reduce(xor, map(page_checksum, range(1, len(image)), pages)) | CHECKSUM_FLAG


def shown(database: Path, position: Position | None = None) -> bytes:
    """The canonical image of what SQLite finds in copies of the database and its WAL, at
    `position` or where the database itself says that it is. Nobody may be writing."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / database.name
        for path in (database, wal_of(database)):
            if path.exists():
                shutil.copyfile(path, copy.with_name(path.name))
        db = apsw.Connection(str(copy))
        if position is None:
            ((epoch, txid),) = db.execute("SELECT epoch, txid FROM position").fetchall()
            assert isinstance(epoch, int)
            assert isinstance(txid, int)
            position = Position(epoch, txid)
        image = bytes(db.serialize("main"))
        db.close()
    return normalise(image[:PAGE_SIZE], position.epoch, position.txid) + image[PAGE_SIZE:]


def wal_of(database: Path) -> Path:
    """The WAL beside a database."""
    return database.with_name(database.name + "-wal")
