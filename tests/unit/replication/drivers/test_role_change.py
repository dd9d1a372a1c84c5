"""Leader to replica and back on one file: what changes, who is in the way, and every cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from petsem.errors import Code, PetsemError
from petsem.replication import steps
from petsem.replication.drivers import role_change
from petsem.replication.drivers.apply import Applied, Applier
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.image import PAGE_SIZE, normalise
from petsem.server.database import ReadPool, open_writer
from tests.support.failing_vfs import IO, FailingVfs

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
if sys.argv[2:]:
    db.execute("BEGIN")
db.execute("SELECT * FROM t").fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A leader's database whose WAL is logged and emptied, with every connection closed."""
    path = tmp_path / "petsem.db"
    write(path, "CREATE TABLE t(x)", "INSERT INTO t VALUES ('first')")
    return path


def write(path: Path, *statements: str) -> None:
    """Some work of a leader, to the end of its WAL."""
    db = open_writer(path, create=not path.exists())
    for each in statements:
        db.execute(each)
    db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()


def image(path: Path) -> bytes:
    """The whole file."""
    reader = PageReader(path)
    pages = [page for _, page in reader.pages(1, reader.size_pages())]
    reader.close()
    return b"".join(pages)


def canonical(path: Path, epoch: int, txid: int) -> bytes:
    """The image that the stream defines for what the file holds."""
    content = image(path)
    return normalise(content[:PAGE_SIZE], epoch, txid) + content[PAGE_SIZE:]


def files(path: Path) -> set[str]:
    """What lies beside the database, empty files left out."""
    return {each.name for each in path.parent.iterdir() if each.stat().st_size}


def become_replica(path: Path, epoch: int, txid: int, **options: Any) -> None:
    """All the steps in this direction."""
    role_change.leave_wal(path, **options)
    applier = Applier(path, **options)
    try:
        role_change.normalise(applier, epoch, txid, **options)
    finally:
        applier.close()


def test_the_same_file_goes_on_working_in_both_roles(path: Path) -> None:
    """Four times around: a leader's writes, then a replica's image and applies, then again."""
    expected = ["first"]
    for turn in range(4):
        wanted = canonical(path, turn + 1, 10 * turn + 5)
        become_replica(path, turn + 1, 10 * turn + 5)
        assert image(path) == wanted
        assert files(path) == {"petsem.db"}
        # As a replica: one transaction that somebody else's leader wrote.
        leader = apsw.Connection(":memory:")
        leader.deserialize("main", wanted)
        leader.execute(f"INSERT INTO t VALUES ('applied {turn}')")
        content = leader.serialize("main")
        page_1 = normalise(content[:PAGE_SIZE], turn + 1, 10 * turn + 6)
        pages = [(1, page_1), *split(content)[1:]]
        applier = Applier(path)
        done = applier.try_apply(
            pages,
            len(pages),
            before=int.from_bytes(wanted[24:28]),
            after=int.from_bytes(page_1[24:28]),
        )
        assert done == Applied(len(pages))
        applier.close()
        role_change.enter_wal(path)
        expected.append(f"applied {turn}")
        write(path, f"INSERT INTO t VALUES ('written {turn}')")
        expected.append(f"written {turn}")
        db = open_writer(path)
        assert db.pragma("journal_mode") == "wal"
        assert [row[0] for row in db.execute("SELECT x FROM t")] == expected
        assert db.pragma("integrity_check") == "ok"
        db.close()


