"""The saved table fits one state of the database only, and the scan makes the same one anew."""

from __future__ import annotations

import errno
import os
import struct
from array import array
from collections.abc import Iterator
from functools import reduce
from operator import xor
from pathlib import Path

import apsw
import pytest

from petsem import limits
from petsem.model import Position
from petsem.replication.drivers import page_checksums
from petsem.replication.drivers.page_checksums import ShortDatabase, load, save, scan
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, canonical_pages, normalise
from petsem.replication.ltx.checksum import CHECKSUM_FLAG, crc, page_checksum
from petsem.replication.rolling import PageChecksums
from tests.support.wal_files import Rig


def page(fill: int) -> bytes:
    return bytes((fill,)) * PAGE_SIZE


class Saved:
    """A database file of five pages and its table, saved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "petsem.db"
        self.database.write_bytes(b"".join(page(n) for n in range(1, 6)))
        self.table = PageChecksums()
        self.table.apply(((n, page(n)) for n in range(1, 6)), 5)
        self.position = Position(3, 77, self.table.rolling)
        self.path = directory / "checksums"
        save(directory, self.table, self.position, self.database)

    def load(self, position: Position | None = None) -> PageChecksums | None:
        return load(self.directory, position or self.position, self.database)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def state(table: PageChecksums) -> tuple[list[int], int, bool]:
    return list(table.entries(1, table.commit)), table.rolling, table.complete


def test_saved_and_loaded(saved: Saved) -> None:
    """The same table, once: the file is gone."""
    found = saved.load()
    assert found is not None
    assert state(found) == state(saved.table)
    assert not saved.path.exists()
    assert saved.load() is None
    assert sorted(p.name for p in saved.directory.iterdir()) == ["petsem.db"]


def test_the_bytes_of_the_file(saved: Saved) -> None:
    """As the page of the format says; only its owner may read it."""
    now = saved.database.stat()
    expected = b"petsemck" + struct.pack(">IIII", 1, 4096, 5, 3)
    expected += struct.pack(">QQQQ", 77, saved.table.rolling, 5 * 4096, now.st_mtime_ns)
    expected += struct.pack(">5Q", *(page_checksum(n, page(n)) for n in range(1, 6)))
    expected += crc(expected).to_bytes(8, "big")
    assert saved.path.read_bytes() == expected
    assert saved.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "position",
    [
        Position(4, 77, None),
        Position(3, 78, None),
        Position(3, 77, CHECKSUM_FLAG | 5),
        None,
    ],
)
def test_another_position(saved: Saved, position: Position | None) -> None:
    """Neither epoch nor TXID nor checksum may differ, nor may the checksum be unknown."""
    if position is None:
        position = Position(3, 77)
    elif position.checksum is None:
        position = Position(position.epoch, position.txid, saved.table.rolling)
    assert saved.load(position) is None
    assert not saved.path.exists()


def test_another_database(saved: Saved) -> None:
    """Written to since, by whomever: its size or its time differs."""
    with saved.database.open("ab") as file:
        file.write(b"x")
    before = saved.path.read_bytes()
    os.truncate(saved.database, 5 * PAGE_SIZE)
    assert saved.load() is None

    saved.path.write_bytes(before)
    now = saved.database.stat()
    os.utime(saved.database, ns=(now.st_atime_ns, struct.unpack(">q", before[48:56])[0]))
    assert saved.load() is not None

    saved.path.write_bytes(before)
    with saved.database.open("ab") as file:
        file.write(b"x")
    os.utime(saved.database, ns=(now.st_atime_ns, struct.unpack(">q", before[48:56])[0]))
    assert saved.load() is None


def test_every_flipped_bit_is_found(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is, there is no table, no error, and no file left."""
    whole = saved.path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        saved.path.write_bytes(flipped)
        assert saved.load() is None
        assert not saved.path.exists()


