"""Applying beside readers of every kind, and `kill -9` in the middle: nobody ever sees a half
transaction, and whoever comes next, a stock reader too, finds a whole database."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from petsem.errors import Code, PetsemError
from petsem.replication import steps
from petsem.replication.drivers import locks, rollback
from petsem.replication.drivers.apply import Applied, Applier
from petsem.replication.drivers.holders import lock_holders
from petsem.server import sql
from petsem.server.database import ReadPool
from tests.support import stock
from tests.support.page_source import CHECK, PageSource, Transaction
from tests.support.patience import PATIENCE_S

SEED: Final = int(os.environ.get("PETSEM_KILL_SEED", random.randrange(2**32)))
KILLS: Final = int(os.environ.get("PETSEM_KILLS", "40"))
APPLIES: Final = 1_000
STOCK_READS: Final = 5_000
HELD_S: Final = 1.5
READS: Final = 200
WORKLOAD: Final = 400

_STOCK_HOLDER: Final = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
db.execute("SELECT n FROM rows").fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty replica."""
    path = tmp_path / "petsem.db"
    path.touch(0o600)
    return path


def put(applier: Applier, made: Transaction, *, within_s: float = 2 * PATIENCE_S) -> int:
    """Apply it as the owner does: at once, then patiently, then after waits. How often it was
    refused."""
    refused = 0
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        outcome = applier.try_apply(
            made.pages,
            made.commit,
            before=made.before,
            after=made.after,
            patience_s=locks.PENDING_MAX_S if refused else 0.0,
        )
        if isinstance(outcome, Applied):
            return refused
        if refused:
            time.sleep(locks.wait_s(refused - 1, random.random()))
        refused += 1
    pytest.fail("readers kept the applier out")


