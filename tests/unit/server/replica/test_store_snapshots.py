"""Snapshots on the replica's disk: resumed, refused, applied over what is there."""

from __future__ import annotations

import pytest

from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication import steps
from petsem.replication.image import PAGE_SIZE
from petsem.replication.ltx import compact
from petsem.server.database import open_reader
from petsem.server.replica import intake
from petsem.server.replica.errors import BadFrame, NotContiguous
from tests.support.leader_source import LeaderSource
from tests.unit.server.replica.store_rig import Rig, rest


def runs_of(image: bytes, pages: int = 40) -> list[tuple[int, bytes]]:
    size = pages * PAGE_SIZE
    return [(at // PAGE_SIZE + 1, image[at : at + size]) for at in range(0, len(image), size)]


async def begin(rig: Rig, at: Position, image: bytes, runs: int | None = None) -> None:
    await rig.store.begin_snapshot(at, len(image) // PAGE_SIZE, 1)
    for first, data in runs_of(image)[:runs]:
        await rig.store.snapshot_pages(first, data)


async def test_pages_of_different_moments_and_the_log_make_one_image(
    rig: Rig, leader: LeaderSource
) -> None:
    """The leader writes while its pages are read, grows and shrinks: what it logged since is laid
    over them, in one file or in several."""
    await rig.open()
    at, image = leader.position, leader.image()
    leader.run("UPDATE t SET x = randomblob(900) WHERE id > 100")
    halves = runs_of(image)[:2] + runs_of(leader.image())[2:]
    mixed = b"".join(data for _, data in halves)[: len(image)]
    leader.fill(200)
    middle = leader.position
    leader.run("DELETE FROM t WHERE id > 30")
    leader.vacuum()
    leader.fill(50)
    logged = [data for _, data in leader.after(at.txid)]
    await begin(rig, at, mixed)
    await rig.store.end_snapshot(leader.position, compact(logged))
    assert rig.image() == leader.image()
    await begin(rig, at, mixed)
    cut = middle.txid - at.txid
    await rig.store.snapshot_changes(middle, compact(logged[:cut]))
    await rig.store.end_snapshot(leader.position, compact(logged[cut:]))
    assert rig.image() == leader.image()
    await rig.close()


async def test_an_interrupted_snapshot_goes_on(
    rig: Rig, leader: LeaderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another stream of the same run where it was; after a stop or a crash where its pages were
    noted last."""
    monkeypatch.setattr(intake.limits, "SNAPSHOT_NOTE_BYTES", 30 * PAGE_SIZE)
    leader.fill(900)
    await rig.open()
    at, image = leader.position, leader.image()
    pages = len(image) // PAGE_SIZE
    await begin(rig, at, image, 2)
    assert rig.store.resume == (at, 81)
    await rig.store.begin_snapshot(at, pages, 81)
    await rig.store.snapshot_pages(*runs_of(image)[2])
    await rig.crash()
    again = Rig(rig.datadir.path)
    await again.open()
    assert again.store.resume == (at, 121)
    with pytest.raises(NotContiguous):
        await again.store.begin_snapshot(at, pages, 81)
    await again.store.begin_snapshot(at, pages, 121)
    for first, data in runs_of(image)[3:]:
        await again.store.snapshot_pages(first, data)
    await again.store.end_snapshot(at, b"")
    assert (again.image(), again.store.resume) == (image, None)
    left = {each.name for each in rig.datadir.path.glob("snapshot*")}
    assert left == set()
    await again.close()
    again.helper.shutdown()


@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        ([(2, bytes(PAGE_SIZE))], "snapshot-pages"),
        ([(1, bytes(100))], "snapshot-size"),
        ([(1, b"")], "snapshot-size"),
        ([(1, bytes(1025 * PAGE_SIZE))], "snapshot-size"),
        ([(1, bytes(80 * PAGE_SIZE)), (81, bytes(1000 * PAGE_SIZE))], "snapshot-pages"),
    ],
)
async def test_pages_that_are_not_due_are_refused(
    rig: Rig, leader: LeaderSource, pages: list[tuple[int, bytes]], reason: str
) -> None:
    """By number, by size, and beyond the end."""
    await rig.open()
    await rig.store.begin_snapshot(leader.position, 100, 1)
    *good, bad = pages
    for each in good:
        await rig.store.snapshot_pages(*each)
    with pytest.raises(BadFrame) as refused:
        await rig.store.snapshot_pages(*bad)
    assert refused.value.reason == reason
    await rig.close()


async def test_a_snapshot_that_does_not_hold_changes_nothing(
    rig: Rig, leader: LeaderSource
) -> None:
    """A flipped byte in a page, an end that is another, changes that do not continue it: refused,
    thrown away, and the database answers as before."""
    await rig.open()
    await rig.take(leader)
    before, old = leader.position, leader.image()
    leader.fill(100)
    leader.run()
    image = bytearray(leader.image())
    image[PAGE_SIZE * 33 + 7] ^= 1
    at = leader.position
    await begin(rig, at, bytes(image))
    with pytest.raises(BadFrame) as refused:
        await rig.store.end_snapshot(at, b"")
    assert (refused.value.reason, rig.store.resume) == ("snapshot-checksum", None)
    await begin(rig, at, leader.image())
    with pytest.raises(NotContiguous):
        await rig.store.end_snapshot(Position(at.epoch, at.txid + 1, at.checksum), b"")
    with pytest.raises(BadFrame) as refused:
        await rig.store.end_snapshot(at, leader.records[-1][1])
    assert (refused.value.reason, rig.store.resume) == ("snapshot-chain", None)
    await begin(rig, at, leader.image(), 1)
    with pytest.raises(BadFrame):
        await rig.store.end_snapshot(at, leader.records[-1][1])
    assert (rig.store.durable, rig.image()) == (before, old)
    await rig.follow(leader.after(before.txid))
    assert rig.image() == leader.image()
    await rig.close()


async def test_without_room_no_snapshot_begins(
    rig: Rig, leader: LeaderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal says so, and nothing lies about."""
    await rig.open()
    monkeypatch.setattr(intake, "free_bytes", lambda _: 9_000_000)
    with pytest.raises(PetsemError):
        await rig.store.begin_snapshot(leader.position, 1_000, 1)
    assert list(rig.datadir.path.glob("snapshot*")) == []
    await rig.close()


class Stop(Exception):  # noqa: N818
    """Where the process ends."""


def at_step(step: str, calls: int = 1):  # type: ignore[no-untyped-def]
    """Raise at the n-th time that `step` is reached."""
    left = calls

    def reached(now: str) -> None:
        nonlocal left
        left -= now == step
        if not left:
            left = -1
            raise Stop

    return reached


@pytest.mark.parametrize(
    "step",
    [
        steps.SNAPSHOT_STAGE,
        steps.SNAPSHOT_APPLY,
        steps.APPLY_JOURNAL,
        steps.APPLY_PAGES,
        steps.JOURNAL_REMOVAL,
        steps.SYNC_DATABASE,
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
async def test_a_stop_while_it_is_applied_is_gone_on_with(
    rig: Rig, leader: LeaderSource, step: str, fresh: bool
) -> None:
    """From the step at which all of it was staged on, the next start ends what was begun; before
    it, the node is where it was. Also over a branch that was longer."""
    if not fresh:
        other = leader.fork(rig.datadir.path.with_name("other"), node="other")
        for _ in range(5):
            other.fill(60)
        await rig.open()
        await rig.take(other)
        await rig.close()
        old = other.image()
        other.close()
    leader.new_epoch(7)
    leader.run()
    again = Rig(rig.datadir.path)
    await again.open(at_step(step))
    await begin(again, leader.position, leader.image())
    with pytest.raises(Stop):
        await again.store.end_snapshot(leader.position, b"")
    await again.crash()
    again.helper.shutdown()
    last = Rig(rig.datadir.path)
    store = await last.open()
    if step == steps.SNAPSHOT_STAGE:
        assert last.image() == (b"" if fresh else old)
        await last.take(leader)
    assert last.image() == leader.image()
    assert (store.durable, store.applied) == (leader.position, leader.position)
    assert last.datadir.read_state().synced_txid == leader.position.txid
    await last.follow([leader.run()])
    assert last.image() == leader.image()
    await last.close()
    last.helper.shutdown()


async def test_a_reader_keeps_its_snapshot_until_it_ends(rig: Rig, leader: LeaderSource) -> None:
    """Applying waits for a foreign reader, who sees one database to the end."""
    import asyncio

    await rig.open()
    await rig.take(leader)
    foreign = open_reader(rig.datadir.database)
    foreign.execute("BEGIN")
    rows = foreign.execute("SELECT count(*) FROM t").fetchall()
    leader.fill(70)
    await begin(rig, leader.position, leader.image())
    ending = asyncio.create_task(rig.store.end_snapshot(leader.position, b""))
    await rest()
    assert foreign.execute("SELECT count(*) FROM t").fetchall() == rows
    assert not ending.done()
    foreign.close(True)
    await ending
    assert rig.read("SELECT count(*) FROM t") == [(270,)]
    await rig.close()
