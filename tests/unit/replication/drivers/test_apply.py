"""The applier: whole images, refusals, readers beside it, and growth over the lock page."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from petsem.errors import Code, PetsemError
from petsem.replication import steps
from petsem.replication.drivers import locks
from petsem.replication.drivers.apply import Applied, Applier, Busy, PositionMismatch
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE
from petsem.replication.page_set import NotApplicable
from petsem.server import sql
from petsem.server.database import ReadPool
from tests.support.page_source import CHECK, PageSource, Transaction

ENOUGH = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty replica."""
    path = tmp_path / "petsem.db"
    path.touch(0o600)
    return path


@pytest.fixture
def applier(path: Path) -> Iterator[Applier]:
    applier = Applier(path)
    yield applier
    applier.close()


def put(applier: Applier, made: Transaction, *, replay: bool = False) -> Applied | Busy:
    """Apply one transaction of the source."""
    before = None if replay else made.before
    return applier.try_apply(made.pages, made.commit, before=before, after=made.after)


def image(path: Path) -> bytes:
    """The whole file."""
    reader = PageReader(path)
    pages = [page for _, page in reader.pages(1, reader.size_pages())]
    reader.close()
    return b"".join(pages)


def files(path: Path) -> list[str]:
    """What lies in the directory."""
    return sorted(each.name for each in path.parent.iterdir())


def test_each_transaction_makes_the_leaders_image(path: Path, applier: Applier) -> None:
    """From the empty file on, growing and shrinking, the file is what the leader has, every
    time, and no journal is left."""
    sizes = set()
    for made in PageSource().workload(ENOUGH):
        assert put(applier, made) == Applied(len(made.pages))
        assert image(path) == made.image
        assert files(path) == ["petsem.db"]
        sizes.add(made.commit)
    assert len(sizes) == 3


def test_a_snapshot_is_taken_page_by_page(path: Path, applier: Applier) -> None:
    """An iterator over more pages than are held at once becomes one transaction; over a longer
    database too, which is then cut."""
    source = PageSource()
    large = source.run("CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(3000000))")
    small = source.run("DELETE FROM t; INSERT INTO t VALUES (randomblob(1000000)); VACUUM")
    for made in (large, small):
        whole = [(pgno, page_at(made.image, pgno)) for pgno in range(1, made.commit + 1)]
        done = applier.try_apply(iter(whole), made.commit, before=made.before, after=made.after)
        assert done == Applied(made.commit)
        assert image(path) == made.image


def test_a_large_transaction_takes_little_memory(path: Path, applier: Applier) -> None:
    """Sixteen MiB over sixteen MiB, and then cut to one page: neither the pages nor what they
    replace are ever held as a whole."""
    commit = 4_096

    def pages(mark: int) -> Iterator[tuple[int, bytes]]:
        for pgno in range(1, commit + 1):
            yield pgno, stamped(pgno.to_bytes(PAGE_SIZE), mark, commit)

    for mark in (1, 2):
        tracemalloc.start()
        done = applier.try_apply(pages(mark), commit, before=mark - 1, after=mark)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == Applied(commit)
        assert peak < 2**20
    assert applier.try_apply(
        [(1, stamped(bytes(PAGE_SIZE), 3, 1))], 1, before=2, after=3
    ) == Applied(1)
    assert path.stat().st_size == PAGE_SIZE


def stamped(page: bytes, stamp: int, commit: int) -> bytes:
    """A page with what page 1 says."""
    return page[:24] + stamp.to_bytes(4) + commit.to_bytes(4) + page[32:]


def page_at(content: bytes, pgno: int) -> bytes:
    """One page."""
    return content[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE]


def test_a_transaction_from_elsewhere_is_refused(path: Path, applier: Applier) -> None:
    """One that starts at another position changes nothing: a later one, an earlier one, one of
    another branch at the same TXID."""
    source = PageSource()
    first, second, third = (*source.workload(2), source.run("UPDATE rows SET n = n"))
    with pytest.raises(PositionMismatch) as on_empty:
        put(applier, second)
    assert (on_empty.value.expected, on_empty.value.found) == (second.before, 0)
    put(applier, first)
    other = list(PageSource(epoch=2).workload(2))[1]
    for wrong in (first, third, other):
        with pytest.raises(PositionMismatch) as refused:
            put(applier, wrong)
        assert (refused.value.expected, refused.value.found) == (wrong.before, first.after)
        assert refused.value.code is Code.CONFLICT
        assert image(path) == first.image
    assert files(path) == ["petsem.db"]
    put(applier, second)
    assert image(path) == second.image


@pytest.mark.parametrize("late", [False, True])
def test_pages_that_are_no_transaction_change_nothing(
    path: Path, applier: Applier, late: bool
) -> None:
    """Found at once, or after the first pages have been written: the database is as it was."""
    source = PageSource()
    first = source.run("CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(400000))")
    second = source.run("UPDATE t SET x = randomblob(400000)")
    put(applier, first)
    pages = [*second.pages[: 60 if late else 1], (1, bytes(PAGE_SIZE))]
    with pytest.raises(NotApplicable) as refused:
        applier.try_apply(pages, second.commit, before=second.before, after=second.after)
    assert refused.value.rule == "order"
    assert image(path) == first.image
    assert files(path) == ["petsem.db"]
    put(applier, second)
    assert image(path) == second.image


