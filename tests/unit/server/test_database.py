"""Connections: their safety settings, what they refuse, and the pool's promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.server import sql
from petsem.server.database import (
    ReadPool,
    open_reader,
    open_writer,
    read_position,
    refuse_old_sqlite,
)
from petsem.server.leadership import begin_epoch
from petsem.server.schema import migrate
from tests.support.failing_vfs import FULL, IO, FailingVfs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database at its first position."""
    path = tmp_path / "petsem.db"
    db = open_writer(path, create=True)
    db.execute("BEGIN IMMEDIATE")
    migrate(db)
    begin_epoch(db, Position(1, 1), "node", 0)
    db.execute("COMMIT")
    db.close()
    return path


@pytest.fixture
def pool(path: Path) -> Iterator[ReadPool]:
    pool = ReadPool(path)
    yield pool
    pool.close()


def settings(db: apsw.Connection) -> dict[str, Any]:
    """What a connection has been told."""
    pragmas = (
        *("journal_mode", "synchronous", "secure_delete", "wal_autocheckpoint", "page_size"),
        *("cell_size_check", "foreign_keys", "query_only", "temp_store"),
    )
    configured = {
        "no_ckpt_on_close": apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        "defensive": apsw.SQLITE_DBCONFIG_DEFENSIVE,
        "trusted_schema": apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA,
        "triggers": apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,
    }
    return {name: db.pragma(name) for name in pragmas} | {
        name: db.config(option, -1) for name, option in configured.items()
    }


_EVERY = {
    "journal_mode": "wal",
    "wal_autocheckpoint": 0,
    "page_size": 4096,
    "cell_size_check": 1,
    "foreign_keys": 1,
    "temp_store": 2,
    "no_ckpt_on_close": 1,
    "defensive": 1,
    "trusted_schema": 0,
    "triggers": 0,
}


def test_the_writer_has_every_safety_setting(path: Path) -> None:
    """WAL, a sync at each commit, deleted content overwritten, and no checkpoint of its own."""
    db = open_writer(path)
    found = settings(db)
    db.close()
    assert found == _EVERY | {"synchronous": 2, "secure_delete": 1, "query_only": 0}


def test_a_reader_has_them_too_and_cannot_write(path: Path) -> None:
    """A reading connection refuses every statement that would change something."""
    db = open_reader(path)
    assert _EVERY.items() <= settings(db).items()
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("UPDATE position SET txid = 7")
    assert read_position(db) == Position(1, 1)
    db.close()


def test_closing_leaves_the_wal_for_those_who_read_its_frames(path: Path) -> None:
    """The last connection to close neither checkpoints nor deletes the WAL."""
    wal = path.with_name("petsem.db-wal")
    before = wal.read_bytes()
    open_writer(path).close()
    assert wal.read_bytes() == before
    assert before != b""


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that can corrupt a WAL database is refused before anything is opened."""
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", 3_051_002)
    with pytest.raises(PetsemError) as refused:
        refuse_old_sqlite()
    assert refused.value.code is Code.INVALID


@pytest.mark.parametrize("opened", [open_writer, open_reader])
def test_a_missing_database_is_not_made(
    tmp_path: Path, opened: Callable[[Path], apsw.Connection]
) -> None:
    """Only init makes a database; whoever opens one that is not there is told so."""
    with pytest.raises(PetsemError) as refused:
        opened(tmp_path / "petsem.db")
    assert refused.value.code is Code.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_corrupt(tmp_path: Path) -> None:
    """A file of something else is named as such, by the writer and by a read of the pool."""
    path = tmp_path / "petsem.db"
    path.write_bytes(b"not a database at all, " * 400)
    with pytest.raises(PetsemError) as refused:
        open_writer(path)
    assert refused.value.code is Code.CORRUPT
    pool = ReadPool(path)
    with pytest.raises(PetsemError) as unread, pool.reading() as db:
        read_position(db)
    assert unread.value.code is Code.CORRUPT
    pool.close()


def test_a_damaged_page_is_corrupt_and_costs_one_connection(path: Path, pool: ReadPool) -> None:
    """A read that meets a damaged page is answered `corrupt`, and the next reads work."""
    db = open_writer(path)
    db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    root = sql.rows(db, "SELECT rootpage FROM sqlite_schema WHERE name = 'orgs'")[0][0]
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(PetsemError) as refused, pool.snapshot() as reader:
        sql.rows(reader, "SELECT * FROM orgs")
    assert refused.value.code is Code.CORRUPT
    with pool.snapshot() as reader:
        assert read_position(reader) == Position(1, 1)


@pytest.mark.parametrize("error", [IO, FULL])
def test_a_disk_that_fails_while_opening_is_unavailable(
    tmp_path: Path, error: type[apsw.Error]
) -> None:
    """Whatever the disk does while a writer is opened becomes one error of ours."""
    vfs = FailingVfs()
    vfs.fail("write", "petsem.db", 0, error)
    with pytest.raises(PetsemError) as refused:
        open_writer(tmp_path / "petsem.db", vfs=vfs.name, create=True)
    assert refused.value.code is Code.UNAVAILABLE


def test_one_connection_serves_reads_that_do_not_overlap(pool: ReadPool) -> None:
    """The pool hands the same connection out again; a second one only beside it."""
    with pool.reading() as first:
        pass
    with pool.snapshot() as again, pool.reading() as beside:
        assert again is first
        assert beside is not first


def test_no_transaction_outlives_its_call(path: Path, pool: ReadPool) -> None:
    """After a snapshot, and after a refusal inside one, the connection sees what is new."""
    writer = open_writer(path)
    for step in range(2):
        try:
            with pool.snapshot() as db:
                assert read_position(db).txid == 1 + step
                sql.run(writer, "UPDATE position SET txid = txid + 1")
                assert read_position(db).txid == 1 + step
                if step:
                    raise PetsemError(Code.NOT_FOUND, "nothing")
        except PetsemError:
            pass
        assert not db.in_transaction
    with pool.reading() as db:
        assert read_position(db).txid == 3
    writer.close()


def test_a_read_that_breaks_takes_only_its_own_connection(pool: ReadPool) -> None:
    """A bug in a handler leaves no half-used connection in the pool."""
    with pytest.raises(ZeroDivisionError), pool.reading() as broken:
        1 / 0  # noqa: B018
    with pool.reading() as db:
        assert db is not broken
    with pytest.raises(apsw.ConnectionClosedError):
        broken.execute("SELECT 1")


def test_a_pool_that_is_closed_keeps_nothing(path: Path) -> None:
    """A read that ends after the pool was closed closes its connection itself."""
    pool = ReadPool(path)
    with pool.reading() as db:
        pool.close()
    with pytest.raises(apsw.ConnectionClosedError):
        db.execute("SELECT 1")


def test_the_pool_is_safe_between_the_loop_and_a_thread(pool: ReadPool) -> None:
    """Two threads that take and give back at once never share a connection."""
    broken: list[Exception] = []

    def use() -> None:
        try:
            for _ in range(300):
                with pool.snapshot() as db:
                    read_position(db)
        except Exception as e:
            broken.append(e)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
