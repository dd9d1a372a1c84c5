"""The applier where the disk refuses, at each call of a transaction that does everything."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from petsem.replication import journal, steps
from petsem.replication.drivers import rollback
from petsem.replication.drivers.apply import Applied, Applier, ApplyFailed, Busy
from petsem.replication.drivers.database_file import PageReader, open_file
from petsem.replication.image import PAGE_SIZE
from tests.support.failing_vfs import FULL, IO, FailingVfs
from tests.support.page_source import PageSource, Transaction

CALLS_MAX = 60


class Once(FailingVfs):
    """Fails at the n-th call, and at no other."""

    def meet(self, operation: str, name: str) -> None:
        try:
            super().meet(operation, name)
        except apsw.Error:
            self.heal()
            raise


class Dead(FailingVfs):
    """From the second write into the database on, nothing is written, cut or synced any more."""

    def meet(self, operation: str, name: str) -> None:
        try:
            super().meet(operation, name)
        except apsw.Error:
            self.fail(operation, "", 0, IO)
            raise
        if self.failed:
            raise IO("dead")


def shrinking() -> tuple[Transaction, Transaction, Transaction]:
    """An old state, a transaction that rewrites and shrinks it, and one that grows it again."""
    source = PageSource()
    return (
        source.run("CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(1000000))"),
        source.run("DELETE FROM t; INSERT INTO t VALUES (randomblob(600000)); VACUUM"),
        source.run("INSERT INTO t VALUES (randomblob(400000))"),
    )


def put(applier: Applier, made: Transaction) -> Applied | Busy:
    """Apply one transaction of the source, with all its pages."""
    whole = [
        (pgno, made.image[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE])
        for pgno in range(1, made.commit + 1)
    ]
    return applier.try_apply(whole, made.commit, before=made.before, after=made.after)


def attempt(applier: Applier, made: Transaction) -> bool | None:
    """Apply it; None if it was applied, else whether the disk was said to be full."""
    try:
        assert put(applier, made) == Applied(made.commit)
    except ApplyFailed as e:
        return e.disk_full
    return None


def image(path: Path) -> bytes:
    """The whole file, once SQLite had occasion to restore it."""
    stock = apsw.Connection(str(path))
    stock.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    stock.close()
    reader = PageReader(path)
    pages = [page for _, page in reader.pages(1, reader.size_pages())]
    reader.close()
    return b"".join(pages)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty replica."""
    path = tmp_path / "petsem.db"
    path.touch(0o600)
    return path


@pytest.mark.parametrize("error", [FULL, IO])
@pytest.mark.parametrize("make", [FailingVfs, Once])
@pytest.mark.parametrize("suffix", ["petsem.db", "-journal"])
@pytest.mark.parametrize("operation", ["write", "truncate"])
def test_every_call_that_fails_leaves_the_database_whole(
    path: Path,
    operation: str,
    suffix: str,
    make: Callable[[], FailingVfs],
    error: type[apsw.Error],
) -> None:
    """Shrinking and growing, for the n-th call of each kind and for every n, failing once or from
    then on: what was there is there, and once the disk is well the same transaction goes in."""
    vfs = make()
    old, *changes = shrinking()
    applier = Applier(path, vfs=vfs.name)
    put(applier, old)
    before = old
    failures = 0
    for made in changes:
        for after in range(CALLS_MAX):
            vfs.fail(operation, suffix, after, error)
            failed = vfs.failed
            full = attempt(applier, made)
            if full is None:
                assert vfs.failed == failed
                vfs.heal()
                assert image(path) == made.image
                before = made
                break
            assert full is (error is FULL)
            failures += 1
            if make is Once:
                assert not rollback.is_hot(rollback.journal_path(path))
            vfs.heal()
            assert image(path) == before.image
        else:
            pytest.fail("it failed to the end")
    applier.close()
    expected = {
        ("write", "petsem.db"): 10,
        ("write", "-journal"): 10,
        ("truncate", "petsem.db"): 1,
        ("truncate", "-journal"): 0,
    }
    assert failures >= expected[operation, suffix]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    "step",
    [steps.APPLY_JOURNAL, steps.APPLY_PAGES, steps.APPLY_TRUNCATE, steps.JOURNAL_REMOVAL],
)
def test_a_failure_at_each_step_leaves_the_old_state(path: Path, step: str, number: int) -> None:
    """At every occasion of every step; afterwards the same transaction goes in."""
    old, made, _ = shrinking()
    left = [-1]

    def reached(now: str) -> None:
        if now == step:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(number, "on command")

    applier = Applier(path, reached=reached)
    put(applier, old)
    for occasion in range(20):
        left[0] = occasion
        full = attempt(applier, made)
        if full is None:
            break
        assert full is (number == errno.ENOSPC)
        assert not rollback.journal_path(path).exists()
        assert image(path) == old.image
    assert occasion >= 1
    assert image(path) == made.image
    applier.close()


def test_what_the_pages_raise_is_passed_on(path: Path) -> None:
    """A stream that breaks off is its reader's affair; the database is as it was."""
    old, made, _ = shrinking()
    applier = Applier(path)
    put(applier, old)

    def broken() -> Iterator[tuple[int, bytes]]:
        yield from made.pages[:40]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        applier.try_apply(broken(), made.commit, before=made.before, after=made.after)
    assert image(path) == old.image
    applier.close()


def crash(path: Path, before: Transaction | None, made: Transaction) -> None:
    """Leave the transaction half written and its journal hot, as a killed process does."""
    vfs = Dead()
    applier = Applier(path, vfs=vfs.name)
    if before is not None:
        put(applier, before)
    vfs.fail("write", "petsem.db", 1, IO)
    with pytest.raises(ApplyFailed):
        put(applier, made)
    applier.close()
    assert rollback.is_hot(rollback.journal_path(path))


