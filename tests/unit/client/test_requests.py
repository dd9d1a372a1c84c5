"""What a caller asks for is checked before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.limits import APP_MAX_SECRETS
from petsem.model import Position
from petsem.wire import petsem_pb2 as pb
from petsem_client.requests import Fetch, checked_fetch, checked_watch
from tests.unit.client.test_bundle import bundle

PLAIN: dict[str, Any] = {
    "machine": None,
    "version": 0,
    "min_version": 0,
    "min_position": None,
    "names": (),
    "known": None,
    "durable": False,
}


def checked(app: str = "acme/web", **changed: Any) -> Fetch:
    return checked_fetch(app, **{**PLAIN, **changed})


def test_all_of_it_is_sent() -> None:
    """Each argument has its field."""
    fetch = checked(
        machine="3d8d9014",
        version=4,
        min_version=5,
        min_position=Position(1, 2, 3),
        names=["A", "B"],
        known=bundle(),
        durable=True,
    )
    assert pb.FetchRequest.FromString(fetch.encode()) == pb.FetchRequest(
        org="acme",
        app="web",
        machine="3d8d9014",
        version=4,
        min_version=5,
        min_position=pb.Position(epoch=1, txid=2),
        names=["A", "B"],
        known_etag=b"e",
        durable=True,
    )
    watch = checked_watch("acme/web", machine="m", after_version=7)
    assert pb.WatchRequest.FromString(watch.encode(9)) == pb.WatchRequest(
        org="acme", app="web", machine="m", after_version=9
    )


def test_absent_stays_absent() -> None:
    """A plain fetch names only the app, and no position."""
    request = pb.FetchRequest.FromString(checked().encode())
    assert request == pb.FetchRequest(org="acme", app="web")
    assert not request.HasField("min_position")


@pytest.mark.parametrize(
    ("app", "changed"),
    [
        ("acme", {}),
        ("acme/", {}),
        ("acme/web/x", {}),
        ("Acme/web", {}),
        ("acme/web", {"machine": ""}),
        ("acme/web", {"machine": "a b"}),
        ("acme/web", {"machine": "a,b"}),
        ("acme/web", {"machine": "all*"}),
        ("acme/web", {"machine": "m" * 256}),
        ("acme/web", {"version": -1}),
        ("acme/web", {"min_version": 2**32}),
        ("acme/web", {"min_position": Position(2**32, 0)}),
        ("acme/web", {"min_position": Position(0, -1)}),
        ("acme/web", {"names": "DATABASE_URL"}),
        ("acme/web", {"names": ["A", "A"]}),
        ("acme/web", {"names": ["1A"]}),
        ("acme/web", {"names": [f"N{n}" for n in range(APP_MAX_SECRETS + 1)]}),
        ("acme/api", {"known": bundle()}),
    ],
)
def test_bad_arguments(app: str, changed: dict[str, Any]) -> None:
    """Out of bounds or of the wrong form: invalid, and nothing is quoted."""
    with pytest.raises(PetsemError) as caught:
        checked(app, **changed)
    assert caught.value.code is Code.INVALID
    assert "DATABASE" not in caught.value.message


def test_a_fence_may_take_its_time() -> None:
    """Only a read that a healthy node may hold back is given more time at each node."""
    assert not checked().may_wait
    for fence in ({"min_version": 1}, {"min_position": Position(1, 1)}, {"durable": True}):
        assert checked(**fence).may_wait