def test_every_cut_is_found(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """As is a byte too many."""
    whole = saved.path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for size in range(len(whole)):
        saved.path.write_bytes(whole[:size])
        assert saved.load() is None
    saved.path.write_bytes(whole + b"\x00")
    assert saved.load() is None
    saved.path.write_bytes(whole + bytes(8))
    assert saved.load() is None


def sealed(content: bytes) -> bytes:
    return content + crc(content).to_bytes(8, "big")


def test_a_file_that_is_whole_but_lies(saved: Saved) -> None:
    """Entries that do not make the checksum of the position, and one that is missing."""
    whole = saved.path.read_bytes()[:-8]
    for entry in (bytes(8), (CHECKSUM_FLAG | 9).to_bytes(8, "big")):
        saved.path.write_bytes(sealed(whole[:56] + entry + whole[64:]))
        assert saved.load() is None
    saved.path.write_bytes(sealed(whole))
    assert saved.load() is not None


def test_its_size_is_checked_before_it_is_read(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table for more pages than a database may have is no table."""
    monkeypatch.setattr(limits, "LTX_COMMIT_MAX_PAGES", 4)
    assert saved.load() is None
    assert not saved.path.exists()


@pytest.mark.parametrize("entries", [1, 2, 3, 5])
def test_in_pieces(saved: Saved, monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """A large table is written and read a piece at a time."""
    whole = saved.path.read_bytes()
    monkeypatch.setattr(page_checksums, "_CHUNK_ENTRIES", entries)
    save(saved.directory, saved.table, saved.position, saved.database)
    assert saved.path.read_bytes() == whole
    found = saved.load()
    assert found is not None
    assert state(found) == state(saved.table)


def test_the_table_can_still_be_used(saved: Saved) -> None:
    """Saving changes nothing in it."""
    before = state(saved.table)
    save(saved.directory, saved.table, saved.position, saved.database)
    assert state(saved.table) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_saving(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Nothing half made is left."""
    saved.path.unlink()

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full on command")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fails)
    with pytest.raises(OSError, match="full on command"):
        save(saved.directory, saved.table, saved.position, saved.database)
    monkeypatch.undo()
    assert [p.name for p in saved.directory.iterdir()] == ["petsem.db"]
    assert saved.load() is None


def test_a_table_that_cannot_be_removed(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be stale one day, so it is not used."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only on command")

    monkeypatch.setattr(Path, "unlink", fails)
    with pytest.raises(OSError, match="read-only on command"):
        saved.load()


def test_its_removal_is_durable(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is synced before the table is handed out."""
    synced = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").resolve(), saved.path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    assert saved.load() is not None
    assert synced == [(saved.directory, False)]


class Reader:
    """Reads as VFSFile.xRead does, and notes what was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def __call__(self, amount: int, offset: int) -> bytes:
        self.asked.append((offset // PAGE_SIZE + 1, amount // PAGE_SIZE))
        return self.data[offset : offset + amount]


def canonical(data: bytes, position: Position) -> dict[int, bytes]:
    pages = {
        n + 1: data[n * PAGE_SIZE : (n + 1) * PAGE_SIZE] for n in range(len(data) // PAGE_SIZE)
    }
    return pages | {1: normalise(pages[1], position.epoch, position.txid)}


def rolling(pages: dict[int, bytes]) -> int:
    return reduce(xor, (page_checksum(n, p) for n, p in pages.items())) | CHECKSUM_FLAG


TEN = b"".join(page(n) for n in range(1, 11))
AT = Position(3, 77)


def unknown_ten() -> PageChecksums:
    return PageChecksums.all_unknown(10, rolling(canonical(TEN, AT)))


@pytest.mark.parametrize("pages", [1, 3, 10, 64])
def test_a_scan(pages: int) -> None:
    """In steps of every size it fills in all pages, page 1 as the image has it."""
    table, read = unknown_ten(), Reader(TEN)
    steps = list(scan(table, read, AT, pages=pages))
    assert steps == [*range(pages, 10, pages), 10]
    assert read.asked == [(n, min(pages, 11 - n)) for n in range(1, 11, pages)]
    sums = [page_checksum(n, p) for n, p in canonical(TEN, AT).items()]
    assert state(table) == (sums, rolling(canonical(TEN, AT)), True)
    assert table.verify()


def test_a_scan_finds_damage() -> None:
    """The table is complete then, and is not what the transactions left."""
    table = unknown_ten()
    damaged = bytearray(TEN)
    damaged[5 * PAGE_SIZE + 17] ^= 4
    list(scan(table, Reader(bytes(damaged)), AT))
    assert table.complete
    assert not table.verify()


def test_a_scan_reads_only_what_is_unknown() -> None:
    """Known pages in between are read along and left as they are."""
    table, read = unknown_ten(), Reader(TEN)
    for n in (1, 2, 5, 9, 10):
        table.fill(n, CHECKSUM_FLAG | n)
    assert list(scan(table, read, AT, pages=4)) == [6, 10]
    assert read.asked == [(3, 4), (7, 4)]
    sums = [page_checksum(n, page(n)) for n in range(1, 11)]
    for n in (1, 2, 5, 9, 10):
        sums[n - 1] = CHECKSUM_FLAG | n
    assert state(table)[0] == sums
    assert list(scan(table, read, AT)) == []
    assert list(scan(PageChecksums(), read, AT)) == []


def test_transactions_between_the_steps() -> None:
    """The database changes, grows and shrinks while it is scanned; in the end all is right."""
    table, read = unknown_ten(), Reader(TEN)
    now = canonical(TEN, AT)
    steps = scan(table, read, AT, pages=2)
    transactions = [
        ({1: page(90), 3: page(91), 10: page(92)}, 10),
        ({1: page(93), 11: page(94), 12: page(95)}, 12),
        ({1: page(96)}, 8),
    ]
    for changed, commit in transactions:
        next(steps)
        for n in table.unknown(changed, commit):
            table.fill(n, page_checksum(n, now[n]))
        now = {n: p for n, p in (now | changed).items() if n <= commit}
        assert table.apply(changed.items(), commit) == rolling(now)
    assert list(steps) == [8]
    assert table.complete
    assert table.verify()
    assert state(table)[0] == [page_checksum(n, p) for n, p in now.items()]


def test_a_database_that_shrinks_below_the_scan() -> None:
    """It ends, complete."""
    table = unknown_ten()
    steps = scan(table, Reader(TEN), AT, pages=6)
    assert next(steps) == 6
    for n in table.unknown([1], 4):
        table.fill(n, page_checksum(n, page(n)))
    table.apply([(1, page(90))], 4)
    assert list(steps) == []
    assert table.complete
    assert table.verify()


def test_a_file_that_is_too_short() -> None:
    """It is damage, and says so."""
    with pytest.raises(ShortDatabase):
        list(scan(unknown_ten(), Reader(TEN[:-1]), AT, pages=3))


def test_the_lock_page_is_not_read() -> None:
    """A step ends before it, and the next one begins behind it."""
    entries = array("Q", [CHECKSUM_FLAG | 1]) * (LOCK_PAGE + 3)
    for n in (LOCK_PAGE - 2, LOCK_PAGE - 1, LOCK_PAGE + 1, LOCK_PAGE + 2):
        entries[n - 1] = 0
    table = PageChecksums.restored(entries, CHECKSUM_FLAG)
    asked = []

    def read(amount: int, offset: int) -> bytes:
        asked.append((offset // PAGE_SIZE + 1, amount // PAGE_SIZE))
        return bytes(amount)

    assert list(scan(table, read, AT, pages=10)) == [LOCK_PAGE - 1, LOCK_PAGE + 3]
    assert asked == [(LOCK_PAGE - 2, 2), (LOCK_PAGE + 1, 3)]
    assert table.complete
    assert table.checksum(LOCK_PAGE) == 0
    assert table.checksum(LOCK_PAGE + 2) == page_checksum(LOCK_PAGE + 2, bytes(PAGE_SIZE))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.table()
    yield rig
    rig.close()


def test_a_live_database(rig: Rig) -> None:
    """Scanned through SQLite's own file while transactions come from the WAL and are checkpointed:
    the table ends up as if every page had been read at the end."""
    for size in (300_000, 10, 20_000):
        rig.insert(size)
    tail = WalTail(rig.wal)
    tail.read(rig.frames)
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
    start = Position(1, 10)
    now = canonical(rig.image(), start)
    table = PageChecksums.all_unknown(len(now), rolling(now))

    flags = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY
    file = apsw.VFSFile("unix", str(rig.path), [flags, 0])
    page1 = file.xRead(PAGE_SIZE, 0)
    steps = scan(table, file.xRead, start, pages=7)
    statements = (
        "UPDATE t SET x = 'short' WHERE id = 2",
        "INSERT INTO t (x) VALUES (zeroblob(100000))",
        "DELETE FROM t WHERE id = 1",
        "VACUUM",
        "INSERT INTO t (x) VALUES (zeroblob(50000))",
    )
    for txid, statement in enumerate(statements, 11):
        next(steps, None)
        rig.run(statement)
        (commit,) = tail.read(rig.frames)
        for n in table.unknown({1, *commit.page_numbers()}, commit.size):
            before = file.xRead(PAGE_SIZE, (n - 1) * PAGE_SIZE)
            table.fill(n, page_checksum(n, normalise(before, 1, 10) if n == 1 else before))
        now = canonical(rig.image(), Position(1, txid))
        pages = canonical_pages(commit.pages(), page1, 1, txid)
        assert table.apply(pages, commit.size) == rolling(now)
        page1 = now[1]
        assert tail.allow_restart(rig.counted())
        rig.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
    list(steps)
    assert table.complete
    assert table.verify()
    assert state(table)[0] == [page_checksum(n, p) for n, p in now.items()]
    file.xClose()
    tail.close()
