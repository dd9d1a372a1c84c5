"""Tokens of a running node, narrowed and discharged by another implementation, and used there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from petsem.clock import rfc3339
from petsem.tokens.macaroon import Macaroon, encode, parse
from petsem.tokens.text import encode_part, parse_token
from tests.interop.theirs import Theirs
from tests.support import cluster
from tests.support.daemon import Daemon
from tests.support.doors import Doors, values_of
from tests.support.offline import Disk
from tests.unit.tokens.build import bare

pytestmark = pytest.mark.xdist_group("interop")

VALUES: Final = "/v1/orgs/acme/apps/web/secrets/values"
DENIED: Final = (403, "denied", "CAVEAT")


@pytest.fixture(scope="module")
def doors(theirs: Theirs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """A node with one secret. It is not started where the other implementation is absent."""
    made = cluster.make(tmp_path_factory.mktemp("interop"))
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web", "api")
        doors.set("acme/web", A="value of A")
        yield doors


def test_a_token_that_they_narrowed(theirs: Theirs, doors: Doors) -> None:
    """Every door takes it, bare as they write it, and holds it to what they added."""
    token = doors.mint("acme", "action = secrets:read")
    root = parse_token(token).root
    soon = f"time < {rfc3339(int(time.time() + 600) * 1000)}"
    narrow = bare(theirs.attenuate(root, "app = web", soon))
    assert doors.ask("GET", VALUES, token=narrow).status == 200
    assert values_of(doors.fetch("acme/web", token=narrow)) == {"A": b"value of A"}
    access = {"org": "acme", "action": "secrets:read", "app": "web"}
    verdict = doors.done("POST", "/v1/tokens/verify", {"token": narrow, "access": access})
    assert verdict["allowed"] is True
    other = VALUES.replace("/web/", "/api/")
    assert doors.ask("GET", other, token=token).status == 200
    assert doors.ask("GET", other, token=narrow).error == DENIED
    past = bare(theirs.attenuate(root, "time < 2020-01-01T00:00:00Z"))
    assert doors.ask("GET", VALUES, token=past).error == (401, "unauthenticated", "EXPIRED")
    unknown = bare(theirs.attenuate(root, "moon = full"))
    assert doors.ask("GET", VALUES, token=unknown).error == DENIED


def test_a_third_party_of_theirs(theirs: Theirs, doors: Doors) -> None:
    """A holder asks for a discharge, a third party makes it and somebody binds it, all there; the
    discharge's own caveats count here."""
    root = parse_token(doors.mint("acme", "action = secrets:read")).root
    key, ticket = bytes(range(32)), b"\xff\x00 anything"
    asking = parse(theirs.require(root, key, ticket, "https://third.example"))
    assert doors.ask("GET", VALUES, token=encode_part(asking)).error == (
        401, "unauthenticated", "DISCHARGE_MISSING",
    )  # fmt: skip
    made = parse(theirs.mint(key, ticket, [b"app = web"], "https://third.example"))
    for discharge, expected in (
        (theirs.bind(asking, made), None),
        (made, (401, "unauthenticated", "DISCHARGE_INVALID")),
        (theirs.bind(root, made), (401, "unauthenticated", "DISCHARGE_INVALID")),
    ):
        for token in (
            f"{encode_part(asking)},{encode_part(discharge)}",
            f"{_bare(asking)},{_bare(discharge)}",
        ):
            assert doors.ask("GET", VALUES, token=token).error == expected
    token = f"{_bare(asking)},{_bare(theirs.bind(asking, made))}"
    assert doors.ask("GET", VALUES.replace("/web/", "/api/"), token=token).error == DENIED


def test_they_verify_what_the_node_minted(theirs: Theirs, doors: Doors) -> None:
    """Whoever holds the org's root key finds the caveats that the node says it minted."""
    token = doors.mint("acme", "action = secrets:read", kind="host")
    listed = doors.done("GET", "/v1/orgs/acme/tokens")["tokens"]
    secret = Disk(doors.daemon.directory).root_secret("acme")
    root = parse_token(token).root
    assert theirs.verify(root, secret) == listed[-1]["caveats"]


def test_a_root_key_is_not_enough_there_either(theirs: Theirs, doors: Doors) -> None:
    """A token that they signed with the org's own key, on the id of one that was issued with
    more caveats, was never issued."""
    root = parse_token(doors.mint("acme", "action = secrets:list")).root
    secret = Disk(doors.daemon.directory).root_secret("acme")
    forged = bare(theirs.mint(secret, root.identifier, [b"org = acme"]))
    assert doors.ask("GET", VALUES, token=forged).error == (401, "unauthenticated", "NOT_ISSUED")


def _bare(macaroon: Macaroon) -> str:
    return bare(encode(macaroon))
