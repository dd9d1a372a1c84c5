"""The log when a step fails, when the process ends in one, and when the power does."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_files import LogOps
from petsem.replication.drivers.log_types import LogDeleted
from petsem.replication.ltx import peek_header
from petsem.replication.segment import HEADER_BYTES
from petsem.replication.steps import LOG_APPEND, LOG_CUT, LOG_SYNC, SEGMENT_CHANGE
from tests.support.ltx_files import Chain
from tests.support.power_loss import LosingOps
from tests.unit.replication.drivers.log_support import (
    Quick,
    all_files,
    contents,
    everything,
    filled,
    flip,
    opened,
    segment_files,
)

_STEPS = {name for name in vars(LogOps) if not name.startswith("_")}


class Failing(Quick):
    """Fails the `at`-th step of those in `only`, or that one and all that follow.

    A write fails in the middle.
    """

    def __init__(
        self, at: int, number: int = errno.EIO, *, stays: bool = False, only: str = ""
    ) -> None:
        self.left = at
        self.number = number
        self.stays = stays
        self.only = only
        self.failed = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _STEPS or (self.only and name != self.only):
            return found
        return self._step(name, found)

    def _step(self, name: str, found: Callable[..., object]) -> Callable[..., object]:
        def step(*args: Any) -> object:
            self.left -= 1
            if self.left == -1 or (self.stays and self.left < 0):
                self.failed += 1
                if name == "write":
                    fd, parts, offset = args
                    data = b"".join(parts)
                    os.pwrite(fd, data[: len(data) // 2], offset)
                raise OSError(self.number, "quoted by nobody")
            return found(*args)

        return step

    def heal(self) -> None:
        self.left = 1_000_000
        self.stays = False


class Owner:
    """Uses a log as a node does, and knows what must be in it whatever happens.

    `files` and `ends` are what was appended and not cut; the first `durable` of them are synced.
    """

    def __init__(self, directory: Path, ops: LogOps, reached: Callable[[str], None]) -> None:
        self.directory = directory
        self.options = {"ops": ops, "reached": reached}
        self.log = opened(directory, **self.options)
        self.files: list[bytes] = []
        self.ends = [Position(0, 0, 0)]
        self.durable = 0
        self.dropped = 0
        self.written: set[bytes] = set()

    def append(self, epoch: int = 1) -> None:
        """The next file."""
        at = self.go_back()
        chain = Chain(self.ends[-1], seed=epoch)
        epoch = max(epoch, self.ends[-1].epoch)
        data = chain.next(epoch, size=700 if at % 13 == 12 else 0)
        self.written.add(data)
        self.log.append(epoch, data)
        self.files.append(data)
        self.ends.append(chain.at)

    def go_back(self) -> int:
        """Forget what the log lost, which was not synced; where it ends."""
        end = self.log.end
        at = 0 if end is None else end.txid
        assert self.durable <= at <= len(self.files), "what was synced is gone"
        del self.files[at:], self.ends[at + 1 :]
        return at

    def stream(self) -> None:
        """The same with a file that is longer than a segment."""
        self.go_back()
        chain = Chain(self.ends[-1])
        epoch = max(2, self.ends[-1].epoch)
        data = chain.next(epoch, size=9_000)
        self.written.add(data)
        self.log.append_stream(epoch, peek_header(data), (data[:5_000], data[5_000:]))
        self.files.append(data)
        self.ends.append(chain.at)
        self.durable = len(self.files)

    def sync(self) -> None:
        self.log.sync()
        end = self.log.end
        assert self.log.synced == end
        self.durable = 0 if end is None else end.txid

    def cut(self, count: int) -> None:
        """From here on nobody counts on what is to be cut, and nobody on its being gone."""
        if (end := self.log.end) is None:
            return
        keep = max(end.txid - count, min(self.dropped, end.txid))
        self.durable = min(self.durable, keep)
        self.log.cut_after(self.ends[keep])
        del self.files[keep:], self.ends[keep + 1 :]
        self.durable = keep

    def drop(self) -> None:
        if (end := self.log.end) is None:
            return
        self.dropped = max(self.dropped, end.txid - 20)
        self.log.drop_before(end.txid - 20)

    def reset(self) -> None:
        """As after a snapshot that came another way, of where the log stands."""
        self.dropped = self.go_back()
        self.log.reset(self.ends[-1])
        self.durable = self.dropped

    def check(self, log: TransactionLog) -> None:
        """All that was synced and not dropped is there, and nothing that was never appended."""
        found = contents(log)
        base = log.base
        start = 0 if base is None else base.txid
        assert start <= self.dropped
        assert self.files[start : self.durable] == found[: self.durable - start]
        assert self.written.issuperset(found)
        assert (log.gaps, log.report.damage) == ((), [])


def workload(owner: Owner, attempt: Callable[[Callable[[], None]], None]) -> None:
    """Every kind of step that changes the log, each through `attempt`."""
    for turn in range(30):
        attempt(owner.append)
        if turn % 3 == 0:
            attempt(owner.sync)
        if turn == 17:
            attempt(lambda: owner.cut(3))
        if turn == 22:
            attempt(owner.stream)
        if turn in (24, 28):
            attempt(owner.drop)
        if turn == 26:
            attempt(lambda: owner.cut(16))
        if turn == 29:
            attempt(owner.reset)
    attempt(owner.append)
    attempt(owner.sync)


def again(step: Callable[[], None]) -> None:
    """An owner who meets an error tries once more."""
    try:
        step()
    except OSError:
        step()


def in_vain(step: Callable[[], None]) -> None:
    """An owner who goes on whatever happens."""
    with contextlib.suppress(OSError):
        step()


def steps_of_workload(directory: Path) -> int:
    counting = Failing(1_000_000)
    owner = Owner(directory, counting, lambda _: None)
    workload(owner, lambda step: step())
    owner.check(opened(directory, ops=Quick()))
    return 1_000_000 - counting.left


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_each_step_fails_once(tmp_path: Path, number: int) -> None:
    """The step is taken again, all goes on, and the log is what it should be."""
    (tmp_path / "count").mkdir()
    total = steps_of_workload(tmp_path / "count")
    assert total > 100
    for at in range(total):
        directory = tmp_path / str(at)
        directory.mkdir()
        ops = Failing(at, number)
        owner = Owner(directory, ops, lambda _: None)
        workload(owner, again)
        assert ops.failed == 1
        assert not list(directory.glob("*.tmp"))
        owner.go_back()
        assert contents(owner.log) == owner.files[owner.log.base.txid if owner.log.base else 0 :]
        owner.check(owner.log)
        owner.check(opened(directory, ops=Quick()))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_all_steps_fail_from_one_on(tmp_path: Path, number: int) -> None:
    """Nothing that was synced is lost meanwhile, and when the disk is well again the log is too."""
    (tmp_path / "count").mkdir()
    total = steps_of_workload(tmp_path / "count")
    for at in range(total):
        directory = tmp_path / str(at)
        directory.mkdir()
        ops = Failing(at, number, stays=True)
        owner = Owner(directory, ops, lambda _: None)
        workload(owner, in_vain)
        assert ops.failed > 0
        owner.check(owner.log)
        owner.check(opened(_twin(directory), ops=Quick()))
        ops.heal()
        owner.append(epoch=9)
        owner.sync()
        owner.check(owner.log)
        owner.check(opened(directory, ops=Quick()))


def _twin(directory: Path) -> Path:
    import shutil

    return shutil.copytree(directory, directory.with_name(f"{directory.name}-twin"))


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """No room for the next segment: every byte is as before, and it can be read and synced."""
    ops = Failing(1_000_000, errno.ENOSPC, only="allocate")
    log, chain = opened(tmp_path, ops=ops), Chain()
    files: list[bytes] = []
    ops.left, ops.stays = 1, True
    while True:
        before = (all_files(tmp_path), log.end, log.size_bytes)
        data = chain.next()
        try:
            log.append(1, data)
        except OSError:
            break
        files.append(data)
    assert (all_files(tmp_path), log.end, log.size_bytes) == before
    assert contents(log) == files
    log.sync()
    assert log.synced == log.end
    ops.heal()
    log.append(1, data)
    assert contents(log) == [*files, data]


def test_a_failed_append_leaves_no_traces(tmp_path: Path) -> None:
    """What was half written is gone before something shorter is written."""
    ops = Failing(1_000_000, only="write")
    log, chain = opened(tmp_path, ops=ops), Chain()
    files = filled(log, chain, 2)
    here = chain.at
    ops.left = 0
    with pytest.raises(OSError, match="quoted"):
        log.append(1, chain.next(size=1_500))
    assert (log.end, contents(log)) == (here, files)
    files += filled(log, Chain(here), 1)
    log.sync()
    log = opened(tmp_path)
    assert (contents(log), log.report.torn_bytes, log.report.damage) == (files, 0, [])


def test_a_failed_sync_goes_back_to_the_last_one(tmp_path: Path) -> None:
    """A second sync would say that all is well although the disk has lost it."""
    ops = Failing(1_000_000, only="fdatasync")
    log, chain = opened(tmp_path, ops=ops), Chain()
    files = filled(log, chain, 2)
    log.sync()
    end = chain.at
    lost = filled(log, chain, 2)
    ops.left = 0
    with pytest.raises(OSError, match="quoted"):
        log.sync()
    assert (log.end, log.synced, contents(log)) == (end, end, files)
    log.sync()
    assert (log.end, contents(log)) == (end, files)
    for data in lost:
        log.append(1, data)
    log.sync()
    assert (log.synced, contents(log)) == (chain.at, files + lost)
    assert contents(opened(tmp_path)) == files + lost


def mended(directory: Path, log: TransactionLog, files: list[bytes], lost: list[int]) -> None:
    """All that is not lost is there, now and after a start, and the log goes on."""
    for _ in range(2):
        found, _damage = everything(log)
        assert found == {i: data for i, data in enumerate(files, 1) if i not in lost}
        assert [(gap.after.txid + 1, gap.until.txid) for gap in log.gaps] == [
            (txid, txid) for txid in lost
        ]
        log = opened(directory, ops=Quick())
    assert not list(directory.glob("*.tmp"))
    fork = log.position_of(lost[-1])
    assert fork is not None
    log.cut_after(fork)
    assert opened(directory, ops=Quick()).end == fork


@pytest.mark.parametrize("stays", [False, True])
def test_a_step_fails_while_damage_is_mended_at_a_start(tmp_path: Path, stays: bool) -> None:
    """The log does not open, and opens when the disk is well again, with nothing else lost."""
    at = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        files, lost = damaged_log(directory)
        ops = Failing(at, errno.ENOSPC, stays=stays)
        if ops.failed or at > 40:
            break
        try:
            log = opened(directory, ops=ops)
        except OSError:
            log = opened(directory, ops=Quick())
        mended(directory, log, files, lost)
        if not ops.failed:
            break
        at += 1
    assert at > 30


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("stays", [False, True])
def test_a_step_fails_while_damage_is_mended_in_use(
    tmp_path: Path, stays: bool, which: int
) -> None:
    """The damage is still there or is mended, and the owner can try again."""
    at = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        ops = Failing(1_000_000, stays=stays)
        log = opened(directory, ops=ops)
        files = filled(log, Chain(), 36)
        log.sync()
        segments = log.segments
        lost = segments[which].base.txid + 3
        path = segment_files(directory)[which]
        flip(path, HEADER_BYTES + 2 * (len(files[-1]) // 8 * 8 + 8 + HEADER_BYTES) + 200)
        if which == 1:
            flip(path, 20)
        ops.left = at
        with contextlib.suppress(OSError):
            log.quarantine(lost)
        ops.heal()
        if at % 2:
            mended(directory, log, files, [lost])
        else:
            # Or he gives up what follows, and nothing of it comes back.
            fork = log.position_of(segments[0].base.txid + 2)
            assert fork is not None
            log.cut_after(fork)
            assert (log.end, log.gaps) == (fork, ())
            log = opened(directory, ops=Quick())
            assert (log.end, log.gaps, contents(log)) == (fork, (), files[: fork.txid])
        if not ops.failed:
            break
        at += 1
    assert at > 12


def test_what_cannot_be_mended_goes_back_too(tmp_path: Path) -> None:
    """A sync that fails while the traces of a failed append are removed is a failed sync."""
    ops = Failing(1_000_000, only="write")
    log, chain = opened(tmp_path, ops=ops), Chain()
    files = filled(log, chain, 2)
    log.sync()
    end = chain.at
    filled(log, chain, 2)
    ops.left = 0
    with pytest.raises(OSError, match="quoted"):
        log.append(1, chain.next())
    ops.left, ops.only = 0, "fsync"
    with pytest.raises(OSError, match="quoted"):
        log.sync()
    assert (log.end, log.synced, contents(log)) == (end, end, files)
    filled(log, Chain(end), 1)
    assert len(contents(log)) == 3


def test_a_cut_is_on_the_disk_before_the_seal_is_written(tmp_path: Path) -> None:
    """If only the seal came through, what it overwrote would look like damage."""
    steps: list[str] = []

    class Watching(Quick):
        def __getattribute__(self, name: str) -> Any:
            if name in _STEPS:
                steps.append(name)
            return super().__getattribute__(name)

    log, chain = opened(tmp_path, ops=Watching()), Chain()
    filled(log, chain, 2)
    fork = chain.at
    filled(log, chain, 2)
    steps.clear()
    log.cut_after(fork)
    assert steps == ["truncate", "fsync", "write", "truncate", "fsync"]


class Crash(BaseException):
    """The process ends here."""


def crash_at(step: str, at: int) -> Callable[[str], None]:
    """Ends the process when `step` is reached for the `at`-th time."""
    seen = 0

    def reached(name: str) -> None:
        nonlocal seen
        if name == step:
            seen += 1
            if seen > at:
                raise Crash

    return reached


@pytest.mark.parametrize("step", [LOG_APPEND, LOG_SYNC, SEGMENT_CHANGE, LOG_CUT])
def test_a_crash_at_each_named_step(tmp_path: Path, step: str) -> None:
    """Each time the step is reached: what was synced is there, and the log goes on."""
    at = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        owner = Owner(directory, Quick(), crash_at(step, at))
        try:
            workload(owner, lambda step: step())
        except Crash:
            owner.log = opened(directory, ops=Quick())
            assert not list(directory.glob("*.tmp"))
            owner.check(owner.log)
            if owner.log.end is not None and owner.log.end.txid > len(owner.files):
                # The crash was in a cut or behind a write that nobody was told of.
                owner.log.cut_after(owner.ends[-1])
            owner.append(epoch=9)
            owner.sync()
            owner.check(opened(directory, ops=Quick()))
            at += 1
        else:
            break
    assert at > {LOG_APPEND: 30, LOG_SYNC: 10, SEGMENT_CHANGE: 8, LOG_CUT: 6}[step]


def damaged_log(directory: Path) -> tuple[list[bytes], list[int]]:
    """A log with two damaged records in its growing segment and one segment without a head."""
    log, chain = opened(directory, ops=Quick()), Chain()
    files = filled(log, chain, 36)
    log.close()
    paths = segment_files(directory)
    first = opened(directory, ops=Quick()).segments
    flip(paths[1], 10)
    last = paths[-1]
    base = first[-1].base.txid
    size = len(files[-1]) // 8 * 8 + 8 + HEADER_BYTES
    flip(last, HEADER_BYTES + size + 200)
    flip(last, HEADER_BYTES + 3 * size + 200)
    return files, [base + 2, base + 4]


def test_a_crash_while_damage_is_mended(tmp_path: Path) -> None:
    """Whichever step it was in: afterwards the same is there and the same is lost."""
    at = 0
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        files, lost = damaged_log(directory)
        reached = 0

        def count(_: str, at: int = at) -> None:
            nonlocal reached
            reached += 1
            if reached > at:
                raise Crash

        try:
            log = opened(directory, ops=Quick(), reached=count)
        except Crash:
            log = opened(directory, ops=Quick())
            at += 1
            finished = False
        else:
            finished = True
        found, _ = everything(log)
        assert found == {i: data for i, data in enumerate(files, 1) if i not in lost}
        assert [(gap.after.txid + 1, gap.until.txid) for gap in log.gaps] == [
            (txid, txid) for txid in lost
        ]
        assert not list(directory.glob("*.tmp"))
        if finished:
            break
    assert at > 8


@pytest.mark.parametrize("seed", range(40))
def test_the_power_fails(tmp_path: Path, seed: int) -> None:
    """What was synced is there; what was not is cut from some record on, and is no damage."""
    noise = random.Random(seed)
    ops = LosingOps()
    owner = Owner(tmp_path, ops, lambda _: None)
    for _ in range(6):
        for _ in range(noise.randrange(1, 25)):
            owner.append()
            if noise.random() < 0.2:
                owner.sync()
            if noise.random() < 0.03:
                owner.cut(2)
            if noise.random() < 0.03:
                owner.stream()
        ops.lose(tmp_path, noise)
        owner.log = opened(tmp_path, ops=ops)
        owner.check(owner.log)
        assert owner.log.synced == owner.log.end
        assert not (tmp_path / "quarantine").exists()


def deleted(directory: Path) -> None:
    shutil.rmtree(directory)


def emptied(directory: Path) -> None:
    for path in segment_files(directory):
        path.unlink()


def moved_away(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def replaced(directory: Path) -> None:
    """By a copy, which does not grow with what is appended."""
    moved_away(directory)
    shutil.copytree(directory.with_name("elsewhere"), directory)


@pytest.mark.parametrize("harm", [deleted, emptied, moved_away, replaced])
@pytest.mark.parametrize("count", [1, 12])
def test_a_log_whose_files_are_deleted_counts_as_synced_no_more(
    tmp_path: Path, harm: Callable[[Path], None], count: int
) -> None:
    """Also when the segment is full just then; begun anew, it goes on in files that are there."""
    directory = tmp_path / "ltx"
    directory.mkdir(0o700)
    log, chain = opened(directory), Chain()
    filled(log, chain, 3)
    log.sync()
    synced = log.synced
    assert not log.is_deleted(every_file=True)
    harm(directory)
    assert log.is_deleted()

    def more() -> None:
        filled(log, chain, count)
        log.sync()

    with pytest.raises(LogDeleted):
        more()
    assert log.synced == synced
    log.reset(synced)
    assert not log.is_deleted(every_file=True)
    assert directory.stat().st_mode & 0o777 == 0o700
    chain.at = synced or chain.at
    files = filled(log, chain, 5)
    log.close()
    again = opened(directory)
    assert (again.base, contents(again), again.report.damage) == (synced, files, [])


def test_an_older_segment_that_is_deleted(tmp_path: Path) -> None:
    """It is missed by who looks for every file; the end goes on as before."""
    log, chain = opened(tmp_path), Chain()
    filled(log, chain, 30)
    log.sync()
    segment_files(tmp_path)[1].unlink()
    assert (log.is_deleted(), log.is_deleted(every_file=True)) == (False, True)
    filled(log, chain, 1)
    log.sync()
    log.close()
