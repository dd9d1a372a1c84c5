"""Following a live WAL through commits, restarts, failures and replacements."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem import limits
from petsem.replication.drivers.wal_tail import WalLost, WalTail
from petsem.replication.wal import WalCommit, WalError
from tests.support.failing_vfs import FULL, IO, FailingVfs
from tests.support.wal_files import FRAME, PAGE, Image, Plain, Rig, build, header, plain_read

PASSIVE, RESTART = apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART
TRUNCATE = apsw.SQLITE_CHECKPOINT_TRUNCATE


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.table()
    yield rig
    rig.close()


@pytest.fixture
def tail(rig: Rig) -> Iterator[WalTail]:
    """A tail that has read everything so far."""
    tail = WalTail(rig.wal)
    tail.read(rig.frames)
    yield tail
    tail.close()


def plain(commits: list[WalCommit]) -> Plain:
    return [(c.size, c.end.frames, dict(c.pages())) for c in commits]


def page(fill: int) -> bytes:
    return bytes((fill,)) * PAGE


def test_each_commit_once(rig: Rig, tail: WalTail) -> None:
    """With SQLite's count, commit by commit; the pages make the database."""
    image = Image(rig.image())
    for size in (10, 50_000, 3, 20_000):
        rig.insert(size)
        commits = tail.read(rig.frames)
        assert [c.end.frames for c in commits] == [rig.frames]
        assert image.apply(commits[0].pages(), commits[0].size) == rig.image()
        assert tail.end == commits[0].end
        assert tail.frames == rig.frames
        assert tail.read(rig.frames) == []


def test_several_at_once(rig: Rig, tail: WalTail) -> None:
    """What was committed since the last call, in order."""
    done = len(plain_read(rig.wal.read_bytes()))
    for size in (10, 50_000, 3):
        rig.insert(size)
    assert plain(tail.read(rig.frames)) == plain_read(rig.wal.read_bytes())[done:]


def test_without_a_count(rig: Rig) -> None:
    """All that is there, verified, in as many pieces as it takes."""
    rig.insert(10)
    rig.insert(3_000_000)
    rig.insert(10)
    tail = WalTail(rig.wal)
    assert plain(tail.read()) == plain_read(rig.wal.read_bytes())
    assert tail.read() == []
    rig.insert(10)
    assert [c.end.frames for c in tail.read()] == [rig.frames]
    assert tail.read() == []
    tail.close()


def test_a_wal_that_is_not_there(tmp_path: Path) -> None:
    """Absent, empty and cut within its header: nothing was committed; then it appears."""
    path = tmp_path / "petsem.db-wal"
    tail = WalTail(path)
    wal = build("little", [(1, 1, page(1))])
    for content in (None, b"", wal[:20]):
        if content is not None:
            path.write_bytes(content)
        assert tail.read() == []
        assert tail.read(0) == []
        assert (tail.end, tail.frames) == (None, 0)
    path.write_bytes(wal)
    assert plain(tail.read(1)) == [(1, 1, {1: page(1)})]
    tail.close()


@pytest.mark.parametrize("content", [None, b"", header("little", b"saltsalt")])
def test_frames_that_sqlite_counts_must_be_there(tmp_path: Path, content: bytes | None) -> None:
    """A WAL in which there are fewer is lost."""
    path = tmp_path / "petsem.db-wal"
    if content is not None:
        path.write_bytes(content)
    tail = WalTail(path)
    with pytest.raises(WalLost):
        tail.read(1)
    tail.close()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (header("little", b"saltsalt", version=3007001), "VERSION"),
        (header("little", b"saltsalt", page_size=1024), "PAGE_SIZE"),
    ],
)
def test_a_wal_of_another_kind(tmp_path: Path, content: bytes, rule: str) -> None:
    """SQLite would read it, so it is not taken for an empty one."""
    path = tmp_path / "petsem.db-wal"
    path.write_bytes(content)
    tail = WalTail(path)
    with pytest.raises(WalError) as e:
        tail.read()
    assert e.value.rule == rule
    tail.close()


