"""One provider for each test; its key is made once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.oidc import EvilProvider
from tests.unit.sso.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with EvilProvider() as provider:
        made = World(provider)
        yield made
        await made.authenticator.close()