def test_growth_with_a_page_missing_is_refused_unless_it_is_a_replay(
    path: Path, applier: Applier
) -> None:
    """Pages beyond the old end must all be there; a replay after a loss of power may meet a file
    that was cut shorter than its transactions assume, and goes on."""
    source = PageSource()
    first = source.run("CREATE TABLE t(x)")
    second = source.run("INSERT INTO t VALUES (randomblob(40000))")
    put(applier, first)
    gap = [page for page in second.pages if page[0] != second.commit - 1]
    for pages in (gap, gap[:-1]):
        with pytest.raises(NotApplicable) as refused:
            applier.try_apply(pages, second.commit, before=second.before, after=second.after)
        assert refused.value.rule == "pages-missing"
        assert image(path) == first.image
    done = applier.try_apply(gap[:-1], second.commit, before=None, after=second.after)
    assert done == Applied(len(gap) - 1)
    assert len(image(path)) == len(second.image)
    put(applier, second, replay=True)
    assert image(path) == second.image


def test_a_replay_repeats_what_is_there(path: Path, applier: Applier) -> None:
    """From an earlier position on, whole pages over newer ones, to the same end."""
    every = list(PageSource().workload(20))
    for made in every:
        put(applier, made)
    for made in every[7:]:
        put(applier, made, replay=True)
    assert image(path) == every[-1].image


def test_a_file_that_ends_within_a_page_is_repaired(path: Path, applier: Applier) -> None:
    """What a loss of power may leave is no obstacle, and not even part of a rollback."""
    first, second = PageSource().workload(2)
    put(applier, first)
    whole = len(first.image)
    applier.close()
    with path.open("ab") as file:
        file.write(b"torn")
    again = Applier(path)
    put(again, second)
    assert image(path) == second.image
    assert path.stat().st_size == len(second.image) > whole
    again.close()


def test_a_reader_that_is_inside_keeps_the_applier_out(path: Path, applier: Applier) -> None:
    """While a snapshot is open nothing is written, other readers come and go, and the pages are
    not even asked for; then the transaction goes in."""
    first, second, third = PageSource().workload(3)
    put(applier, first)
    put(applier, second)
    pool = ReadPool(path)
    asked = []

    def pages() -> Iterator[tuple[int, bytes]]:
        asked.append(True)
        yield from third.pages

    with pool.snapshot() as slow:
        assert sql.rows(slow, CHECK) == [(0, 1, 1, 0)]
        for patience_s in (0.0, locks.PENDING_MAX_S):
            outcome = applier.try_apply(
                pages(),
                third.commit,
                before=third.before,
                after=third.after,
                patience_s=patience_s,
            )
            assert outcome == Busy()
            with pool.snapshot() as other:
                assert other is not slow
                assert sql.rows(other, CHECK) == [(0, 1, 1, 0)]
        assert sql.rows(slow, CHECK) == [(0, 1, 1, 0)]
    assert not asked
    assert put(applier, third) == Applied(len(third.pages))
    with pool.snapshot() as reader:
        assert sql.rows(reader, CHECK) == [(0, 1, 1, 2)]
    pool.close()


def test_readers_of_the_pool_see_each_transaction(path: Path, applier: Applier) -> None:
    """Connections with a warm cache notice every apply, though none of them wrote it."""
    workload = PageSource().workload(ENOUGH)
    put(applier, next(workload))
    pool = ReadPool(path)
    with pool.snapshot() as one, pool.snapshot() as two:
        assert one is not two
    seen = []
    for made in workload:
        assert put(applier, made) == Applied(len(made.pages))
        with pool.snapshot() as db:
            zero, same, also, number = sql.rows(db, CHECK)[0]
            assert (zero, same, also) == (0, 1, 1)
            seen.append(number)
    assert seen == sorted(seen)
    assert seen[-1] > ENOUGH - 10
    pool.close()


def test_readers_notice_another_branch_at_the_same_txid(path: Path, applier: Applier) -> None:
    """Page by page from one branch to another: the stamp differs, so no cache survives."""
    mine, theirs = PageSource(epoch=1), PageSource(epoch=2)
    for source, number in ((mine, 1), (theirs, 2)):
        made = source.run(f"CREATE TABLE t(x); INSERT INTO t VALUES ({number})")
        whole = [(pgno, page_at(made.image, pgno)) for pgno in range(1, made.commit + 1)]
        applier.try_apply(whole, made.commit, before=None, after=made.after)
        if number == 1:
            db = apsw.Connection(str(path))
        assert db.execute("SELECT x FROM t").fetchall() == [(number,)]
    db.close()


def test_one_at_a_time(path: Path, applier: Applier) -> None:
    """A second caller, while the first is still fetching its pages, is told so."""
    first, second = PageSource().workload(2)
    inner = []

    def pages() -> Iterator[tuple[int, bytes]]:
        inner.append(put(applier, second))
        yield from first.pages

    done = applier.try_apply(pages(), first.commit, before=0, after=first.after)
    assert done == Applied(len(first.pages))
    assert inner == [Busy()]
    assert image(path) == first.image


