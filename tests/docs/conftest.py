"""A house that is built once, and copied for each test that alters it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.docs.house import House, build
from tests.docs.people import Household, move_in
from tests.support.ports import free_port


@pytest.fixture(scope="session")
def model_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made once; nobody alters it."""
    return asyncio.run(build(tmp_path_factory.mktemp("house")))


@pytest.fixture
def house(model_house: House, tmp_path: Path) -> House:
    """A copy for one test."""
    return model_house.copy(tmp_path)


@pytest.fixture(scope="session")
def model_household(model_house: House, tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Made once; nobody alters it."""
    root = tmp_path_factory.mktemp("household")
    return asyncio.run(move_in(model_house, root, free_port()))


@pytest.fixture
def household(model_household: Household, tmp_path: Path) -> Household:
    """A copy for one test."""
    return model_household.copy(tmp_path)
