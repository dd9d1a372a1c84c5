"""Giving up a branch: what is kept of it, and when a person is asked first."""

from __future__ import annotations

import msgspec
import pytest

from petsem.replication.ltx import decode, verify
from petsem.server.replica import lost
from petsem.server.replica.errors import NeedsOperator
from tests.support.leader_source import LeaderSource
from tests.unit.server.replica.store_rig import Rig

ORG = "INSERT INTO orgs(uid, name, created_at) VALUES (randomblob(16), 'acme', ?)"
APP = "INSERT INTO apps(incarnation, org, name, created_at) VALUES (randomblob(16), 1, 'web', ?)"
VERSION = "INSERT INTO versions VALUES (1, ?, ?, 'someone', x'00', 'set', NULL)"
SECRET = (
    "INSERT INTO secrets(app, name, since, sealed_at, envelope, size)"
    " VALUES (1, ?, ?, 1, x'5ec2e7', 3)"
)
REVOKED = (
    "INSERT INTO revocations(nonce, org, at, subject, token, epoch, txid)"
    " VALUES (zeroblob(16), 1, ?, 'someone', x'00', 2, ?)"
)


async def forked(rig: Rig, leader: LeaderSource) -> LeaderSource:
    """A replica that followed another leader beyond the fork."""
    now = leader.now_ms
    leader.run(ORG, now)
    leader.run(APP, now)
    leader.run(VERSION, 1, now)
    other = leader.fork(rig.datadir.path.with_name("other"), node="other")
    await rig.open()
    await rig.take(leader)
    other.now_ms += 10_000
    await rig.follow([other.new_epoch()])
    return other


async def own_work(rig: Rig, other: LeaderSource) -> None:
    other.now_ms += 10_000
    await rig.follow([other.run(VERSION, 2, other.now_ms)])
    await rig.follow([other.run(SECRET, "API_KEY", 2)])
    await rig.follow([other.run(REVOKED, other.now_ms, other.position.txid + 1)])


async def test_a_short_branch_is_saved_and_given_up(rig: Rig, leader: LeaderSource) -> None:
    """All its transactions lie in lost/, with the names and without a value; then a snapshot of
    the other branch, at a lower TXID, is taken, and what follows it."""
    other = await forked(rig, leader)
    await own_work(rig, other)
    fork, end = leader.position, other.position
    leader.new_epoch(9, "leader")
    await rig.store.roll_back(fork, higher=True, forced=False)
    directory = rig.datadir.lost / f"{fork}-to-{end}"
    given = rig.heard("lost")[0]
    assert isinstance(given, lost.Lost)
    assert (given.directory, given.revoked) == (directory, [bytes(16)])
    kept = sorted(directory.glob("*.ltx"))
    assert [each.read_bytes() for each in kept] == [data for _, data in other.after(fork.txid)]
    assert verify([(each.read_bytes(),) for each in kept])[0].max_txid == end.txid
    keks = msgspec.json.decode((directory / "keks.json").read_bytes())
    assert keks.keys() == {"secrets", "tokens", "cluster"}
    text = (directory / "names.json").read_bytes()
    names = msgspec.json.decode(text)
    assert (names["fork"], names["end"], names["transactions"]) == (str(fork), str(end), 4)
    # The log is no older than the fork: all since the epoch began is listed.
    assert [(each["app"], each["version"], each["secrets"]) for each in names["versions"]] == [
        ("acme/web", 1, []),
        ("acme/web", 2, ["API_KEY"]),
    ]
    assert [each["nonce"] for each in names["revocations"]] == ["00" * 16]
    assert names["epochs"] == [{"epoch": 2, "first_txid": fork.txid + 1, "leader": "other"}]
    assert [each["app"] for each in names["apps"]] == ["acme/web"]
    assert [each["org"] for each in names["orgs"]] == ["acme"]
    assert names["tokens"] == []
    assert b"5ec2e7" not in text
    assert (rig.store.needs_snapshot, rig.store.durable, rig.store.applied) == (True, None, end)
    await rig.take(leader)
    await rig.follow([leader.run()])
    assert rig.image() == leader.image()
    assert rig.store.epochs() == [(1, 1, "leader"), (9, fork.txid + 1, "leader")]
    await rig.close()
    other.close()


async def test_the_same_branch_is_saved_once(rig: Rig, leader: LeaderSource) -> None:
    """A node that is killed before its snapshot came is told again, and finds it saved."""
    other = await forked(rig, leader)
    await own_work(rig, other)
    fork = leader.position
    await rig.store.roll_back(fork, higher=True, forced=False)
    (directory,) = rig.datadir.lost.iterdir()
    times = {each: each.stat().st_mtime_ns for each in directory.iterdir()}
    await rig.crash()
    again = Rig(rig.datadir.path)
    await again.open()
    assert again.store.durable == other.position
    await again.store.roll_back(fork, higher=True, forced=False)
    assert {each: each.stat().st_mtime_ns for each in directory.iterdir()} == times
    await again.close()
    again.helper.shutdown()
    other.close()


async def test_epochs_alone_go_without_noise(rig: Rig, leader: LeaderSource) -> None:
    """A branch on which nothing happened but starts of its leader is not kept."""
    other = await forked(rig, leader)
    await rig.follow([other.new_epoch()])
    await rig.store.roll_back(leader.position, higher=False, forced=False)
    assert list(rig.datadir.lost.iterdir()) == []
    assert rig.store.needs_snapshot
    await rig.close()
    other.close()


async def test_a_person_is_asked(
    rig: Rig, leader: LeaderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a branch that is not older, is long, took long, or does not fit the disk: it stays,
    the refusal has the command, and with it all is kept and given up."""
    other = await forked(rig, leader)
    await own_work(rig, other)
    fork = leader.position

    async def refused(*, higher: bool) -> str:
        with pytest.raises(NeedsOperator) as asked:
            await rig.store.roll_back(fork, higher=higher, forced=False)
        assert (rig.store.needs_snapshot, list(rig.datadir.lost.iterdir())) == (False, [])
        return asked.value.message

    assert "petsem accept" in await refused(higher=False)
    with monkeypatch.context() as few:
        few.setattr(lost.limits, "LOST_MAX_TRANSACTIONS", 3)
        assert "petsem accept" in await refused(higher=True)
    with monkeypatch.context() as full:
        full.setattr(lost, "free_bytes", lambda _: 0)
        assert "no room" in await refused(higher=True)
    other.now_ms += 70_000
    await rig.follow([other.run()])
    assert "petsem accept" in await refused(higher=True)
    await rig.store.roll_back(fork, higher=False, forced=True)
    assert rig.store.needs_snapshot
    assert len(list(rig.datadir.lost.glob("*/*.ltx"))) == 5
    await rig.close()
    other.close()


async def test_where_the_log_begins_later_the_whole_database_is_kept(
    rig: Rig, leader: LeaderSource
) -> None:
    """The fork lies before what this node's log holds."""
    fork = leader.position
    other = leader.fork(rig.datadir.path.with_name("other"), node="other")
    other.run()
    await rig.open()
    await rig.take(other)
    await rig.follow([other.run()])
    image, end = other.image(), other.position
    await rig.store.roll_back(fork, higher=True, forced=False)
    (kept,) = rig.datadir.lost.glob("*/*.ltx")
    file = decode(kept.read_bytes())
    assert b"".join(page for _, page in file.pages) == image
    assert file.trailer.post_apply_checksum == end.checksum
    await rig.close()
    other.close()
