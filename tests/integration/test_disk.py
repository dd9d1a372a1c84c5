"""A full disk: writes are refused, reads go on, everybody hears the truth, and it heals by itself.

On a real small disk where this user may mount one, and over a VFS that says the disk is full.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from petsem.limits import BALLAST_BYTES, FREE_SPACE_RESERVE_BYTES
from tests.support import cluster
from tests.support.daemon import run, until
from tests.support.doors import Doors, values_of
from tests.support.failing_node import FailingNode
from tests.support.keep_alive import Answered, KeepAlive
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.xdist_group("disk")
"""In one process, so that what is made once for this file is."""

APPS: Final = 12
WRITES: Final = 180
VALUE: Final = "x" * 65_000
FULL: Final = (503, "unavailable", None)
MIB: Final = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """320 MiB, with a new cluster on it: every large write is in the WAL, and again in the log."""
    with small_disk(tmp_path, 320) as made:
        if made is None:
            pytest.skip("this user may not mount a disk of his own")
        ports = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--peer", "127.0.0.1:0")
        ran = made.run("init", made.path / "node", "--region", "ams", *ports)
        assert ran.code == 0, ran
        yield made


def operator_of(disk: SmallDisk) -> str:
    return (disk.seen / "node.operator.token").read_text().strip()


def secrets(number: int) -> str:
    return f"/v1/orgs/acme/apps/app-{number % APPS}/secrets"


async def burst(doors: Doors, count: int = WRITES) -> list[Answered]:
    """So many large writes at once, each with a key and a name of its own."""
    lines = [KeepAlive(doors.daemon.http, doors.operator) for _ in range(count)]

    async def ask(number: int) -> Answered:
        body = {"set": {f"N{number}": f"{number}:{VALUE}"}}
        return await lines[number].ask("PATCH", secrets(number), body, f"key-{number}")

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(ask(number) for number in range(count)))
    for line in lines:
        line.drop()
    return list(answers)


async def one_group(disk: SmallDisk, doors: Doors) -> list[Answered]:
    """The same, all of it in the writer's queue before the first is looked at."""

    async def queued() -> None:
        async with asyncio.timeout(1.5):
            while True:
                told = await asyncio.to_thread(doors.ask, "GET", "/metrics")
                if f"\npetsem_writer_queue {WRITES}.0\n" in told.raw.decode():
                    return

    with disk.locked():
        writing = asyncio.ensure_future(burst(doors))
        with contextlib.suppress(TimeoutError):
            await queued()
    return await writing


def stored(doors: Doors) -> set[int]:
    """The numbers whose writes are there, whole."""
    found: set[int] = set()
    for app in range(APPS):
        for name, value in values_of(doors.fetch(f"acme/app-{app}")).items():
            if name[0] == "N":
                assert value.decode() == f"{name[1:]}:{VALUE}"
                found.add(int(name[1:]))
    return found


def furnish(doors: Doors) -> None:
    doors.furnish("acme", *(f"app-{number}" for number in range(APPS)))
    doors.set("acme/app-0", A="value of A")


def judge(doors: Doors, answers: list[Answered]) -> dict[int, int]:
    """What was told is true; how often each status was answered."""
    there = stored(doors)
    counts: dict[int, int] = {}
    for number, answer in enumerate(answers):
        counts[answer.status] = counts.get(answer.status, 0) + 1
        if answer.status == 200:
            assert number in there, f"{number} was acknowledged and is not there"
        elif answer.status == 503:
            assert answer.body["code"] == "unavailable"
            assert number not in there, f"{number} was refused and is there"
        else:
            assert (answer.status, answer.body["code"]) == (504, "indeterminate")
    return counts


def wait_for_writes(doors: Doors) -> None:
    """Until the node takes writes again; nobody tells it to."""
    until(
        lambda: doors.ask("PATCH", secrets(0), {"set": {"A": "value of A"}}).status == 200,
        "write after space came back",
        within_s=20,
    )


def reads_go_on(doors: Doors) -> None:
    assert values_of(doors.fetch("acme/app-0"))["A"] == b"value of A"
    assert doors.ask("GET", secrets(0) + "/values").status == 200
    assert doors.ask("GET", "/readyz", token=None).status == 200
    token = {"token": doors.operator, "access": {"org": "acme", "action": "secrets:read"}}
    assert doors.done("POST", "/v1/tokens/verify", token)["allowed"]


def refuses_writes(doors: Doors) -> None:
    answer = doors.ask("PATCH", secrets(0), {"set": {"A": "not now"}})
    assert answer.error == FULL
    assert int(answer.headers["retry-after"]) >= 1
    assert "disk is full" in answer.body["message"]
    warnings = doors.done("GET", "/v1/status")["nodes"][0]["warnings"]
    assert any("disk is full" in each for each in warnings)


def once_each(doors: Doors, answers: list[Answered]) -> None:
    """With its key each write comes out as done exactly once."""
    again = asyncio.run(burst(doors))
    assert {answer.status for answer in again} == {200}
    for first, second in zip(answers, again, strict=True):
        if first.status == 200:
            assert second.body == first.body
    assert stored(doors) == set(range(WRITES))
    for app in range(APPS):
        versions = doors.done("GET", f"/v1/orgs/acme/apps/app-{app}/versions?limit=500")["versions"]
        names = [name for each in versions for name in each["set"] if name[0] == "N"]
        assert len(names) == len(set(names)) == WRITES // APPS


