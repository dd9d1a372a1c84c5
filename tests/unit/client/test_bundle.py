"""A bundle is a mapping that keeps its values to itself."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Mapping

import msgspec
import pytest

from petsem.model import Freshness, Position, Role
from petsem_client import Bundle

CANARY = b"canary-7f3a"
FRESH = Freshness("n1", "ams", Role.REPLICA, Position(1, 30), 1_800_000_000_000)


def bundle() -> Bundle:
    return Bundle(
        "acme/web", {"A": CANARY, "B": b""}, version=3, freshness=FRESH, etag=b"e", filtered=True
    )


def test_is_a_mapping() -> None:
    """Names to bytes, with the facts beside them."""
    ours = bundle()
    assert isinstance(ours, Mapping)
    assert dict(ours) == {"A": CANARY, "B": b""}
    assert (len(ours), ours["A"], ours.get("C"), "B" in ours) == (2, CANARY, None, True)
    assert (ours.app, ours.version, ours.etag, ours.filtered) == ("acme/web", 3, b"e", True)
    assert ours.freshness == FRESH
    with pytest.raises(KeyError):
        ours["C"]


def test_no_text_form_has_a_value() -> None:
    """repr, str, format, views of it and log records show names' number, never values."""
    ours = bundle()
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (ours, ours), None)
    shown = [repr(ours), f"{ours}", f"{ours!s:>80}", repr([ours]), record.getMessage()]
    shown += [repr(ours.values()), repr(ours.items())]
    assert all("canary" not in text for text in shown)
    assert repr(ours) == "<Bundle acme/web version 3: 2 secrets, filtered>"


def test_no_serialiser_takes_it() -> None:
    """JSON, msgspec, pickle and copy refuse it; whoever wants a dict asks for one."""
    for refuses in (json.dumps, msgspec.json.encode, pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            refuses(bundle())


def test_does_not_change() -> None:
    """Nothing can be set on it, and the mapping that it was made of is no way in."""
    values = {"A": CANARY}
    ours = Bundle("acme/web", values, version=1, freshness=FRESH, etag=b"e")
    values["A"] = b"other"
    assert ours["A"] == CANARY
    with pytest.raises(AttributeError):
        ours.version = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        ours["A"] = b""  # type: ignore[index]


def test_confirmed_is_the_same_but_fresher() -> None:
    """Only freshness changes."""
    newer = Freshness("n2", "fra", Role.LEADER, Position(1, 31), 1_800_000_001_000)
    ours = bundle().confirmed(newer)
    assert (ours, ours.version, ours.filtered, ours.freshness) == (bundle(), 3, True, newer)
