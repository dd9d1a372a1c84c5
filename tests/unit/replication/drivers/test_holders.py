"""Who holds a lock: the lock table, with what real processes and odd file systems put into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from petsem.replication.drivers.holders import lock_holders

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
db.execute("SELECT * FROM t").fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one row."""
    path = tmp_path / "any.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    db.close()
    return path


def test_a_reader_in_another_process_is_named(path: Path) -> None:
    """By its pid, and beside this process; nobody is when both are gone."""
    assert lock_holders(path) == []
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert lock_holders(path) == [child.pid]
        db = apsw.Connection(str(path))
        db.execute("BEGIN; SELECT * FROM t")
        assert lock_holders(path) == sorted((child.pid, os.getpid()))
        child.communicate("")
    assert lock_holders(path) == [os.getpid()]
    db.close()
    assert lock_holders(path) == []


def table(proc: Path, path: Path, *, device: int | None = None) -> None:
    """A lock table as the kernel writes it."""
    file = path.stat()
    device = file.st_dev if device is None else device
    at = f"{os.major(device):02x}:{os.minor(device):02x}:{file.st_ino}"
    proc.joinpath("locks").write_text(
        f"1: POSIX  ADVISORY  READ 17 {at} 1073741826 1073742335\n"
        f"1: -> POSIX  ADVISORY  WRITE 18 {at} 1073741826 1073742335\n"
        f"2: FLOCK  ADVISORY  WRITE 19 {at} 0 EOF\n"
        f"3: OFDLCK ADVISORY  READ -1 {at} 0 EOF\n"
        f"4: POSIX  ADVISORY  READ 20 {at}1 1073741826 1073742335\n"
        f"5: POSIX  ADVISORY  READ 0 {at} 1073741826 1073742335\n"
        f"6: POSIX  ADVISORY  WRITE 17 {at} 1073741824 1073741825\n"
        "7: \n"
    )


def test_of_the_table_only_locks_like_sqlites_count(path: Path, tmp_path: Path) -> None:
    """No waiter, no other kind, no other file, nobody from another namespace; each once."""
    table(tmp_path, path)
    assert lock_holders(path, proc=tmp_path) == [17]


def test_where_the_device_differs_the_open_file_decides(path: Path, tmp_path: Path) -> None:
    """Inode numbers repeat between file systems, and some show two devices for one file."""
    table(tmp_path, path, device=path.stat().st_dev + 1)
    assert lock_holders(path, proc=tmp_path) == []
    descriptors = tmp_path / "17" / "fd"
    descriptors.mkdir(parents=True)
    (descriptors / "3").symlink_to(tmp_path / "gone")
    assert lock_holders(path, proc=tmp_path) == []
    (descriptors / "4").symlink_to(path)
    assert lock_holders(path, proc=tmp_path) == [17]


def test_what_the_system_does_not_say_is_nobody(path: Path, tmp_path: Path) -> None:
    """No lock table, no database: a warning without a name, and no error."""
    assert lock_holders(path, proc=tmp_path / "none") == []
    assert lock_holders(tmp_path / "none.db") == []
