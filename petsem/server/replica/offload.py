"""The one helper thread: whatever waits for the disk, one thing at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

Given = TypeVarTuple("Given")
Result = TypeVar("Result")


def offload(
    helper: Executor, job: Callable[[*Given], Result], *given: *Given
) -> asyncio.Future[Result]:
    """Run `job` there; to be awaited on the loop."""
    return asyncio.get_running_loop().run_in_executor(helper, job, *given)