def test_the_steps_are_announced_in_their_order(path: Path) -> None:
    """Journal, pages, cut, removal; the cut only where the size changes by it."""
    reached: list[str] = []
    applier = Applier(path, reached=reached.append)
    source = PageSource()
    plain = [steps.APPLY_JOURNAL, steps.APPLY_PAGES, steps.JOURNAL_REMOVAL]
    put(applier, source.run("CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(40000))"))
    assert reached == plain
    reached.clear()
    put(applier, source.run("DELETE FROM t; VACUUM"))
    assert reached == [*plain[:2], steps.APPLY_JOURNAL, steps.APPLY_TRUNCATE, plain[2]]
    reached.clear()
    applier.sync()
    assert reached == [steps.SYNC_DATABASE]
    applier.close()


def test_a_sync_covers_the_removal_of_journals(
    path: Path, applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is synced with the file: a journal that comes back with the power would roll
    back what the node does not replay."""
    synced: list[Path] = []
    descriptors = Path("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((descriptors / str(fd)).readlink()))
    applier.sync()
    assert synced == [path.parent]


@pytest.mark.parametrize("missing", ["petsem.db", "."])
def test_what_is_no_file_is_not_made(tmp_path: Path, missing: str) -> None:
    """The applier makes no database; whoever made the directory did."""
    for opened in (Applier, PageReader):
        with pytest.raises(PetsemError) as refused:
            opened(tmp_path / missing)
        assert refused.value.code is Code.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def huge(path: Path, source: apsw.Connection) -> None:
    """Make an ordinary database nearly 1 GiB long, of unused pages that are holes on the disk."""
    source.execute("PRAGMA page_size = 4096; CREATE TABLE t(x); INSERT INTO t VALUES ('old')")
    small = bytearray(source.serialize("main"))
    small[28:32] = (LOCK_PAGE - 3).to_bytes(4)
    path.write_bytes(small)
    os.truncate(path, (LOCK_PAGE - 3) * PAGE_SIZE)


def between(path: Path, after: int) -> list[tuple[int, bytes]]:
    """The pages that a small transaction in the huge database may change, stamped."""
    reader = PageReader(path)
    pages = [*reader.pages(1, 4), *reader.pages(LOCK_PAGE - 3, reader.size_pages())]
    reader.close()
    first = bytearray(pages[0][1])
    first[24:28] = first[92:96] = after.to_bytes(4)
    return [(1, bytes(first)), *pages[1:]]


def test_over_one_gib_the_lock_page_is_left_out(tmp_path: Path) -> None:
    """A database that grows past 1 GiB and shrinks again is the leader's each time, also when the
    shrinking fails at its last step; SQLite reads it."""
    leader, replica = tmp_path / "leader.db", tmp_path / "replica.db"
    huge(leader, apsw.Connection(":memory:"))
    huge(replica, apsw.Connection(":memory:"))
    failing = []

    def reached(step: str) -> None:
        if step in failing:
            raise OSError(step)

    applier = Applier(replica, reached=reached)
    db = apsw.Connection(str(leader))
    db.execute("INSERT INTO t VALUES (randomblob(20000)), ('new')")
    grown = between(leader, 1001)
    assert grown[-1][0] > LOCK_PAGE
    assert LOCK_PAGE not in dict(grown)
    commit = grown[-1][0]
    assert applier.try_apply(grown, commit, before=None, after=1001) == Applied(len(grown))
    assert between(replica, 1001) == grown
    stock = apsw.Connection(str(replica))
    answer = "SELECT count(*), sum(length(x)) FROM t"
    assert stock.execute(answer).fetchall() == [(3, 20006)]
    # Back below 1 GiB: what is cut off is kept in the journal, on both sides of the lock page.
    first = bytearray(grown[0][1])
    first[24:28] = first[92:96] = (1002).to_bytes(4)
    first[28:32] = (LOCK_PAGE - 2).to_bytes(4)
    shrunk = [(1, bytes(first))]
    failing.append(steps.JOURNAL_REMOVAL)
    with pytest.raises(PetsemError):
        applier.try_apply(shrunk, LOCK_PAGE - 2, before=1001, after=1002)
    assert between(replica, 1001) == grown
    assert stock.execute(answer).fetchall() == [(3, 20006)]
    failing.clear()
    assert applier.try_apply(shrunk, LOCK_PAGE - 2, before=1001, after=1002) == Applied(1)
    assert replica.stat().st_size == (LOCK_PAGE - 2) * PAGE_SIZE
    # And forth again, where every new page must be there, but not the lock page.
    late = [shrunk[0], *(page for page in grown if page[0] > LOCK_PAGE - 2)]
    late[0] = grown[0]
    assert applier.try_apply(late, commit, before=1002, after=1001) == Applied(len(late))
    assert stock.execute(answer).fetchall() == [(3, 20006)]
    assert replica.stat().st_blocks * 512 < 2**20
    stock.close()
    db.close()
    applier.close()
