"""The scan behind the commits: in steps, to its verdict, over a disk that fails for a while."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from petsem.server import scanning
from petsem.server.scanning import Scanning
from tests.support.patience import PATIENCE_S


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    monkeypatch.setattr(scanning, "_PAUSE_S", 0.0)
    monkeypatch.setattr(scanning, "_AGAIN_S", 0.0)
    with ThreadPoolExecutor(1) as helper:
        yield helper


class Scan:
    """Steps that are counted; `then` is what happens behind the last."""

    def __init__(self, steps: int, then: Callable[[int], None] = lambda _: None) -> None:
        self.steps = steps
        self.then = then
        self.begun = 0
        self.done = 0
        self.closed_by: int | None = None

    def __call__(self) -> Iterator[int]:
        self.begun += 1
        try:
            for step in range(self.steps):
                self.done += 1
                yield step
            self.then(self.begun)
        finally:
            self.closed_by = threading.get_ident()


async def ended(found: Scanning) -> None:
    """Until its task is."""
    assert found._task is not None
    async with asyncio.timeout(PATIENCE_S):
        await found._task


async def test_to_its_end(helper: ThreadPoolExecutor) -> None:
    """Also when a step says 0."""
    found, scan = Scanning(helper), Scan(3)
    found.start(scan)
    await ended(found)
    assert (scan.begun, scan.done, found.damaged) == (1, 3, False)
    await found.stop()


async def test_damage(helper: ThreadPoolExecutor) -> None:
    """It is said, and not looked for again."""

    def damaged(_begun: int) -> None:
        raise ValueError

    found, scan = Scanning(helper), Scan(2, damaged)
    found.start(scan)
    await ended(found)
    assert (scan.begun, found.damaged) == (1, True)
    await found.stop()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("whatever")])
async def test_a_disk_that_fails_for_a_while(helper: ThreadPoolExecutor, error: Exception) -> None:
    """The scan begins again; what it knows by then costs nothing."""

    def fails(begun: int) -> None:
        if begun < 3:
            raise error

    found, scan = Scanning(helper), Scan(2, fails)
    found.start(scan)
    await ended(found)
    assert (scan.begun, found.damaged) == (3, False)
    await found.stop()


async def test_it_is_stopped_in_the_middle(helper: ThreadPoolExecutor) -> None:
    """What it had open is closed, on the thread that used it."""
    found, scan = Scanning(helper), Scan(1_000_000)
    found.start(scan)
    while scan.done < 5:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await found.stop()
    await found.stop()
    used = await asyncio.get_running_loop().run_in_executor(helper, threading.get_ident)
    assert scan.closed_by == used
    assert scan.begun == 1