@pytest.mark.parametrize("mode", [PASSIVE, RESTART, TRUNCATE])
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_restart_after_a_complete_checkpoint(
    rig: Rig, tail: WalTail, mode: int, size: int
) -> None:
    """The next commit starts at frame 1, whether its count of frames is below the old one or looks
    like its continuation."""
    rig.insert(10)
    tail.read(rig.frames)
    before = rig.frames
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(mode)
    image = Image(rig.image())
    rig.insert(size)
    assert (rig.frames > before) == (size > 10)
    commits = tail.read(rig.frames)
    assert [c.end.frames for c in commits] == [rig.frames]
    assert image.apply(commits[0].pages(), commits[0].size) == rig.image()


def test_many_restarts(rig: Rig, tail: WalTail) -> None:
    """Generation after generation, every commit comes out once."""
    image = Image(rig.image())
    for turn in range(40):
        for _ in range(turn % 4 + 1):
            rig.insert(turn * 997)
            for commit in tail.read(rig.frames):
                image.apply(commit.pages(), commit.size)
            assert bytes(image.data) == rig.image()
        assert tail.allow_restart(rig.counted())
        rig.checkpoint((PASSIVE, RESTART, TRUNCATE)[turn % 3])


def test_an_emptied_wal(rig: Rig, tail: WalTail) -> None:
    """After TRUNCATE there is nothing to read and nothing that was read."""
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(TRUNCATE)
    assert tail.read(rig.counted()) == []
    assert (tail.end, tail.frames) == (None, 0)
    assert tail.allow_restart(rig.counted())
    rig.insert(10)
    assert len(tail.read(rig.frames)) == 1


@pytest.mark.parametrize("mode", [PASSIVE, RESTART, TRUNCATE])
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_restart_before_all_was_read(rig: Rig, tail: WalTail, mode: int, size: int) -> None:
    """A commit that nobody read went into the database only: that is never passed over."""
    rig.insert(20_000)
    assert not tail.allow_restart(rig.counted())
    rig.checkpoint(mode)
    rig.insert(size)
    with pytest.raises(WalLost):
        tail.read(rig.frames)


def test_a_restart_that_nobody_allowed(rig: Rig, tail: WalTail) -> None:
    """A checkpoint by a stranger: nothing may be missing, but this reader cannot know."""
    rig.checkpoint(PASSIVE)
    rig.insert(10)
    with pytest.raises(WalLost):
        tail.read(rig.frames)
    fresh = WalTail(rig.wal)
    assert [c.end.frames for c in fresh.read(rig.frames)] == [rig.frames]
    fresh.close()


def test_a_reader_that_comes_after_a_checkpoint(rig: Rig) -> None:
    """The WAL may start again at the very next commit."""
    rig.checkpoint(PASSIVE)
    tail = WalTail(rig.wal)
    tail.read(rig.frames)
    assert tail.allow_restart(rig.counted())
    rig.insert(10)
    assert [c.end.frames for c in tail.read(rig.frames)] == [rig.frames]
    tail.close()


def test_a_permission_ends_with_the_next_commit(rig: Rig, tail: WalTail) -> None:
    """It was given for what had been read then."""
    assert tail.allow_restart(rig.counted())
    rig.insert(10)
    tail.read(rig.frames)
    rig.checkpoint(PASSIVE)
    rig.insert(10)
    with pytest.raises(WalLost):
        tail.read(rig.frames)


def test_a_permission_is_not_given_for_what_was_not_read(rig: Rig, tail: WalTail) -> None:
    """And one that was given before is void then."""
    assert tail.allow_restart(rig.counted())
    rig.insert(10)
    assert not tail.allow_restart(rig.counted())
    tail.read(rig.frames)
    assert tail.allow_restart(rig.counted())
    rig.insert(10)
    assert not tail.allow_restart(rig.counted())
    rig.checkpoint(PASSIVE)
    rig.insert(10)
    assert not tail.allow_restart(rig.counted())
    with pytest.raises(WalLost):
        tail.read(rig.frames)


def test_a_permission_holds_until_the_restart_is_read(rig: Rig, tail: WalTail) -> None:
    """Asked again in between, the answer is that there is something to read."""
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(PASSIVE)
    rig.insert(10)
    assert not tail.allow_restart(rig.counted())
    assert len(tail.read(rig.frames)) == 1
    assert tail.allow_restart(rig.counted())


