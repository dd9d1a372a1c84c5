"""A house that is built once, and copied for each test that alters it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.docs.house import House, build


@pytest.fixture(scope="session")
def model_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made once; nobody alters it."""
    return asyncio.run(build(tmp_path_factory.mktemp("house")))


@pytest.fixture
def house(model_house: House, tmp_path: Path) -> House:
    """A copy for one test."""
    return model_house.copy(tmp_path)
