"""A leader's database without a node: transactions, their capture, and starts after stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.replication.drivers.capture_start import begin_capture
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_files import SYSTEM, LogOps
from petsem.replication.steps import Reached, nothing
from tests.support.rebuilt import Rebuilt, rebuild, shown
from tests.support.wal_files import Rig


class Leader:
    """Each `write` is one transaction, captured as the writer has it captured.

    TXIDs go on from 1 over all starts; a start is no transaction here.
    """

    def __init__(
        self, directory: Path, *, ops: LogOps = SYSTEM, reached: Reached = nothing
    ) -> None:
        self.directory = directory
        self.log_directory = directory / "ltx"
        self.log_directory.mkdir(exist_ok=True)
        self.ops = ops
        self.reached = reached
        self.epochs: list[tuple[int, int]] = []
        self.txid = 0
        self.lost: list[Position] = []
        self.anew: list[str] = []
        self.rig = Rig(directory)
        self._capture: Capture | None = None

    @property
    def capture(self) -> Capture:
        assert self._capture is not None
        return self._capture

    @property
    def database(self) -> Path:
        return self.rig.path

    @property
    def position(self) -> Position:
        return Position(self.epochs[-1][0], self.txid)

    def start(self, epoch: int, **options: Any) -> Capture:
        """Begin to capture what there is; the epoch's first transaction is the next one."""
        log = TransactionLog.open(self.log_directory, ops=self.ops, reached=self.reached, **options)
        self.epochs = epochs = self.epochs or [(epoch, 1)]
        self._capture = begin_capture(
            self.database,
            self.directory,
            log,
            Position(max(each for each, first in epochs if first <= self.txid), self.txid),
            epochs,
            frames=self.rig.counted(),
            at_ms=1,
            save_lost=self.lost.append,
            anew=self.anew.append,
            reached=self.reached,
        )
        if epochs[-1][0] != epoch:
            self.epochs.append((epoch, self.txid + 1))
        return self._capture

    def commit(self, *statements: str) -> None:
        """One transaction that is in the WAL and that nobody was told of."""
        if statements == ("VACUUM",):
            self.rig.run("VACUUM")
        else:
            with self.rig.db:
                for statement in statements:
                    self.rig.run(statement)
        self.txid += 1

    def captured(self) -> None:
        """Tell of the last transaction."""
        self.capture.committed(self.rig.frames, self.position, 1_000 * self.txid)

    def reopened(self) -> None:
        """Tell that the database was opened again."""
        self.capture.reopened(self.rig.counted(), self.position, 1_000 * self.txid)

    def write(self, *statements: str) -> None:
        """One transaction, captured and not logged yet."""
        self.commit(*statements)
        self.captured()

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """The node's own: asked for first."""
        assert self.capture.before_checkpoint(self.rig.counted())
        self.rig.checkpoint(mode)

    def foreign(self, act: Callable[[apsw.Connection], object]) -> None:
        """What somebody else does with the database."""
        db = self.rig.connect()
        act(db)
        db.close(True)

    def stop(self) -> None:
        """In order: what the next start needs is saved."""
        self.capture.finish()
        self.capture.close()
        self._capture = None

    def crash(self) -> None:
        """Forget all that the process knew. What was appended to the log stays in it."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None

    def close(self) -> None:
        self.crash()
        self.rig.close()

    def look(self) -> Rebuilt:
        """The log, which must give exactly the database at the last position."""
        found = rebuild(self.log_directory)
        epoch = max(epoch for epoch, first in self.epochs if first <= self.txid)
        assert (found.end.epoch, found.end.txid) == (epoch, self.txid)
        assert found.image == shown(self.database, found.end)
        return found
