"""What the stream's client needs of the replica's disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from petsem.model import Position


class Disk(Protocol):
    """Calls come one at a time, each after the last has ended, and are never cancelled.

    Each raises `BadFrame` for data that does not hold and `NotContiguous` for data that does not
    follow; then nothing was written, and the same calls may be made again.
    """

    @property
    def durable(self) -> Position | None:
        """The end of the log as it is on the disk; None without data."""
        ...

    @property
    def applied(self) -> Position | None:
        """Where the database is; None without data."""
        ...

    @property
    def needs_snapshot(self) -> bool:
        """Whether transactions are of no use until a snapshot was taken."""
        ...

    @property
    def resume(self) -> tuple[Position, int] | None:
        """A snapshot that was interrupted: what it is of, and the next page."""
        ...

    def epochs(self) -> Sequence[tuple[int, int, str]]:
        """(epoch, first TXID, leader) of the branch, ascending."""
        ...

    async def receive(self, batch: Sequence[tuple[int, bytes]]) -> None:
        """Store and apply (epoch, LTX file) pairs that follow each other."""
        ...

    async def begin_snapshot(self, at: Position, pages: int, first_page: int) -> None:
        """A snapshot of `at` begins, or goes on at `first_page`."""
        ...

    async def snapshot_pages(self, first_page: int, data: bytes) -> None:
        """The next pages of it, one after the other."""
        ...

    async def snapshot_changes(self, end: Position, ltx: bytes) -> None:
        """Transactions since its pages, up to `end`, if they come in several files."""
        ...

    async def end_snapshot(self, at: Position, ltx: bytes) -> None:
        """`ltx` leads from what came to `at`, empty if nothing does: verify and apply it all."""
        ...

    async def roll_back(self, fork: Position, *, higher: bool, forced: bool) -> None:
        """What is after `fork` is of a branch that is gone: save it, drop it.

        `higher`: the other branch has the higher epoch. `forced`: an operator has accepted the
        loss. Raises `NeedsOperator`.
        """
        ...