class OwnReader(threading.Thread):
    """Reads through a pool, in this process, for as long as there is something to see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = ReadPool(path)
        self.enough = threading.Event()
        self.answers: list[tuple[int, ...]] = []
        self.refused = 0
        self.slowest_s = 0.0
        self.broken: Exception | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                began_s = time.monotonic()
                self._read()
                self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
                # As the loop would be between its reads.
                time.sleep(0.000_2)
        except Exception as e:
            self.broken = e
        finally:
            self._pool.close()

    def _read(self) -> None:
        try:
            with self._pool.snapshot() as db:
                self.answers += sql.rows(db, CHECK)
        except PetsemError as e:
            # Threads of one process take turns, so that an apply in one can last longer than a
            # read in another waits. A node reads and applies on one thread.
            if e.code is not Code.UNAVAILABLE:
                raise
            self.refused += 1


@contextlib.contextmanager
def own_reader(path: Path) -> Iterator[OwnReader]:
    """It reads inside the block."""
    reader = OwnReader(path)
    reader.start()
    try:
        yield reader
    finally:
        reader.enough.set()
        reader.join()
    assert reader.broken is None
    print(f"own reader: {len(reader.answers)} answers, {reader.refused} refused")
    assert reader.refused <= len(reader.answers) / 20


def whole(answers: list[tuple[int, ...]]) -> list[int]:
    """The numbers that a reader saw, if each was a whole transaction and none came before another
    that is older."""
    numbers = [answer[3] for answer in answers]
    assert {answer[:3] for answer in answers} == {(0, 1, 1)}
    assert numbers == sorted(numbers)
    return numbers


def test_readers_of_every_kind_see_whole_transactions(path: Path) -> None:
    """A thousand applies and more, growing and shrinking, with a pool in this process and each
    stock reader in its own going on all the time."""
    workload = PageSource().workload(sys.maxsize)
    applier = Applier(path)
    for _ in range(2):
        put(applier, next(workload))
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for command in stock.commands(path)
    ]
    outputs: dict[int, str] = {}

    def feed(child: subprocess.Popen[str]) -> None:
        outputs[child.pid] = child.communicate(f"{CHECK};\n" * STOCK_READS)[0]

    feeders = [threading.Thread(target=feed, args=(child,)) for child in children]
    with own_reader(path) as own:
        for feeder in feeders:
            feeder.start()
        for made in workload:
            put(applier, made)
            # As the loop would be between two transactions.
            time.sleep(0.000_2)
            if made.txid >= APPLIES and not any(feeder.is_alive() for feeder in feeders):
                break
    applier.close()
    seen = [own.answers]
    for child in children:
        assert child.returncode == 0
        lines = outputs[child.pid].splitlines()
        assert len(lines) == STOCK_READS
        seen.append([tuple(map(int, line.split("|"))) for line in lines])
    for answers in seen:
        assert len(set(whole(answers))) > 50
    assert path.read_bytes() == made.image


def test_a_reader_that_stays_stops_only_the_applier(path: Path) -> None:
    """For a second and a half or more a foreign process holds its lock: everybody else is served
    all the time, the process is named, and when it goes the transaction goes in."""
    first, second, third = PageSource().workload(3)
    applier = Applier(path)
    put(applier, first)
    put(applier, second)
    command = [sys.executable, "-c", _STOCK_HOLDER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == "held\n"
        foreign = stock.commands(path)[0]
        done: list[int] = []
        applying = threading.Thread(target=lambda: done.append(put(applier, third)))
        with own_reader(path) as own:
            applying.start()
            began_s, lines = time.monotonic(), []
            while time.monotonic() < began_s + HELD_S or len(own.answers) <= READS:
                assert time.monotonic() < began_s + PATIENCE_S, own.answers[-1:]
                lines += stock.ask(foreign, *[CHECK] * 50)
            held_s = time.monotonic() - began_s
            named = lock_holders(path)
            reads = len(own.answers)
            slow.communicate("")
            applying.join(timeout=PATIENCE_S)
            left = len(own.answers)
            while len(own.answers) < left + 20:
                time.sleep(0.001)
    applier.close()
    assert slow.pid in named
    assert set(lines) == {"0|1|1|0"}
    assert len(lines) >= 50
    assert reads > READS
    # Nobody waited for the one who stays; what a busy machine makes of a moment is not held here.
    assert own.slowest_s < held_s / 2
    assert done
    assert done[0] > 10
    assert set(whole(own.answers)) == {0, 2}


def digests(transactions: int) -> dict[bytes, int]:
    """Each image of the workload, and the empty file, with its TXID."""
    every = {digest(made.image): made.txid for made in PageSource().workload(transactions)}
    return {digest(b""): 0, **every}


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def run(path: Path, *arguments: str) -> int:
    """Apply in a process of its own; how it ended."""
    command = [sys.executable, "-m", "tests.support.applying", str(path), str(WORKLOAD)]
    return subprocess.run([*command, *arguments], timeout=60).returncode


def recovered(path: Path, by: int) -> None:
    """Let one of the stock readers be the first to open it."""
    readers = stock.commands(path)
    command = readers[by % len(readers)]
    empty = ["ok"] if stock.ask(command, "SELECT count(*) FROM sqlite_schema;") == ["0"] else None
    lines = stock.ask(command, "PRAGMA integrity_check;", *([] if empty else [f"{CHECK};"]))
    assert lines[0] == "ok"
    assert empty or lines[1].startswith("0|1|1|")
    assert not rollback.is_hot(rollback.journal_path(path))


def test_killed_in_any_write_it_is_whole(path: Path) -> None:
    """Each time in the middle of a random write to the database or its journal. Then a stock
    reader comes first, or the applier itself; the file is always one of the leader's images, and
    it never goes back."""
    print(f"PETSEM_KILL_SEED={SEED} PETSEM_KILLS={KILLS}")
    chance = random.Random(SEED)
    images = digests(WORKLOAD)
    txid = 0
    hot = 0
    for turn in range(KILLS):
        if txid == WORKLOAD:
            path.write_bytes(b"")
            txid = 0
        # Around sixteen writes a transaction; the first ones of all more often than the others.
        calls = chance.randrange(1, 20 if txid == 0 else 500)
        ended = run(path, "write", str(calls))
        assert ended in (-signal.SIGKILL, 0)
        hot += rollback.is_hot(rollback.journal_path(path))
        if turn % 3 == 2 and turn < KILLS - 1:
            continue
        recovered(path, turn)
        found = images[digest(path.read_bytes())]
        assert found >= txid
        txid = found
    # Without these the turns would have shown little.
    assert hot > KILLS / 2
    assert run(path) == 0
    assert images[digest(path.read_bytes())] == WORKLOAD


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        (steps.APPLY_JOURNAL, 1),
        (steps.APPLY_JOURNAL, 30),
        (steps.APPLY_PAGES, 1),
        (steps.APPLY_PAGES, 30),
        (steps.APPLY_TRUNCATE, 1),
        (steps.APPLY_TRUNCATE, 3),
        (steps.JOURNAL_REMOVAL, 1),
        (steps.JOURNAL_REMOVAL, 30),
        (steps.SYNC_DATABASE, 1),
    ],
)
def test_killed_at_each_step_it_is_whole(path: Path, step: str, calls: int) -> None:
    """Before the removal of the journal the transaction has not happened; then it goes on."""
    images = digests(WORKLOAD)
    assert run(path, step, str(calls)) == -signal.SIGKILL
    recovered(path, calls)
    txid = images[digest(path.read_bytes())]
    if step in (steps.APPLY_PAGES, steps.JOURNAL_REMOVAL):
        assert txid == calls - 1
    assert run(path) == 0
    assert images[digest(path.read_bytes())] == WORKLOAD
