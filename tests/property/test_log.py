"""The transaction log against a list of files.

Whatever is appended, synced, cut, dropped, lost with the power or damaged, in whatever order: what
was synced is there or is reported, what is there is what was appended, and what was fetched again
closes the gap.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.ltx import peek_header
from petsem.replication.segment import ORIGIN
from tests.support.ltx_files import Chain
from tests.support.power_loss import LosingOps
from tests.unit.replication.drivers.log_support import (
    SMALL,
    contents,
    everything,
    flip,
    segment_files,
)

SEEDS = st.integers(0, 2**32)


class Log(RuleBasedStateMachine):
    """The model: the files after `base`, the position after each, and how many are synced.

    A file may hold several transactions, so a position is looked up by the number of files.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="petsem-log-"))
        self.ops = LosingOps()
        self.ends: list[Position] = [ORIGIN]
        self.files: list[bytes] = []
        self.epoch = 1
        self.synced = 0
        self.begun = False
        self.log = self.open()

    def open(self) -> TransactionLog:
        return TransactionLog.open(self.directory, segment_bytes=SMALL, ops=self.ops)

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def keep(self, count: int) -> None:
        """Only the first `count` files count from here on."""
        del self.files[count:], self.ends[count + 1 :]
        self.synced = min(self.synced, count)

    @rule(
        count=st.integers(1, 12),
        size=st.sampled_from((0, 0, 0, 500, 3_000, 9_000)),
        transactions=st.sampled_from((1, 1, 1, 5)),
        streamed=st.booleans(),
        seed=SEEDS,
    )
    def append(self, count: int, size: int, transactions: int, streamed: bool, seed: int) -> None:
        chain = Chain(self.ends[-1], seed)
        for _ in range(count):
            data = chain.next(self.epoch, size=size, count=transactions)
            if streamed and size > 1_000:
                header = peek_header(data)
                self.log.append_stream(self.epoch, header, (data[:700], data[700:]))
            else:
                self.log.append(self.epoch, data)
            self.files.append(data)
            self.ends.append(chain.at)
            if streamed and size > 1_000:
                self.synced = len(self.files)
        self.begun = True

    @rule()
    def new_epoch(self) -> None:
        self.epoch += 1

    @rule()
    def sync(self) -> None:
        self.log.sync()
        self.synced = len(self.files)

    @rule(closed=st.booleans())
    def start_again(self, closed: bool) -> None:
        """After an orderly stop, or a killed process, which loses nothing."""
        if closed:
            self.log.close()
        self.log = self.open()
        assert (self.log.report.torn_bytes, self.log.report.damage) == (0, [])
        self.synced = len(self.files)

    @rule(seed=SEEDS)
    def lose_power(self, seed: int) -> None:
        self.ops.lose(self.directory, random.Random(seed))
        self.log = self.open()
        assert self.log.report.damage == []
        end = self.log.end
        kept = 0 if end is None else self.ends.index(end)
        assert kept >= self.synced
        self.keep(kept)
        self.synced = kept

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        keep = data.draw(st.integers(max(0, len(self.files) - 30), len(self.files)))
        self.log.cut_after(self.ends[keep])
        if keep < len(self.files):
            self.keep(keep)
            self.synced = keep

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        txid = data.draw(st.integers(0, self.ends[-1].txid + 5))
        self.log.drop_before(txid)
        base = self.log.base
        assert base is not None
        gone = self.ends.index(base)
        assert gone == 0 or base.txid <= txid
        del self.files[:gone], self.ends[:gone]
        self.synced = max(0, self.synced - gone)

    @rule(epoch=st.integers(0, 3), txid=st.integers(0, 1_000), seed=SEEDS)
    def reset(self, epoch: int, txid: int, seed: int) -> None:
        base = Position(self.epoch + epoch, txid, (1 << 63) + seed) if txid else ORIGIN
        self.epoch = max(self.epoch, base.epoch)
        self.log.reset(base)
        self.files, self.ends = [], [base]
        self.synced = 0
        self.begun = True

    @precondition(lambda self: self.files)
    @rule(seed=SEEDS, reopen=st.booleans())
    def damage(self, seed: int, reopen: bool) -> None:
        """A bit flips somewhere in what was synced; what is lost is fetched again."""
        self.sync()
        noise = random.Random(seed)
        path = noise.choice(segment_files(self.directory))
        flip(path, noise.randrange(path.stat().st_size), noise.randrange(8))
        if reopen:
            self.log = self.open()
        found, damage = everything(self.log)
        firsts = {before.txid + 1: i for i, before in enumerate(self.ends[:-1])}
        assert found == {first: self.files[firsts[first]] for first in found}
        lost = {first for first in firsts if first not in found}
        assert len(lost) <= 1
        for first in lost:
            assert any(each.after_txid < first <= (each.until_txid or first) for each in damage), (
                "nobody was told"
            )
            record = (self.ends[firsts[first] + 1].epoch, self.files[firsts[first]])
            if self.log.gaps:
                self.log.fill([record])
            elif self.log.end is not None:
                self.log.append(*record)
            else:
                self.keep(0)
                self.ends = [ORIGIN]
                self.begun = False
        self.log.sync()
        # What was flipped behind the last record counts as torn.
        self.log = self.open()

    @invariant()
    def the_log_is_the_model(self) -> None:
        log = self.log
        assert log.gaps == ()
        assert log.base == (self.ends[0] if self.begun else None)
        assert log.end == (self.ends[-1] if self.begun else None)
        assert contents(log) == self.files
        if self.files:
            assert log.position_of(self.ends[len(self.files) // 2].txid) is not None
            assert LogReader.open_read_only(self.directory).end == log.end


TestLog = Log.TestCase
TestLog.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