def split(content: bytes) -> list[tuple[int, bytes]]:
    """An image as numbered pages."""
    return [
        (at // PAGE_SIZE + 1, content[at : at + PAGE_SIZE])
        for at in range(0, len(content), PAGE_SIZE)
    ]


def test_each_step_may_be_repeated(path: Path) -> None:
    """What is done already is left alone, byte for byte."""
    become_replica(path, 3, 9)
    wanted = image(path)
    become_replica(path, 3, 9)
    assert image(path) == wanted
    role_change.enter_wal(path)
    leading = image(path)
    role_change.enter_wal(path)
    assert image(path) == leading
    assert leading[18:20] == b"\x02\x02"


def test_the_steps_are_announced(path: Path) -> None:
    """Each immediately before it is taken; page 1 is on the disk before normalising returns, and
    is not written a second time."""
    reached: list[str] = []
    become_replica(path, 1, 1, reached=reached.append)
    become_replica(path, 1, 1, reached=reached.append)
    role_change.enter_wal(path, reached=reached.append)
    assert reached == [
        *(steps.ROLE_LEAVE_WAL, steps.ROLE_NORMALISE),
        *(steps.APPLY_JOURNAL, steps.APPLY_PAGES, steps.JOURNAL_REMOVAL, steps.SYNC_DATABASE),
        *(steps.ROLE_LEAVE_WAL, steps.ROLE_NORMALISE, steps.SYNC_DATABASE),
        steps.ROLE_ENTER_WAL,
    ]


def test_entering_again_keeps_frames_that_are_not_logged(path: Path) -> None:
    """A leader that was killed repeats the step; the WAL is as it was, and the log reads it."""
    wal = path.with_name("petsem.db-wal")
    db = open_writer(path)
    db.execute("INSERT INTO t VALUES ('unlogged')")
    frames = wal.read_bytes()
    db.close()
    role_change.enter_wal(path)
    assert wal.read_bytes() == frames != b""


def test_a_file_system_without_shared_memory_says_so(path: Path) -> None:
    """It keeps the mode it has, and nobody is blamed for being in the way."""
    role_change.leave_wal(path)
    with pytest.raises(PetsemError) as refused:
        role_change.enter_wal(path, vfs="unix-dotfile")
    assert not isinstance(refused.value, role_change.DatabaseInUse)
    assert refused.value.code is Code.UNAVAILABLE
    assert image(path)[18:20] == b"\x01\x01"


def test_a_wal_with_frames_is_not_left(path: Path) -> None:
    """Its transactions might not be in the log yet."""
    db = open_writer(path)
    db.execute("INSERT INTO t VALUES ('late')")
    db.close()
    reached: list[str] = []
    with pytest.raises(role_change.WalNotEmpty) as refused:
        role_change.leave_wal(path, reached=reached.append)
    assert refused.value.code is Code.UNAVAILABLE
    assert reached == []
    assert files(path) >= {"petsem.db-wal"}
    write(path)
    role_change.leave_wal(path)


@pytest.mark.parametrize("inside", [(), ("transaction",)])
def test_another_process_that_has_it_open_is_named(path: Path, inside: tuple[str, ...]) -> None:
    """Even between its reads it keeps the WAL; when it is gone the step is taken."""
    with held(path, *inside) as child:
        with pytest.raises(role_change.DatabaseInUse) as refused:
            role_change.leave_wal(path)
        assert refused.value.pids == [child.pid]
        assert f"process {child.pid} " in refused.value.message
        db = open_writer(path)
        db.execute("INSERT INTO t VALUES ('still a leader')")
        db.close()
        with pytest.raises(role_change.WalNotEmpty):
            role_change.leave_wal(path)
        child.communicate("")
    write(path)
    role_change.leave_wal(path)
    assert image(path)[18:20] == b"\x01\x01"


def held(path: Path, *inside: str) -> subprocess.Popen[str]:
    """A process that has read the database, and stays."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *inside],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_reader_of_a_replica_is_named_too(path: Path) -> None:
    """Whoever is inside a read transaction holds up page 1, and the way back into WAL mode."""
    role_change.leave_wal(path)
    applier = Applier(path)
    with held(path, "transaction") as child:
        steps_refused: tuple[Callable[[], None], ...] = (
            lambda: role_change.normalise(applier, 2, 2),
            lambda: role_change.enter_wal(path),
        )
        for step in steps_refused:
            with pytest.raises(role_change.DatabaseInUse) as refused:
                step()
            assert refused.value.pids == [child.pid]
        child.communicate("")
    wanted = canonical(path, 2, 2)
    role_change.normalise(applier, 2, 2)
    assert image(path) == wanted
    applier.close()
    role_change.enter_wal(path)


def test_a_connection_of_our_own_is_said_to_be_ours(path: Path) -> None:
    """The caller forgot to close a pool; no pid is blamed for it."""
    pool = ReadPool(path)
    with pool.reading() as db:
        db.execute("SELECT * FROM t").fetchall()
    with pytest.raises(role_change.DatabaseInUse) as refused:
        role_change.leave_wal(path)
    assert refused.value.pids == [os.getpid()]
    assert "while this process has" in refused.value.message
    pool.close()
    role_change.leave_wal(path)


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_disk_that_fails_can_be_tried_again(path: Path, operation: str) -> None:
    """At every write and sync of leaving and of entering, and afterwards both still work."""
    vfs = FailingVfs()
    for step, mode in ((role_change.leave_wal, b"\x01\x01"), (role_change.enter_wal, b"\x02\x02")):
        for after in range(30):
            vfs.fail(operation, "", after, IO)
            code = attempt(step, path, vfs)
            if code is None:
                break
            assert code is Code.UNAVAILABLE
            db = apsw.Connection(str(path))
            assert db.execute("SELECT x FROM t").fetchall() == [("first",)]
            assert db.pragma("integrity_check") == "ok"
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.close()
        assert after > 0
        assert image(path)[18:20] == mode


def attempt(step: Callable[..., None], path: Path, vfs: FailingVfs) -> Code | None:
    """Take the step on a failing disk; how it was refused, if it was."""
    try:
        step(path, vfs=vfs.name)
    except PetsemError as e:
        return e.code
    finally:
        vfs.heal()
    return None


@pytest.mark.parametrize("step", [role_change.leave_wal, role_change.enter_wal])
def test_what_is_no_database_is_refused(tmp_path: Path, step: Callable[[Path], None]) -> None:
    """Absent, or something else: one sentence each, and nothing is made."""
    path = tmp_path / "petsem.db"
    with pytest.raises(PetsemError) as absent:
        step(path)
    assert absent.value.code is Code.UNAVAILABLE
    assert not path.exists()
    path.write_bytes(b"not a database at all, " * 400)
    with pytest.raises(PetsemError) as damaged:
        step(path)
    assert damaged.value.code is Code.CORRUPT


def test_an_empty_file_has_no_page_to_normalise(tmp_path: Path) -> None:
    """It is damage, not a database of no pages."""
    path = tmp_path / "petsem.db"
    path.touch()
    applier = Applier(path)
    with pytest.raises(PetsemError) as refused:
        role_change.normalise(applier, 1, 1)
    assert refused.value.code is Code.CORRUPT
    applier.close()


def test_a_file_longer_than_its_header_says_is_cut(path: Path) -> None:
    """What SQLite would ignore would make the file differ from every other node's."""
    become_replica(path, 1, 1)
    wanted = image(path)
    with path.open("ab") as file:
        file.write(bytes(PAGE_SIZE))
    become_replica(path, 1, 1)
    assert image(path) == wanted
