"""The WAL reader over files that SQLite wrote, and over every way in which one can end."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.replication.wal import (
    FRAME_BYTES,
    WalCommit,
    WalEnd,
    WalError,
    WalHeader,
    WalScanner,
    frame_page,
)
from petsem.replication.wal_checksum import ByteOrder
from tests.support.wal_files import (
    FRAME,
    PAGE,
    Image,
    Order,
    Plain,
    Rig,
    build,
    header,
    plain_read,
    split,
)

SALTS = b"saltsalt"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def scan(
    wal: bytes,
    end: WalEnd | None = None,
    *,
    verify: bool = True,
    hold: int = 1 << 30,
    chunk: int = 1 << 30,
) -> WalScanner:
    """A scanner that was fed all of `wal`, in pieces of `chunk` frames."""

    def fetch(salts: bytes, pgno: int, offset: int) -> bytes:
        page = frame_page(wal[offset - 24 : offset + PAGE], salts, pgno)
        assert page is not None
        return page

    found = WalHeader.parse(wal)
    scanner = WalScanner(found, end or found.start, fetch, verify=verify, hold=hold)
    while not scanner.done:
        data = wal[scanner.offset : scanner.offset + chunk * FRAME]
        scanner.feed(data)
        if len(data) < FRAME:
            break
    return scanner


def plain(commits: list[WalCommit]) -> Plain:
    return [(c.size, c.end.frames, dict(c.pages())) for c in commits]


def page(fill: int) -> bytes:
    return bytes((fill,)) * PAGE


def test_pages_of_each_commit_make_the_database(rig: Rig) -> None:
    """Applied one after the other they give what a reader sees after each transaction."""
    images = []
    rig.table()
    images.append(rig.image())
    for size in (10, 100_000, 5000):
        rig.insert(size)
        images.append(rig.image())
    rig.run("DELETE FROM t WHERE id = 2")
    images.append(rig.image())
    rig.run("UPDATE t SET x = 'other'")
    images.append(rig.image())

    commits = scan(rig.wal.read_bytes()).commits
    image = Image()
    assert [image.apply(c.pages(), c.size) for c in commits] == images


def test_it_reads_what_a_plain_reading_finds(rig: Rig) -> None:
    """Sizes, places and pages of all commits."""
    rig.table()
    for size in (10, 100_000, 5000):
        rig.insert(size)
    wal = rig.wal.read_bytes()
    assert plain(scan(wal).commits) == plain_read(wal)
    assert len(plain_read(wal)) == 4


@pytest.mark.parametrize("order", ["little", "big"])
def test_both_byte_orders(rig: Rig, order: Order) -> None:
    """A machine of the other byte order writes other checksums over the same frames."""
    rig.table()
    rig.insert(20_000)
    wal = rig.wal.read_bytes()
    other = build(order, split(wal))
    assert plain(scan(other).commits) == plain_read(wal)
    assert WalHeader.parse(other).order == order


def test_sqlite_takes_the_big_endian_one_too(rig: Rig, tmp_path: Path) -> None:
    """Its recovery reads the same from a file whose checksums are of the other byte order."""
    (tmp_path / "other.db").write_bytes(rig.image())
    rig.table()
    rig.insert(20_000)
    (tmp_path / "other.db-wal").write_bytes(build("big", split(rig.wal.read_bytes())))
    db = apsw.Connection(str(tmp_path / "other.db"))
    assert db.execute("SELECT length(x) FROM t").fetchall() == [(20_000,)]
    db.close()


def test_the_header() -> None:
    """Every field that a reader needs."""
    data = header("little", SALTS)
    assert WalHeader.parse(data) == WalHeader("little", 0, SALTS, data[24:])
    assert WalHeader.parse(data).start == WalEnd(SALTS, 0, data[24:])
    assert WalHeader.parse(data).start.offset == 32


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "LENGTH"),
        (header("little", SALTS)[:31], "LENGTH"),
        (b"\x37\x7f\x06\x81" + header("big", SALTS)[4:], "MAGIC"),
        (b"SQLite format 3\x00" + bytes(16), "MAGIC"),
        (header("little", SALTS)[:31] + b"\x00", "CHECKSUM"),
        (b"\x37\x7f\x06\x83" + header("little", SALTS)[4:], "CHECKSUM"),
        (header("big", SALTS, version=3007001), "VERSION"),
        (header("little", SALTS, page_size=8192), "PAGE_SIZE"),
    ],
)
def test_a_header_that_is_not_ours(data: bytes, rule: str) -> None:
    """Each refusal has its name."""
    with pytest.raises(WalError) as e:
        WalHeader.parse(data)
    assert e.value.rule == rule


def test_every_bit_of_the_header_is_checked() -> None:
    """No flipped bit passes."""
    data = header("little", SALTS)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WalError):
            WalHeader.parse(bytes(flipped))


THREE = [
    (1, 0, page(1)),
    (2, 2, page(2)),
    (2, 0, page(3)),
    (3, 0, page(4)),
    (2, 3, page(5)),
    (1, 3, page(6)),
]
THREE_READ: Plain = [
    (2, 2, {1: page(1), 2: page(2)}),
    (3, 5, {2: page(5), 3: page(4)}),
    (3, 6, {1: page(6)}),
]


def test_the_last_of_two_writes_counts() -> None:
    """Within one transaction, and only there."""
    assert plain(scan(build("little", THREE)).commits) == THREE_READ


@pytest.mark.parametrize("order", ["little", "big"])
def test_truncated_at_every_byte(order: Order) -> None:
    """What is whole before the cut is read, and nothing else."""
    wal = build(order, [(1, 1, page(1)), (1, 0, page(2)), (2, 2, page(3))])
    whole: Plain = [(1, 1, {1: page(1)}), (2, 3, {1: page(2), 2: page(3)})]
    for cut in range(32, len(wal)):
        assert plain(scan(wal[:cut]).commits) == (whole[:1] if cut >= 32 + FRAME else [])
    assert plain(scan(wal).commits) == whole


def test_truncated_without_verifying() -> None:
    """A commit whose last frame is cut anywhere is no commit."""
    wal = build("little", THREE)
    end = scan(wal[: 32 + 2 * FRAME]).end
    for cut in range(32 + 4 * FRAME, 32 + 5 * FRAME):
        assert scan(wal[:cut], end, verify=False).commits == []
    assert len(scan(wal[: 32 + 5 * FRAME], end, verify=False).commits) == 1


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_flipped_bit_ends_the_wal_before_its_transaction(order: Order) -> None:
    """Each bit of a frame's header, and bits all over its page."""
    wal = build(order, THREE)
    for frame in (0, 1, 3, 5):
        before = [c for c in THREE_READ if c[1] <= frame]
        at = 8 * (32 + frame * FRAME)
        for bit in (*range(at, at + 8 * 24), *range(at + 8 * 24, at + 8 * FRAME, 1999)):
            flipped = bytearray(wal)
            flipped[bit // 8] ^= 1 << bit % 8
            assert plain(scan(bytes(flipped)).commits) == before


def test_a_frame_of_page_0_ends_the_wal() -> None:
    """Even with a good checksum, as for SQLite."""
    assert plain(scan(build("little", [*THREE, (0, 3, page(7))])).commits) == THREE_READ
    zero = [(0, 3, page(7)), *THREE]
    assert scan(build("little", zero)).commits == []
    assert scan(build("little", zero), verify=False).commits == []


def test_frames_of_the_generation_before() -> None:
    """What an earlier generation left behind the end has other salts."""
    old = build("little", [*THREE, *THREE], salts=b"oldsalts")
    new = build("little", THREE)
    mixed = new + old[len(new) :]
    for verify in (True, False):
        assert plain(scan(mixed, verify=verify).commits) == THREE_READ


def test_frames_of_a_longer_transaction_that_was_forgotten() -> None:
    """They have the same salts and checksums that held once, and end with a commit frame: only
    verifying tells them from what is committed."""
    forgotten = build("little", [*THREE, (4, 0, page(8)), (5, 0, page(9)), (6, 6, page(10))])
    now = build("little", [*THREE, (1, 3, page(11))])
    mixed = now + forgotten[len(now) :]
    assert plain(scan(mixed).commits) == [*THREE_READ, (3, 7, {1: page(11)})]
    trusting = scan(mixed, verify=False).commits
    assert [c.end.frames for c in trusting] == [2, 5, 6, 7, 9]


def test_a_rolled_back_transaction(rig: Rig) -> None:
    """What outgrew the cache and was then rolled back is no commit, and is written over."""
    rig.table()
    rig.run("PRAGMA cache_size = 5")
    frames = rig.counted()
    rig.run("BEGIN")
    rig.insert(400_000)
    spilled = rig.wal.stat().st_size
    assert spilled > 32 + (frames + 50) * FRAME
    expected = plain_read(rig.wal.read_bytes())
    assert scan(rig.wal.read_bytes()).end.frames == frames
    rig.run("ROLLBACK")
    assert plain(scan(rig.wal.read_bytes()).commits) == expected
    rig.insert(10)
    assert rig.wal.stat().st_size == spilled
    scanner = scan(rig.wal.read_bytes())
    assert scanner.end.frames == rig.counted()
    assert plain(scanner.commits) == plain_read(rig.wal.read_bytes())
    assert len(scanner.commits) == len(expected) + 1


def test_a_transaction_that_outgrew_its_cache(rig: Rig) -> None:
    """More than a thousand frames, some pages twice: the database is what a reader sees."""
    rig.table()
    rig.run("PRAGMA cache_size = 10")
    rig.run("BEGIN")
    for i in range(60):
        rig.insert(80_000, f"{i:02x}")
        rig.run("SAVEPOINT s")
        rig.run("UPDATE t SET x = zeroblob(length(x)) WHERE id % 7 = ?", i % 7)
        rig.run("ROLLBACK TO s" if i % 5 == 0 else "RELEASE s")
    rig.run("COMMIT")
    wal = rig.wal.read_bytes()
    commits = scan(wal).commits
    frames = commits[-1].end.frames - commits[-2].end.frames
    assert frames > 1000
    assert frames > len(commits[-1].found)
    assert plain(commits) == plain_read(wal)
    image = Image()
    for commit in commits:
        image.apply(commit.pages(), commit.size)
    assert bytes(image.data) == rig.image()


def test_a_transaction_that_cuts_the_database_off(rig: Rig) -> None:
    """VACUUM: no page beyond the new size comes out, and the database is what a reader sees."""
    rig.table()
    for _ in range(10):
        rig.insert(50_000)
    rig.run("DELETE FROM t WHERE id > 1")
    rig.run("VACUUM")
    commits = scan(rig.wal.read_bytes()).commits
    assert commits[-1].size < commits[-2].size
    image = Image()
    for commit in commits:
        image.apply(commit.pages(), commit.size)
    assert bytes(image.data) == rig.image()


def test_pages_beyond_the_size_are_left_out() -> None:
    """A transaction may have spilled pages that it cut off before it ended."""
    commits = scan(build("little", [(9, 0, page(1)), (1, 0, page(2)), (2, 2, page(3))])).commits
    assert plain(commits) == [(2, 3, {1: page(2), 2: page(3)})]
    assert commits[0].page_numbers() == [1, 2]


def test_pages_come_in_ascending_order() -> None:
    """Whatever the order of the frames."""
    wal = build("little", [(n, 9 if n == 5 else 0, page(n)) for n in (7, 2, 9, 1, 5)])
    commit = scan(wal).commits[0]
    assert list(commit.pages()) == [(n, page(n)) for n in (1, 2, 5, 7, 9)]
    assert commit.page_numbers() == [1, 2, 5, 7, 9]
    assert commit.page(7) == page(7)
    with pytest.raises(KeyError):
        commit.page(3)


@pytest.mark.parametrize("hold", [0, 1, 3, 4])
def test_pages_that_are_not_held_are_fetched(hold: int) -> None:
    """The same commits come out, however few pages are kept in memory."""
    scanner = scan(build("little", THREE), hold=hold)
    assert plain(scanner.commits) == THREE_READ
    held = [p for c in scanner.commits for p in c.found.values() if isinstance(p, bytes)]
    assert len(held) <= hold


@pytest.mark.parametrize("verify", [True, False])
def test_reading_goes_on_where_it_ended(verify: bool) -> None:
    """From every end, and in pieces of every size, verified or not."""
    wal = build("big", THREE)
    ends = [WalHeader.parse(wal).start, *(c.end for c in scan(wal).commits)]
    for i, end in enumerate(ends):
        for chunk in (1, 2, 3, 6):
            found = scan(wal, end, verify=verify, chunk=chunk)
            assert plain(found.commits) == THREE_READ[i:]
            assert found.end == ends[-1]


def test_a_verified_reading_goes_on_only_from_a_checksum_that_fits() -> None:
    """The running checksum of the end is part of what is verified."""
    wal = build("little", THREE)
    end = scan(wal[: 32 + 2 * FRAME]).end
    wrong = WalEnd(end.salts, end.frames, struct.pack(">II", 1, 2))
    assert scan(wal, wrong).commits == []
    assert len(scan(wal, wrong, verify=False).commits) == 2


def test_one_frame_again() -> None:
    """A page is given out only while its frame is still that of the page, under these salts."""
    wal = build("little", THREE)
    frame = wal[32 + FRAME : 32 + 2 * FRAME]
    assert frame_page(frame, SALTS, 2) == page(2)
    assert frame_page(frame, SALTS, 3) is None
    assert frame_page(frame, b"othersal", 2) is None
    assert frame_page(frame[:-1], SALTS, 2) is None
    assert frame_page(b"", SALTS, 2) is None


@pytest.mark.parametrize("mode", [apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_TRUNCATE])
def test_a_wal_that_was_started_again(rig: Rig, mode: int) -> None:
    """The frames of the new generation, with the old ones still behind them or gone."""
    rig.table()
    rig.insert(200_000)
    before = rig.image()
    old = rig.wal.stat().st_size
    rig.checkpoint(mode)
    rig.insert(10)
    wal = rig.wal.read_bytes()
    assert (len(wal) == old) == (mode == apsw.SQLITE_CHECKPOINT_RESTART)
    commits = scan(wal).commits
    assert [c.end.frames for c in commits] == [rig.counted()]
    assert Image(before).apply(commits[0].pages(), commits[0].size) == rig.image()


def test_constants() -> None:
    """A frame is a header of 24 bytes and a page; both byte orders have their names."""
    assert FRAME_BYTES == FRAME
    orders: tuple[ByteOrder, ...] = ("little", "big")
    assert [WalHeader.parse(header(o, SALTS)).order for o in orders] == ["little", "big"]
