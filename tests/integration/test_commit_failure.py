"""A COMMIT that fails: nobody is told more than is known, and the same key tells the truth."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from petsem.model import Position
from tests.support import cluster
from tests.support.daemon import run
from tests.support.doors import Answer, Doors, in_seconds, values_of
from tests.support.failing_node import FailingNode
from tests.support.keep_alive import Answered, KeepAlive
from tests.support.offline import Disk

pytestmark = pytest.mark.xdist_group("commit_failure")
"""In one process, so that what is made once for this file is."""

SECRETS: Final = "/v1/orgs/acme/apps/web/secrets"
INDETERMINATE: Final = (504, "indeterminate", None)
FAULTS: Final = [
    # The frames are written and the sync fails: the transaction may or may not be found later.
    pytest.param("sync", 0, id="sync"),
    # The first frame's header, or a page in the middle, is not written.
    pytest.param("write", 0, id="first write"),
    pytest.param("write", 3, id="fourth write"),
]


@dataclass
class Site:
    """A node whose disk fails when told to, with acme/web in it."""

    node: FailingNode
    doors: Doors
    directory: Path

    def patch(self, key: str, **values: str) -> Answer:
        return self.doors.ask("PATCH", SECRETS, {"set": values}, idempotency_key=key)

    def stored(self) -> dict[str, bytes]:
        return values_of(self.doors.fetch("acme/web"))

    def status(self) -> Any:
        return self.doors.done("GET", "/v1/status")["nodes"][0]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One node for all of this file: whatever happened to its disk, it goes on."""
    made = cluster.make(tmp_path_factory.mktemp("commit"))
    with FailingNode(made.directory) as node, Doors(node, made.operator) as doors:
        doors.furnish("acme")
        yield Site(node, doors, made.directory)
        node.heal()
        errors = {e["event"] for e in node.events() if e["level"] == "error"}
        assert errors == {"commit_failed"}
        assert node.stop() == 0
    assert run("check", made.directory, "--all").code == 0


@pytest.fixture
def site(running: Site) -> Site:
    """The same, with an app web that nobody has used yet."""
    doors = running.doors
    if doors.ask("GET", SECRETS).status == 200:
        doors.done("DELETE", "/v1/orgs/acme/apps/web?now=true")
    doors.done("POST", "/v1/orgs/acme/apps", {"app": "web"})
    doors.set("acme/web", A="before")
    return running


def fresh_key() -> str:
    """A key that no test before has used."""
    return f"key-{next(_SERIAL)}"


_SERIAL = itertools.count()


@pytest.mark.parametrize(("operation", "after"), FAULTS)
def test_the_key_tells(site: Site, operation: str, after: int) -> None:
    """504, then the same key: the write is there once, whichever way it had gone; and the node
    goes on."""
    key = fresh_key()
    site.node.fail(operation, "-wal", "io", after=after, times=1)
    assert site.patch(key, A="after").error == INDETERMINATE
    assert site.node.met
    told = site.patch(key, A="after")
    assert told.status == 200, told.raw
    assert told.body["version"] == 2
    assert site.patch(key, A="after").body == told.body
    assert site.stored() == {"A": b"after"}
    assert site.patch(fresh_key(), B="more").body["version"] == 3
    assert site.status()["ready"]
    assert "COMMIT" in site.status()["last_error"]