def test_a_hot_journal_is_rolled_back_before_anything_else(path: Path) -> None:
    """The next applier finds the position from before, and goes on from there."""
    old, made, _ = shrinking()
    crash(path, old, made)
    applier = Applier(path)
    assert put(applier, made) == Applied(made.commit)
    assert image(path) == made.image
    applier.close()


def test_a_first_transaction_that_is_cut_off_leaves_an_empty_file(path: Path) -> None:
    """From nothing, back to nothing."""
    made, *_ = shrinking()
    crash(path, None, made)
    assert path.stat().st_size > 0
    assert image(path) == b""
    applier = Applier(path)
    put(applier, made)
    assert image(path) == made.image
    applier.close()


def test_a_rollback_waits_for_whoever_is_in_the_way(path: Path) -> None:
    """Another process may be at it already; then the applier is busy and writes nothing."""
    old, made, _ = shrinking()
    crash(path, old, made)
    other = open_file(path)
    applier = Applier(path)
    other.xLock(apsw.SQLITE_LOCK_SHARED)
    assert put(applier, made) == Busy()
    assert rollback.is_hot(rollback.journal_path(path))
    other.xUnlock(apsw.SQLITE_LOCK_NONE)
    assert put(applier, made) == Applied(made.commit)
    other.xClose()
    applier.close()


def test_a_reader_that_slips_in_before_the_rollback_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the applier's lock and SQLite's own there is a gap; who uses it is in the way, and
    that is no failure."""
    old, made, _ = shrinking()
    crash(path, old, made)
    other = open_file(path)
    sqlites = rollback.roll_back

    def late(*arguments: Any) -> None:
        other.xLock(apsw.SQLITE_LOCK_SHARED)
        sqlites(*arguments)

    applier = Applier(path)
    monkeypatch.setattr(rollback, "roll_back", late)
    assert put(applier, made) == Busy()
    monkeypatch.undo()
    other.xClose()
    assert put(applier, made) == Applied(made.commit)
    assert image(path) == made.image
    applier.close()


def test_a_journal_in_use_by_another_program_is_not_touched(path: Path) -> None:
    """A foreign writer's journal looks hot and is not: the applier is busy, and when the writer
    has changed something the position no longer fits."""
    old, made, _ = shrinking()
    applier = Applier(path)
    put(applier, old)
    foreign = apsw.Connection(str(path))
    foreign.execute("BEGIN; DELETE FROM t")
    foreign.cache_flush()
    kept = rollback.journal_path(path).read_bytes()
    assert put(applier, made) == Busy()
    assert rollback.journal_path(path).read_bytes() == kept
    foreign.execute("ROLLBACK")
    foreign.close()
    assert put(applier, made) == Applied(made.commit)
    applier.close()


def test_what_is_left_of_an_old_journal_is_not_ours(path: Path) -> None:
    """A cleared journal of another program, longer than ours and full of good records: nothing of
    it is rolled back into the database."""
    old, made, _ = shrinking()
    applier = Applier(path)
    put(applier, old)
    applier.close()
    nonce = 7
    foreign = b"".join(
        journal.record(nonce, pgno, bytes(PAGE_SIZE)) for pgno in range(1, 2 * old.commit)
    )
    leftover = rollback.journal_path(path)
    leftover.write_bytes(bytes(journal.SECTOR_SIZE) + foreign)
    assert not rollback.is_hot(leftover)
    vfs = FailingVfs()
    vfs.fail("write", "petsem.db", 1, IO)
    again = Applier(path, vfs=vfs.name)
    with pytest.raises(ApplyFailed):
        put(again, made)
    assert leftover.stat().st_size <= journal.SECTOR_SIZE + old.commit * journal.RECORD_BYTES
    vfs.heal()
    assert image(path) == old.image
    assert put(again, made) == Applied(made.commit)
    assert not leftover.exists()
    again.close()


def test_the_journal_lies_beside_the_file_and_not_beside_a_link(path: Path) -> None:
    """SQLite looks for it there, whatever name the database was opened by."""
    directory = path.parent / "elsewhere"
    directory.mkdir()
    link = directory / "linked.db"
    link.symlink_to(path)
    old, made, _ = shrinking()
    crash(link, old, made)
    assert [each.name for each in directory.iterdir()] == ["linked.db"]
    assert image(path) == old.image


def test_the_journal_has_the_mode_of_the_database(path: Path) -> None:
    """What nobody else may read is not copied to where they may."""
    old, made, _ = shrinking()
    crash(path, old, made)
    assert rollback.journal_path(path).stat().st_mode & 0o777 == 0o600


def test_a_rollback_does_not_ask_what_the_database_is(path: Path) -> None:
    """After a loss of power there may be no page 1 to read; the log is replayed over it."""
    old, made, _ = shrinking()
    applier = Applier(path)
    put(applier, old)
    applier.close()
    path.write_bytes(bytes(PAGE_SIZE) * 3)
    rollback.journal_path(path).write_bytes(journal.header(1, 3))
    again = Applier(path)
    done = again.try_apply(made.pages[:1], made.commit, before=None, after=made.after)
    assert done == Applied(1)
    again.close()


@pytest.mark.parametrize("error", [FULL, IO])
def test_a_sync_that_fails_says_so(path: Path, error: type[apsw.Error]) -> None:
    """What is not on the disk is not claimed to be."""
    vfs = FailingVfs()
    applier = Applier(path, vfs=vfs.name)
    vfs.fail("sync", "petsem.db", 0, error)
    with pytest.raises(ApplyFailed) as refused:
        applier.sync()
    assert refused.value.disk_full is (error is FULL)
    vfs.heal()
    applier.sync()
    applier.close()
