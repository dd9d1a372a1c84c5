"""What a batch may hold, every bound to the byte."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from petsem import limits
from petsem.errors import PetsemError
from petsem.wire import http
from tests.support.nodes import call
from tests.unit.server.service.web_app import INVALID, batch

CANARY = "canary-77e1-value"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"set": {"A": "x"}, "unset": ["A"]},
        {"unset": ["A", "A"]},
        {"set": {"1A": "x"}},
        {"set": {"": "x"}},
        {"set": {"A" * 256: "x"}},
        {"set": {"A B": "x"}},
        {"set": {"Ä": "x"}},
        {"unset": ["A\n"]},
        {"set": {"A": http.Base64Value(base64="?")}},
        {"set": {"A": http.Base64Value(base64="QQ")}},
        {"set": {"A": http.Base64Value(base64="ü")}},
        {"set": {"A": "x" * (limits.VALUE_MAX_BYTES + 1)}},
        {"set": {"A": "ü" * (limits.VALUE_MAX_BYTES // 2 + 1)}},
        {"set": {f"N{n}": "" for n in range(1001)}},
        {"set": {f"N{n}": "" for n in range(1000)}, "unset": ["A"]},
        {"set": {"A": "x"}, "durability": http.ReplicatedDurability(replicated=0)},
    ],
)
def test_a_batch_is_checked_before_anything_is_sealed(body: dict[str, Any]) -> None:
    """Names, doubles, encodings and sizes out of bounds are `invalid`, and no value is quoted."""
    with pytest.raises(PetsemError) as error:
        batch(**body)
    assert error.value.code is INVALID
    assert "xxx" not in error.value.message
    assert "üüü" not in error.value.message


def test_the_longest_of_everything_is_taken() -> None:
    """1,000 names, a name of 255 characters and a value of 64 KiB are within bounds."""
    largest = batch(set={f"N{n}": "" for n in range(999)}, unset=["A" * 255])
    assert len(largest.names) == 1000
    text = batch(set={"A": "ü" * (limits.VALUE_MAX_BYTES // 2)})
    assert len(text.set["A"]) == limits.VALUE_MAX_BYTES
    raw = base64.b64encode(b"\xff" * limits.VALUE_MAX_BYTES).decode()
    assert batch(set={"A": http.Base64Value(base64=raw)}).set["A"].reveal() == b"\xff" * 65536


def test_values_do_not_show_in_a_batch() -> None:
    """The repr of a batch and of what made it has names and no value."""
    made = batch(
        set={"A": CANARY, "B": http.Base64Value(base64=base64.b64encode(CANARY.encode()).decode())}
    )
    assert "A" in repr(made)
    assert CANARY not in repr(made) + str(made) + repr(call("/x", CANARY))