@pytest.mark.parametrize(("operation", "after"), FAULTS[:2])
def test_a_crash_before_the_key_is_asked(tmp_path: Path, operation: str, after: int) -> None:
    """What recovery finds, or does not find, is what the key tells: the next start is as truthful
    as this one would have been."""
    made = cluster.make(tmp_path)
    node = FailingNode(made.directory)
    body = {"set": {"A": "after"}}
    with node, Doors(node, made.operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", A="before")
        node.fail(operation, "-wal", "io", after=after, times=1)
        assert doors.ask("PATCH", SECRETS, body, idempotency_key="k").error == INDETERMINATE
        node.kill()
    with node, Doors(node, made.operator) as doors:
        found = values_of(doors.fetch("acme/web"))["A"]
        before = doors.done("GET", SECRETS)["version"]
        told = doors.done("PATCH", SECRETS, body, idempotency_key="k")
        assert told["version"] == 2
        assert (found, before) in ((b"before", 1), (b"after", 2))
        # A write that was found was not done again: it keeps the position that it had.
        epoch = Position.parse(told["position"]).epoch
        assert (epoch == 2) == (before == 2)
        assert values_of(doors.fetch("acme/web")) == {"A": b"after"}
        assert doors.done("PATCH", SECRETS, {"set": {"B": "more"}})["version"] == 3
    assert run("check", made.directory, "--all").code == 0


async def test_a_whole_group(site: Site) -> None:
    """Everybody in the group is told that nobody knows, and each finds out by his own key. A
    request that was wrong is refused, or not judged, because what it was judged by is in doubt."""
    site.node.fail("sync", "-wal", "io", times=1)
    lines = [KeepAlive(site.node.http, site.doors.operator) for _ in range(24)]

    async def ask(number: int, *, again: bool) -> Answered:
        body: dict[str, Any] = {"set": {f"N{number}": str(number)}}
        if number % 6 == 5:
            body["if_version"] = 99
        return await lines[number].ask("PATCH", SECRETS, body, f"group-{number}")

    async with asyncio.timeout(30):
        first = await asyncio.gather(*(ask(n, again=False) for n in range(24)))
        second = await asyncio.gather(*(ask(n, again=True) for n in range(24)))
    for line in lines:
        line.drop()
    wrong = set(range(5, 24, 6))
    assert {first[n].status for n in wrong} <= {409, 503}
    assert {n for n, answer in enumerate(second) if answer.status == 409} == wrong
    statuses = {answer.status for n, answer in enumerate(first) if n not in wrong}
    assert 504 in statuses
    assert statuses <= {200, 504}
    good = [answer.body for n, answer in enumerate(second) if n not in wrong]
    assert sorted(body["version"] for body in good) == list(range(2, 22))
    for n, answer in enumerate(first):
        if answer.status == 200:
            assert answer.body == second[n].body
    stored = site.stored()
    assert stored == {
        "A": b"before", **{f"N{n}": b"%d" % n for n in range(24) if n not in wrong}
    }  # fmt: skip


def test_a_mint(site: Site) -> None:
    """A token whose minting was in doubt comes out of the key, and counts."""
    body = {"org": "acme", "caveats": ["action = secrets:read", in_seconds(600)]}
    site.node.fail("sync", "-wal", "io", times=1)
    doubtful = site.doors.ask("POST", "/v1/tokens", body, idempotency_key="m")
    assert doubtful.error == INDETERMINATE
    before = _minted(site)
    minted = site.doors.done("POST", "/v1/tokens", body, idempotency_key="m")
    again = site.doors.done("POST", "/v1/tokens", body, idempotency_key="m")
    assert again == minted
    assert site.doors.fetch("acme/web", token=minted["token"]).error is None
    assert before <= _minted(site) <= before + 1


def _minted(site: Site) -> int:
    found: int = Disk(site.directory).rows("SELECT count(*) FROM tokens WHERE org IS NOT NULL")[0][
        0
    ]
    return found


def test_a_disk_that_stays_broken(site: Site) -> None:
    """While every sync fails reads go on and the node says so; when the disk is mended it takes
    writes by itself."""
    site.node.fail("sync", "-wal", "io")
    for number in range(3):
        assert site.patch(f"broken-{number}", A=f"value {number}").error == INDETERMINATE
        assert site.stored() == {"A": b"before"}
    assert site.doors.ask("GET", "/healthz").status == 200
    site.node.heal()
    told = site.patch("broken-2", A="value 2")
    assert (told.status, told.body["version"]) == (200, 2)
    assert site.stored() == {"A": b"value 2"}


def test_the_command_line_asks_again(site: Site) -> None:
    """`petsem secrets set` meets the failure, asks with its key, and reports one write."""
    site.node.fail("sync", "-wal", "io", times=1)
    ran = site.doors.cli("secrets", "set", "A", "-o", "json", stdin=b"from a pipe", app="acme/web")
    assert site.node.met
    assert (ran.code, site.stored()) == (0, {"A": b"from a pipe"}), ran
    assert site.doors.done("GET", SECRETS)["version"] == 2
