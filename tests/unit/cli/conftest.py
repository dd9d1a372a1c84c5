"""No test of the command line sleeps: pauses are recorded instead."""

from __future__ import annotations

import time

import pytest


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be slept, in order."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept
