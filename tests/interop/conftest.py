"""One process of the other implementation for each module, or a skip that says what to install."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.theirs import Theirs, why_absent


@pytest.fixture(scope="module")
def theirs() -> Iterator[Theirs]:
    """The other implementation, running."""
    if reason := why_absent():
        pytest.skip(reason)
    with Theirs() as running:
        yield running