def test_a_checkpoint_that_a_reader_holds_up(rig: Rig, tail: WalTail) -> None:
    """The WAL goes on, and so does its reading."""
    reader = rig.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    rig.insert(10)
    tail.read(rig.frames)
    before = rig.frames
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(PASSIVE)
    rig.insert(10)
    assert rig.frames > before
    assert [c.end.frames for c in tail.read(rig.frames)] == [rig.frames]
    reader.close()


def test_a_restart_that_was_rolled_back(rig: Rig, tail: WalTail) -> None:
    """SQLite counts no frames any more, while the old ones are still in the file; then a header
    with other salts comes without a commit."""
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(PASSIVE)
    rig.run("PRAGMA cache_size = 5")
    for size in (10, 200_000):
        rig.run("BEGIN")
        rig.insert(size)
        rig.run("ROLLBACK")
        assert tail.read(rig.counted()) == []
        assert tail.allow_restart(rig.counted())
    assert tail.frames == 0
    rig.insert(10)
    assert [c.end.frames for c in tail.read(rig.frames)] == [rig.frames]


def test_a_restart_that_failed(tmp_path: Path) -> None:
    """The disk was full at the new header: SQLite counts no frames, and the file has the old
    ones."""
    vfs = FailingVfs()
    rig = Rig(tmp_path, vfs=vfs.name)
    rig.table()
    tail = WalTail(rig.wal)
    tail.read(rig.frames)
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(PASSIVE)
    vfs.fail("write", "-wal", 0, FULL)
    with pytest.raises(FULL):
        rig.insert(10)
    vfs.heal()
    assert rig.counted() == 0 < tail.frames
    assert tail.read(rig.counted()) == []
    assert tail.allow_restart(rig.counted())
    rig.insert(10)
    assert [c.end.frames for c in tail.read(rig.frames)] == [rig.frames]
    tail.close()
    rig.close()


def test_what_is_not_committed_yet(rig: Rig, tail: WalTail) -> None:
    """Spilled frames are not read, with a count or without, nor after they were rolled back."""
    rig.run("PRAGMA cache_size = 5")
    rig.run("BEGIN")
    rig.insert(300_000)
    assert rig.wal.stat().st_size > 32 + (rig.frames + 20) * FRAME
    assert tail.read(rig.frames) == []
    assert tail.read() == []
    rig.run("ROLLBACK")
    assert tail.read() == []
    rig.insert(10)
    assert [c.end.frames for c in tail.read(rig.frames)] == [rig.frames]
    assert tail.read() == []


@pytest.mark.parametrize(("failed", "next_one"), [(60_000, 10), (40_000, 30_000)])
def test_what_a_failed_commit_left(tmp_path: Path, failed: int, next_one: int) -> None:
    """Its frames are whole and verify, but SQLite has forgotten them, because a second connection
    keeps its index: the count keeps them out, before and after the next commit."""
    vfs = FailingVfs()
    rig = Rig(tmp_path, vfs=vfs.name)
    rig.run("PRAGMA synchronous = full")
    rig.table()
    tail = WalTail(rig.wal)
    tail.read(rig.frames)

    vfs.fail("sync", "-wal", 0, IO)
    with pytest.raises(IO):
        rig.insert(failed)
    vfs.heal()
    whole = plain_read(rig.wal.read_bytes())
    assert whole[-1][1] > tail.frames
    assert tail.read(rig.counted()) == []

    # Behind the new commit frame stands the rest of the failed one, with its own.
    rig.insert(next_one)
    assert rig.frames < whole[-1][1]
    assert [c.end.frames for c in tail.read(rig.frames)] == [rig.frames]
    assert tail.read(rig.frames) == []
    # Without a count they do not verify.
    assert tail.read() == []
    tail.close()
    rig.close()


def test_what_was_read_of_a_failed_commit_shows(tmp_path: Path) -> None:
    """A reading without a count takes what SQLite has forgotten; its next count gives that away."""
    vfs = FailingVfs()
    rig = Rig(tmp_path, vfs=vfs.name)
    rig.run("PRAGMA synchronous = full")
    rig.table()
    tail = WalTail(rig.wal)
    tail.read(rig.frames)
    vfs.fail("sync", "-wal", 0, IO)
    with pytest.raises(IO):
        rig.insert(60_000)
    vfs.heal()
    assert len(tail.read()) == 1
    rig.insert(10)
    with pytest.raises(WalLost):
        tail.read(rig.frames)
    tail.close()
    rig.close()