def test_a_disk_that_fills_up(disk: SmallDisk) -> None:
    """Somebody else fills the disk: writes stop before they would eat into the reserve, reads and
    verification go on, and when there is room again so do writes."""
    with disk.daemon() as daemon, Doors(daemon, operator_of(disk)) as doors:
        furnish(doors)
        assert (disk.seen / "node" / "ballast").stat().st_size == BALLAST_BYTES
        disk.fill(FREE_SPACE_RESERVE_BYTES - MIB)
        refuses_writes(doors)
        reads_go_on(doors)
        disk.fill()
        assert disk.free_bytes == 0
        refuses_writes(doors)
        reads_go_on(doors)
        assert (disk.seen / "node" / "ballast").stat().st_size == BALLAST_BYTES
        disk.clear()
        wait_for_writes(doors)
        assert doors.done("GET", "/v1/status")["nodes"][0]["warnings"] == []
        assert daemon.stop() == 0
    assert disk.run("check", disk.path / "node", "--all").code == 0


def test_a_burst_that_does_not_fit(disk: SmallDisk) -> None:
    """The disk fills in the middle of a burst: whoever was acknowledged is stored, whoever was
    refused is not. No single group is larger than the reserve, so the disk is left in order."""
    with disk.daemon() as daemon, Doors(daemon, operator_of(disk)) as doors:
        furnish(doors)
        disk.fill(FREE_SPACE_RESERVE_BYTES + 64 * 1024)
        answers = asyncio.run(one_group(disk, doors))
        counts = judge(doors, answers)
        assert counts.get(503, 0) > 0, counts
        assert not [each for each in daemon.events() if each["level"] == "error"]
        reads_go_on(doors)
        refuses_writes(doors)
        daemon.kill()
    # After a crash in this state the next start is as good.
    with daemon, Doors(daemon, operator_of(disk)) as doors:
        judge(doors, answers)
        reads_go_on(doors)
        disk.clear()
        wait_for_writes(doors)
        once_each(doors, answers)
        until((disk.seen / "node" / "ballast").exists, "ballast")
        assert daemon.stop() == 0
    assert disk.run("check", disk.path / "node", "--all").code == 0


def test_a_start_on_a_full_disk(disk: SmallDisk) -> None:
    """With the ballast to give up, the node starts and serves reads; without, it says why not."""
    daemon = disk.daemon()
    with daemon, Doors(daemon, operator_of(disk)) as doors:
        furnish(doors)
    disk.fill()
    with daemon, Doors(daemon, operator_of(disk)) as doors:
        reads_go_on(doors)
        disk.fill()
        refuses_writes(doors)
        assert daemon.stop() == 0
    assert not (disk.seen / "node" / "ballast").exists()
    refused = disk.daemon().refuse()
    assert refused.code == 6
    sentence = [line for line in refused.err.splitlines() if not line.startswith("{")]
    assert len(sentence) == 1
    assert "full" in sentence[0]
    disk.clear()
    with daemon, Doors(daemon, operator_of(disk)) as doors:
        wait_for_writes(doors)


# The same with faults at chosen places, for every user


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    made = cluster.make(tmp_path_factory.mktemp("full"))
    with FailingNode(made.directory) as node, Doors(node, made.operator) as doors:
        furnish(doors)
        yield doors
        node.heal()
        assert node.stop() == 0
    assert run("check", made.directory, "--all").code == 0


def node_of(doors: Doors) -> FailingNode:
    assert isinstance(doors.daemon, FailingNode)
    return doors.daemon


def test_free_space_below_the_reserve(failing: Doors) -> None:
    """A write is refused before it begins, and taken again as soon as there is room."""
    node_of(failing).free(FREE_SPACE_RESERVE_BYTES - 4096)
    refuses_writes(failing)
    reads_go_on(failing)
    node_of(failing).heal()
    wait_for_writes(failing)


@pytest.mark.parametrize("after", [0, 1, 30, 300, 900])
def test_full_at_the_nth_write(failing: Doors, after: int) -> None:
    """Wherever in a group the disk is full: everybody hears the truth, and nobody twice."""
    node_of(failing).fail("write", "-wal", "full", after=after)
    answers = asyncio.run(burst(failing))
    counts = judge(failing, answers)
    assert counts.get(503, 0) > 0, counts
    # What is known not to have happened is not called doubtful.
    assert 504 not in counts
    reads_go_on(failing)
    node_of(failing).heal()
    wait_for_writes(failing)
    once_each(failing, answers)
    _forget(failing)


def _forget(doors: Doors) -> None:
    """Make room for the next such test: the names, and the keys, are used again."""
    for number in range(APPS):
        doors.done("DELETE", f"/v1/orgs/acme/apps/app-{number}?now=true")
        doors.done("POST", "/v1/orgs/acme/apps", {"app": f"app-{number}"})
    doors.set("acme/app-0", A="value of A")
    doors.operator = doors.mint(None, f"action in {_EVERYTHING}")


_EVERYTHING: Final = "secrets:read, secrets:list, secrets:write, apps:admin, nodes:read, " + (
    "tokens:verify, tokens:mint, orgs:admin"
)
