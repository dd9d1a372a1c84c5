"""WAL files that SQLite wrote, and a plain second reading of the format to compare with."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import apsw

PAGE = 4096
FRAME = 24 + PAGE
MAGIC = {"little": 0x377F0682, "big": 0x377F0683}
Order = Literal["little", "big"]


class Rig:
    """A database in WAL mode, one connection that writes, one that checkpoints."""

    def __init__(self, directory: Path, *, vfs: str | None = None) -> None:
        self.path = directory / "petsem.db"
        self.wal = directory / "petsem.db-wal"
        self.vfs = vfs
        self.frames = 0
        self.db = self.connect()
        self.db.execute("PRAGMA wal_autocheckpoint = 0")
        self.db.set_wal_hook(self._committed)
        self.second = self.connect()
        self.second.execute("SELECT count(*) FROM sqlite_schema").fetchall()

    def connect(self) -> apsw.Connection:
        """A connection that leaves the WAL alone when it closes."""
        db = apsw.Connection(str(self.path), vfs=self.vfs)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.execute("PRAGMA page_size = 4096")
        db.execute("PRAGMA journal_mode = wal")
        return db

    def _committed(self, _db: apsw.Connection, _name: str, frames: int) -> int:
        self.frames = frames
        return apsw.SQLITE_OK

    def run(self, sql: str, *args: Any) -> None:
        self.db.execute(sql, args)

    def table(self) -> None:
        self.run("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)")

    def insert(self, size: int, fill: str = "ab") -> None:
        """One commit, of about `size` bytes."""
        self.run("INSERT INTO t (x) VALUES (unhex(replace(hex(zeroblob(?)), '00', ?)))", size, fill)

    def checkpoint(self, mode: int) -> tuple[int, int]:
        return self.second.wal_checkpoint(None, mode)

    def counted(self) -> int:
        """How many frames the WAL has, as SQLite's index says."""
        return self.checkpoint(apsw.SQLITE_CHECKPOINT_NOOP)[0]

    def image(self) -> bytes:
        """The database as a reader sees it."""
        return bytes(self.db.serialize("main"))

    def close(self) -> None:
        self.second.close()
        self.db.close(True)


class Image:
    """The pages of a database, to which commits are applied."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def apply(self, pages: Iterable[tuple[int, bytes]], size: int) -> bytes:
        self.data.extend(bytes(max(0, size * PAGE - len(self.data))))
        for pgno, page in pages:
            self.data[(pgno - 1) * PAGE : pgno * PAGE] = page
        del self.data[size * PAGE :]
        return bytes(self.data)


def words_sum(data: bytes, order: Order, s0: int = 0, s1: int = 0) -> tuple[int, int]:
    """The WAL's checksum as its documentation spells it."""
    for at in range(0, len(data), 8):
        x = int.from_bytes(data[at : at + 4], order)
        y = int.from_bytes(data[at + 4 : at + 8], order)
        s0 = (s0 + x + s1) % 2**32
        s1 = (s1 + y + s0) % 2**32
    return s0, s1


def header(order: Order, salts: bytes, *, version: int = 3007000, page_size: int = PAGE) -> bytes:
    head = struct.pack(">IIII", MAGIC[order], version, page_size, 0) + salts
    return head + struct.pack(">II", *words_sum(head, order))


def build(
    order: Order,
    frames: Iterable[tuple[int, int, bytes]],
    salts: bytes = b"saltsalt",
) -> bytes:
    """A WAL with these (page number, size after commit or 0, page)."""
    out = bytearray(header(order, salts))
    state = struct.unpack_from(">II", out, 24)
    for pgno, size, page in frames:
        head = struct.pack(">II", pgno, size)
        state = words_sum(head + page, order, *state)
        out += head + salts + struct.pack(">II", *state) + page
    return bytes(out)


def split(wal: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(page number, size, page) of every frame that has a place in the file, right or wrong."""
    for at in range(32, len(wal) - FRAME + 1, FRAME):
        pgno, size = struct.unpack_from(">II", wal, at)
        yield pgno, size, wal[at + 24 : at + FRAME]


Plain = list[tuple[int, int, dict[int, bytes]]]
"""For each commit (database size, frames behind it, pages)."""


def plain_read(wal: bytes) -> Plain:
    """What SQLite's recovery takes from a WAL, written as simply as possible."""
    out: Plain = []
    if len(wal) < 32:
        return out
    order: Order = "big" if wal[3] & 1 else "little"
    if wal[:4] != struct.pack(">I", MAGIC[order]):
        return out
    state = words_sum(wal[:24], order)
    if struct.pack(">II", *state) != wal[24:32]:
        return out
    pages: dict[int, bytes] = {}
    for number, (pgno, size, page) in enumerate(split(wal), 1):
        at = 32 + (number - 1) * FRAME
        state = words_sum(wal[at : at + 8] + page, order, *state)
        fits = wal[at + 8 : at + 16] == wal[16:24] and pgno != 0
        if not fits or wal[at + 16 : at + 24] != struct.pack(">II", *state):
            break
        pages[pgno] = page
        if size:
            out.append((size, number, pages))
            pages = {}
    return out