def test_the_first_reading_verifies(tmp_path: Path) -> None:
    """Also with a count: a damaged frame that SQLite counts is a WAL that is lost."""
    path = tmp_path / "petsem.db-wal"
    wal = bytearray(build("big", [(1, 1, page(1)), (1, 1, page(2)), (1, 1, page(3))]))
    wal[32 + FRAME + 1000] ^= 1
    path.write_bytes(wal)
    tail = WalTail(path)
    assert plain(tail.read()) == [(1, 1, {1: page(1)})]
    tail.close()
    tail = WalTail(path)
    with pytest.raises(WalLost):
        tail.read(3)
    tail.close()


def test_the_first_reading_after_a_restart_verifies(rig: Rig, tail: WalTail) -> None:
    """As does one without a count; only what follows in the same generation is trusted."""
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(RESTART)
    rig.insert(10)
    damage(rig.wal, rig.frames)
    with pytest.raises(WalLost):
        tail.read(rig.frames)


def test_frames_that_were_just_committed_are_trusted(rig: Rig, tail: WalTail) -> None:
    """That they are not verified again is what makes reading cheap."""
    rig.insert(10)
    damage(rig.wal, rig.frames)
    assert tail.read() == []
    assert len(tail.read(rig.frames)) == 1


def damage(wal: Path, frame: int) -> None:
    """Flip a bit in the page of a frame."""
    with wal.open("r+b", buffering=0) as file:
        at = 32 + (frame - 1) * FRAME + 24 + 4000
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1,)))


