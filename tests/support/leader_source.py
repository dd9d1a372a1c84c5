"""Transactions as a leader sends them, from a real database in WAL mode, through the public pieces:
the WAL is followed, page 1 made canonical, and each commit encoded as one LTX file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw

from petsem.model import Position
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, canonical_pages, normalise
from petsem.replication.ltx import Header, encode
from petsem.replication.rolling import PageChecksums
from petsem.server.database import open_writer
from petsem.server.leadership import begin_epoch
from petsem.server.schema import migrate

Record = tuple[int, bytes]
"""(epoch, LTX file)."""
START_MS = 1_800_000_000_000


class LeaderSource:
    """A leader's database with the product's schema and a table `t(id, x)` beside it.

    `records` are all its transactions from the first on, `positions` where it was after each.
    """

    def __init__(self, directory: Path, *, node: str = "leader") -> None:
        directory.mkdir(exist_ok=True)
        self.path = directory / "leader.db"
        self.node = node
        self.now_ms = START_MS
        self.records: list[Record] = []
        self.positions: list[Position] = [Position(0, 0, 0)]
        self._db = open_writer(self.path, create=True)
        self._begin()
        self._db.execute("BEGIN")
        migrate(self._db)
        begin_epoch(self._db, Position(1, 1), node, self.now_ms)
        self._db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)")
        self._commit(1)

    def _begin(self) -> None:
        self._frames = 0
        self._db.set_wal_hook(self._hook)
        self._tail = WalTail(Path(f"{self.path}-wal"))
        self._table = PageChecksums()
        self._page1 = bytes(PAGE_SIZE)

    def _hook(self, _db: apsw.Connection, _name: str, frames: int) -> int:
        self._frames = frames
        return apsw.SQLITE_OK

    @property
    def position(self) -> Position:
        return self.positions[-1]

    def run(self, sql: str = "UPDATE t SET x = randomblob(90)", *args: object) -> Record:
        """One transaction."""
        self._db.execute("BEGIN")
        self._db.execute(sql, args)
        self._db.execute("UPDATE position SET txid = txid + 1")
        return self._commit(self.position.epoch)

    def fill(self, rows: int, size: int = 900) -> Record:
        """One transaction that adds rows."""
        return self.run(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO t(x) SELECT randomblob(?) FROM n",
            rows,
            size,
        )

    def new_epoch(self, epoch: int | None = None, node: str | None = None) -> Record:
        """The transaction that begins an epoch."""
        epoch = epoch or self.position.epoch + 1
        self._db.execute("BEGIN")
        begin_epoch(
            self._db, Position(epoch, self.position.txid + 1), node or self.node, self.now_ms
        )
        return self._commit(epoch)

    def vacuum(self) -> Record:
        """The transaction that shortens the database to what it needs."""
        self._db.execute("VACUUM")
        return self._take(self.position.epoch)

    def fork(self, directory: Path, *, node: str) -> LeaderSource:
        """Another leader that goes on from here; it has the same past."""
        self._db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._frames = 0
        self._tail.close()
        self._tail = WalTail(Path(f"{self.path}-wal"))
        directory.mkdir()
        shutil.copyfile(self.path, directory / "leader.db")
        other = LeaderSource.__new__(LeaderSource)
        other.path, other.node, other.now_ms = directory / "leader.db", node, self.now_ms
        other.records, other.positions = list(self.records), list(self.positions)
        other._db = open_writer(other.path)
        other._begin()
        other._table = PageChecksums.restored(
            self._table.entries(1, self._table.commit), self._table.rolling
        )
        other._page1 = self._page1
        return other

    def image(self) -> bytes:
        """The whole canonical image."""
        plain = self._db.serialize("main")
        page1 = normalise(plain[:PAGE_SIZE], self.position.epoch, self.position.txid)
        return page1 + plain[PAGE_SIZE:]

    def snapshot(self, run_pages: int = 40) -> Iterator[tuple[int, bytes]]:
        """(first page, pages) of the image, as a snapshot brings them."""
        image = self.image()
        commit = len(image) // PAGE_SIZE
        assert commit < LOCK_PAGE
        for first in range(1, commit + 1, run_pages):
            yield first, image[(first - 1) * PAGE_SIZE : (first - 1 + run_pages) * PAGE_SIZE]

    def after(self, txid: int) -> list[Record]:
        """All transactions behind this one."""
        return self.records[txid:]

    def close(self) -> None:
        self._tail.close()
        self._db.close()

    def _commit(self, epoch: int) -> Record:
        self._db.execute("COMMIT")
        return self._take(epoch)

    def _take(self, epoch: int) -> Record:
        (commit,) = self._tail.read(self._frames)
        txid = self.position.txid + 1
        pages = list(canonical_pages(commit.pages(), self._page1, epoch, txid))
        change = self._table.plan(pages, commit.size)
        header = Header(
            flags=0,
            page_size=PAGE_SIZE,
            commit=commit.size,
            min_txid=txid,
            max_txid=txid,
            timestamp_ms=self.now_ms,
            pre_apply_checksum=self._table.rolling,
        )
        record = (epoch, encode(header, pages, change.rolling))
        self._table.accept(change)
        self._page1 = pages[0][1]
        self.records.append(record)
        self.positions.append(Position(epoch, txid, change.rolling))
        return record
