"""`kill -9` within every step of a role change on one file: the next start repeats the step, and no
committed row is missing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from petsem.replication import steps
from petsem.replication.image import PAGE_SIZE, normalise
from petsem.server.database import open_writer
from tests.support import stock

SEED: Final = int(os.environ.get("PETSEM_KILL_SEED", random.randrange(2**32)))
KILLS: Final = int(os.environ.get("PETSEM_KILLS", "40"))
TURNS: Final = 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A leader's database."""
    path = tmp_path / "petsem.db"
    db = open_writer(path, create=True)
    db.execute("CREATE TABLE numbers(n INTEGER PRIMARY KEY)")
    db.close()
    return path


def run(path: Path, turns: int, *arguments: str) -> tuple[int, int]:
    """Change roles in a process of its own: how it ended, and what it said was committed last."""
    command = [sys.executable, "-m", "tests.support.changing_roles", str(path), str(turns)]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, timeout=60)
    said = done.stdout.split()
    return done.returncode, int(said[-1]) if said else 0


def look(path: Path, committed: int, by: int) -> int:
    """What a stock reader finds: every committed row, and at most one that nobody heard of."""
    readers = stock.commands(path)
    command = readers[by % len(readers)]
    lines = stock.ask(command, "PRAGMA integrity_check;", "SELECT count(*), max(n) FROM numbers;")
    count, last = lines[1].split("|")
    assert lines[0] == "ok"
    assert count == (last or "0")
    assert int(count) in (committed, committed + 1)
    return int(count)


def finish(path: Path, committed: int) -> None:
    """One more turn, to its end: the image is the one that the stream defines."""
    ended, said = run(path, 1)
    assert (ended, said) == (0, committed + 1)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    assert content[:PAGE_SIZE] == normalise(content[:PAGE_SIZE], 1, said)
    assert look(path, said, 0) == said


def test_killed_in_any_write_nothing_committed_is_lost(path: Path) -> None:
    """Within random writes, cuts and deletions of all files, of SQLite's own steps too."""
    print(f"PETSEM_KILL_SEED={SEED} PETSEM_KILLS={KILLS}")
    chance = random.Random(SEED)
    committed = killed = 0
    for each in range(KILLS):
        ended, said = run(path, TURNS, "write", str(chance.randrange(1, 60)))
        assert ended in (-signal.SIGKILL, 0)
        killed += ended != 0
        committed = max(committed, said)
        # A reader in between recovers what is to be recovered; every other time the step itself
        # finds it.
        if each % 2:
            committed = look(path, committed, each // 2)
        elif said == 0:
            committed = look(path, committed, 0)
    assert killed > KILLS * 3 / 4
    finish(path, look(path, committed, 0))


@pytest.mark.parametrize(
    "step",
    [
        *(steps.ROLE_LEAVE_WAL, steps.ROLE_NORMALISE, steps.ROLE_ENTER_WAL),
        *(steps.APPLY_JOURNAL, steps.APPLY_PAGES, steps.JOURNAL_REMOVAL, steps.SYNC_DATABASE),
    ],
)
def test_killed_before_each_step_it_is_repeated(path: Path, step: str) -> None:
    """The second time that it comes to it."""
    ended, committed = run(path, TURNS, step, "2")
    assert ended == -signal.SIGKILL
    finish(path, look(path, committed, 0))