def test_reading_again_after_an_error(
    rig: Rig, tail: WalTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that failed for a moment loses nothing, whichever read it was, also at a restart."""
    image = Image(rig.image())
    read = os.pread
    for restarts, fails in ((True, 0), (True, 1), (False, 0)):
        if restarts:
            assert tail.allow_restart(rig.counted())
            rig.checkpoint(RESTART)
        rig.insert(10)
        calls = 0

        def pread(fd: int, size: int, offset: int, fails: int = fails) -> bytes:
            nonlocal calls
            calls += 1
            if calls > fails:
                raise OSError(5, "fails on command")
            return read(fd, size, offset)

        monkeypatch.setattr(os, "pread", pread)
        for _ in range(2):
            calls = 0
            with pytest.raises(OSError, match="fails on command"):
                tail.read(rig.frames)
        monkeypatch.setattr(os, "pread", read)
        for commit in tail.read(rig.frames):
            image.apply(commit.pages(), commit.size)
        assert bytes(image.data) == rig.image()


@pytest.mark.parametrize("more", [-1, 0, 1, 7])
def test_a_restart_that_looks_like_more_of_the_same(rig: Rig, tail: WalTail, more: int) -> None:
    """The new WAL counts about as many frames as had been read of the old one."""
    rig.insert(10)
    tail.read(rig.frames)
    read = tail.frames
    assert tail.allow_restart(rig.counted())
    rig.checkpoint(RESTART)
    image = Image(rig.image())
    for fill in range(read + more):
        rig.run("UPDATE t SET x = ? WHERE id = 1", str(fill))
    assert rig.frames == read + more
    for commit in tail.read(rig.frames):
        image.apply(commit.pages(), commit.size)
    assert bytes(image.data) == rig.image()


def test_a_wal_that_was_replaced(tmp_path: Path) -> None:
    """Another file at the same path is followed, if all of the old one had been read."""
    path = tmp_path / "petsem.db-wal"
    first = build("little", [(1, 1, page(1)), (1, 1, page(2))], salts=b"first-wa")
    second = build("little", [(1, 1, page(3))], salts=b"second-w")
    for allowed in (True, False):
        path.unlink(missing_ok=True)
        path.write_bytes(first)
        tail = WalTail(path)
        assert len(tail.read(2)) == 2
        assert tail.allow_restart(2 if allowed else 3) == allowed
        path.unlink()
        path.write_bytes(second)
        if allowed:
            assert plain(tail.read(1)) == [(1, 1, {1: page(3)})]
        else:
            with pytest.raises(WalLost):
                tail.read(1)
        tail.close()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_wal_that_was_deleted(tmp_path: Path, allowed: bool) -> None:
    """The last connection to close does that, after a checkpoint."""
    path = tmp_path / "petsem.db-wal"
    path.write_bytes(build("little", [(1, 1, page(1))]))
    tail = WalTail(path)
    tail.read(1)
    if allowed:
        tail.allow_restart(1)
    path.unlink()
    if allowed:
        assert tail.read(0) == []
        assert tail.end is None
    else:
        with pytest.raises(WalLost):
            tail.read(0)
    tail.close()


def test_a_header_that_is_overwritten_with_rubbish(rig: Rig, tail: WalTail) -> None:
    """Damage is not taken for a restart."""
    with rig.wal.open("r+b", buffering=0) as file:
        file.write(b"rubbish")
    with pytest.raises(WalLost):
        tail.read(rig.frames)


def test_a_header_that_is_being_written(tmp_path: Path) -> None:
    """Seen in the middle of a restart that was allowed, it is an empty WAL for the moment."""
    path = tmp_path / "petsem.db-wal"
    path.write_bytes(build("little", [(1, 1, page(1)), (1, 1, page(2))], salts=b"first-wa"))
    tail = WalTail(path)
    tail.read(2)
    assert tail.allow_restart(2)
    new = build("little", [(1, 1, page(3))], salts=b"second-w")
    with path.open("r+b", buffering=0) as file:
        file.write(new[:20])
        assert tail.read() == []
        file.write(new[20:])
    assert plain(tail.read(1)) == [(1, 1, {1: page(3)})]
    tail.close()


def test_a_large_transaction_is_read_when_it_is_used(
    rig: Rig, tail: WalTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few of its pages are in memory; all of them come out, in order."""
    monkeypatch.setattr(limits, "WAL_READ_FRAMES", 7)
    image = Image(rig.image())
    rig.insert(limits.WAL_PAGES_HELD * PAGE + 100_000)
    (commit,) = tail.read(rig.frames)
    held = [p for p in commit.found.values() if isinstance(p, bytes)]
    assert len(held) == limits.WAL_PAGES_HELD
    assert len(commit.found) > len(held) + 20
    numbers = [n for n, _ in commit.pages()]
    assert numbers == sorted(commit.found) == commit.page_numbers()
    assert image.apply(commit.pages(), commit.size) == rig.image()


@pytest.mark.parametrize("how", ["restart", "closed", "replaced"])
def test_a_large_transaction_that_is_used_too_late(
    rig: Rig, tail: WalTail, tmp_path: Path, how: str
) -> None:
    """Its pages are not where they were: that is said, and no other page given out."""
    rig.insert(limits.WAL_PAGES_HELD * PAGE + 100_000)
    (commit,) = tail.read(rig.frames)
    assert tail.allow_restart(rig.counted())
    if how == "restart":
        rig.checkpoint(RESTART)
        rig.insert(limits.WAL_PAGES_HELD * PAGE + 100_000)
    elif how == "closed":
        tail.close()
    else:
        (tmp_path / "new").write_bytes(b"")
        (tmp_path / "new").replace(rig.wal)
        tail.read(0)
    with pytest.raises(WalLost):
        list(commit.pages())


def test_the_end_says_where_to_go_on(rig: Rig, tail: WalTail) -> None:
    """Salts, place and checksum as they stand in the file."""
    rig.insert(10)
    tail.read(rig.frames)
    wal = rig.wal.read_bytes()
    end = tail.end
    assert end is not None
    assert end.salts == wal[16:24]
    assert end.offset == 32 + rig.frames * FRAME
    assert end.checksum == wal[end.offset - FRAME + 16 : end.offset - FRAME + 24]
    assert struct.unpack(">II", end.checksum) != (0, 0)


def test_no_descriptor_is_left(rig: Rig, tmp_path: Path) -> None:
    """One while it follows, also when the file was replaced, and none after it is closed."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    path = tmp_path / "other-wal"
    tail = WalTail(path)
    for salts in (b"first-wa", b"second-w"):
        path.unlink(missing_ok=True)
        path.write_bytes(build("little", [(1, 1, page(1))], salts=salts))
        tail.read(1)
        assert tail.allow_restart(1)
        assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    tail.close()
    tail.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
