"""When the log is written, and what happens to commits while it cannot be."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import Mock

import pytest

from petsem.model import Position
from petsem.replication.drivers.capture import Capture
from petsem.server import logging_commits
from petsem.server.logging_commits import Logging

AT = Position(1, 7)


@dataclass
class Log:
    """Stands for a capture: notes what it is asked, and fails as long as it is told to."""

    asked: list[Any] = field(default_factory=list)
    waiting_pages: int = 0
    error: Exception | None = None

    def committed(self, frames: int, position: Position, now_ms: int) -> None:
        self.asked.append((frames, position, now_ms))

    def write(self, *, merged: bool) -> None:
        self._do("merged" if merged else "singly")

    def before_checkpoint(self, frames: int) -> bool:
        self._do(f"checkpoint {frames}")
        return True

    def finish(self) -> None:
        self._do("finish")

    def close(self) -> None:
        self.asked.append("close")

    def _do(self, what: str) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error


@dataclass
class Rig:
    """A `Logging` over such a log, with a helper thread of its own."""

    logging: Logging
    log: Log
    helper: ThreadPoolExecutor
    published: int = 0

    async def commit(self) -> None:
        """A commit that goes well."""
        await self.logging.committing(self.log.asked.append, "commit")

    async def settle(self) -> None:
        """Until all tasks and the helper have done what they were given."""
        for _ in range(5):
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(self.helper, int)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(logging_commits, "_LATER_S", 0.0)
    monkeypatch.setattr(logging_commits, "_AGAIN_S", 0.0)
    with ThreadPoolExecutor(1) as helper:
        rig = Rig(Logging(helper), Log(), helper)
        rig.logging.begin(cast("Capture", rig.log))

        def published() -> None:
            rig.published += 1

        rig.logging.published = published
        yield rig


async def test_nobody_follows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little later, as one file for many commits; then who waits for it is told."""
    later: list[Callable[[], None]] = []
    loop = asyncio.get_running_loop()

    def call_later(_delay_s: float, call: Callable[[], None]) -> Mock:
        later.append(call)
        return Mock()

    with monkeypatch.context() as timer:
        timer.setattr(loop, "call_later", call_later)
        await rig.commit()
        await rig.commit()
    (write,) = later
    assert rig.log.asked == ["commit", "commit"]
    write()
    await rig.settle()
    assert rig.log.asked == ["commit", "commit", "merged"]
    assert rig.published == 1


async def test_somebody_follows(rig: Rig) -> None:
    """At once, each commit a file."""
    rig.logging.followed = lambda: True
    await rig.commit()
    await rig.settle()
    await rig.commit()
    await rig.settle()
    assert rig.log.asked == ["commit", "singly", "commit", "singly"]
    assert rig.published == 2


async def test_many_pages_do_not_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are held in memory."""
    monkeypatch.setattr(logging_commits, "_LATER_S", 3_600.0)
    rig.log.waiting_pages = logging_commits._AT_ONCE_PAGES - 1
    await rig.commit()
    await rig.settle()
    assert rig.log.asked == ["commit"]
    rig.log.waiting_pages += 1
    await rig.commit()
    await rig.settle()
    assert rig.log.asked == ["commit", "commit", "merged"]


async def test_a_commit_that_failed(rig: Rig) -> None:
    """It may have happened, so the log is looked after all the same."""

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await rig.logging.committing(fails)
    await rig.settle()
    assert rig.log.asked == ["merged"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("whatever")])
async def test_the_log_cannot_be_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nothing commits until it has caught up, which each commit tries first."""
    await rig.logging.require()
    assert rig.log.asked == []
    monkeypatch.setattr(logging_commits, "_AGAIN_S", 3_600.0)
    rig.log.error = error
    await rig.commit()
    await rig.settle()
    assert rig.logging.error == type(error).__name__
    with pytest.raises(OSError, match="the log cannot be written"):
        await rig.logging.require()
    rig.log.error = None
    await rig.logging.require()
    assert rig.logging.error is None
    assert rig.log.asked == ["commit", "merged", "merged", "merged"]
    assert rig.published == 1


async def test_it_is_tried_again_without_being_asked(rig: Rig) -> None:
    """Whoever follows must not wait for the next write."""
    rig.log.error = OSError(errno.ENOSPC, "full")
    await rig.commit()
    while rig.log.asked.count("merged") < 3:
        await rig.settle()
    rig.log.error = None
    while rig.logging.error is not None:
        await rig.settle()
    assert rig.published == 1


async def test_no_checkpoint_of_what_is_not_logged(rig: Rig) -> None:
    """And a log that fails then holds commits back like any other."""
    assert rig.logging.before_checkpoint(9)
    rig.log.error = OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        rig.logging.before_checkpoint(10)
    assert rig.log.asked == ["checkpoint 9", "checkpoint 10"]
    with pytest.raises(OSError, match="the log cannot be written"):
        await rig.logging.require()
    rig.log.error = None
    await rig.settle()


async def test_it_is_written_again_though_no_transaction_comes(rig: Rig) -> None:
    """What a checkpoint could not log, followers are told of as soon as the disk takes it."""
    rig.logging.look_again()
    rig.log.error = OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        rig.logging.before_checkpoint(10)
    rig.logging.look_again()
    rig.log.error = None
    for _ in range(50):
        if rig.logging.error is None:
            break
        await rig.settle()
    assert rig.logging.error is None
    assert rig.log.asked == ["checkpoint 10", "merged"]
    assert rig.published == 1


async def test_the_end(rig: Rig) -> None:
    """Everything is finished and let go of, also if the disk does not take it, and nothing is
    written afterwards."""
    await rig.commit()
    rig.log.error = OSError(errno.EIO, "broken")
    rig.logging.end()
    rig.logging.committed(1, AT, 2)
    assert rig.logging.before_checkpoint(1)
    await rig.settle()
    rig.logging.end()
    assert rig.log.asked == ["commit", "finish", "close"]
    assert rig.logging.capture is None


async def test_a_transaction_is_passed_on(rig: Rig) -> None:
    """To whoever captures."""
    rig.logging.committed(5, AT, 99)
    assert rig.log.asked == [(5, AT, 99)]
