"""What a follower takes from whom it follows: every rule, broken once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from petsem import limits
from petsem.model import Position
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE
from petsem.replication.ltx import Header
from petsem.replication.session.follow import Broken, FollowSession, OtherLeader, Own, Rule
from petsem.replication.session.from_leader import (
    Heartbeat,
    Message,
    Rollback,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Transactions,
    Welcome,
)
from tests.support.ltx_files import Chain

CLUSTER = b"c" * 16
WELCOME = Welcome(1, CLUSTER, "ams-1", 5, ("ams-1",), None)
AT = Position(5, 1, 1 << 63 | 7)


def _chain() -> Chain:
    chain = Chain()
    chain.next(epoch=5)
    return chain


def _session(at: Position | None = AT, resume: tuple[Position, int] | None = None) -> FollowSession:
    """One that was welcomed."""
    session = FollowSession(Own("fra-1", CLUSTER, at, 5, resume))
    session.receive(WELCOME)
    return session


def _breaks(session: FollowSession, message: Message) -> Rule:
    """The rule that `message` breaks; nothing may be said after it."""
    with pytest.raises(Broken) as broken:
        session.receive(message)
    for after in (message, WELCOME, Heartbeat(AT, 0, 5)):
        with pytest.raises(Broken) as again:
            session.receive(after)
        assert again.value.rule is Rule.ORDER
    return broken.value.rule


# Welcome


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"protocol": 2}, Rule.PROTOCOL),
        ({"cluster_id": b"d" * 16}, Rule.CLUSTER),
        ({"path": ()}, Rule.PATH),
        ({"path": ("ams-2",)}, Rule.PATH),
        ({"path": ("ams-1", "ams-2", "ams-2")}, Rule.PATH),
        ({"path": ("ams-1", "fra-1")}, Rule.LOOP),
        ({"node_id": "fra-1", "path": ("fra-1",)}, Rule.LOOP),
        ({"path": ("ams-1", "b", "c", "d")}, Rule.TOO_FAR),
        ({"epoch_seen": 4}, Rule.OLD_EPOCH),
    ],
)
def test_who_may_not_be_followed(changed: dict[str, Any], rule: Rule) -> None:
    """Another cluster, a circle, a chain too long, a leader that is none any more."""
    session = FollowSession(Own("fra-1", CLUSTER, AT, 5))
    assert _breaks(session, dataclasses.replace(WELCOME, **changed)) is rule


FAR = 5 + limits.EPOCHS_AHEAD_MAX
BEYOND = 5 + 2 * limits.EPOCHS_AHEAD_MAX


@pytest.mark.parametrize(
    "message",
    [
        dataclasses.replace(WELCOME, epoch_seen=FAR + 1),
        dataclasses.replace(WELCOME, epoch_seen=FAR + 1, leads=(5, "ams-1")),
        dataclasses.replace(WELCOME, epoch_seen=BEYOND + 1, leads=(BEYOND + 1, "ams-1")),
        Heartbeat(AT, 0, FAR + 1),
        SnapshotBegin(Position(BEYOND + 1, 1, 1 << 63), 1, 1),
        SnapshotBegin(Position(limits.EPOCH_MAX, 1, 1 << 63), 1, 1),
    ],
)
def test_an_epoch_that_no_cluster_comes_to(message: Message) -> None:
    """It is no node to be followed, and nothing that it says is remembered."""
    session = FollowSession(Own("fra-1", CLUSTER, AT, 5, epoch_known=5))
    if not isinstance(message, Welcome):
        session.receive(WELCOME)
    assert _breaks(session, message) is Rule.EPOCH
    assert session.epoch_seen == 5


def test_a_file_of_an_epoch_that_no_cluster_comes_to() -> None:
    """Neither is it stored."""
    chain = _chain()
    session = FollowSession(Own("fra-1", CLUSTER, chain.at, 5, epoch_known=5))
    session.receive(WELCOME)
    assert _breaks(session, Transactions(BEYOND + 1, chain.next(5))) is Rule.EPOCH


def test_an_epoch_far_ahead() -> None:
    """Of a leader that was promoted beyond all that others claimed: it is followed, and what is
    heard of may be as far beyond that."""
    session = FollowSession(Own("fra-1", CLUSTER, AT, 5, epoch_known=5))
    session.receive(dataclasses.replace(WELCOME, epoch_seen=BEYOND, leads=(BEYOND, "ams-1")))
    session.receive(Heartbeat(AT, 0, BEYOND + limits.EPOCHS_AHEAD_MAX))
    assert session.epoch_seen == BEYOND + limits.EPOCHS_AHEAD_MAX


def test_who_knows_no_epoch_believes_any() -> None:
    """A new node, which may join an old cluster."""
    session = FollowSession(Own("fra-1", CLUSTER, None, 0))
    session.receive(dataclasses.replace(WELCOME, epoch_seen=2**31, leads=(2**31, "ams-1")))
    assert session.epoch_seen == 2**31


def test_three_hops_are_not_too_many() -> None:
    """Two nodes between may be."""
    session = FollowSession(Own("fra-1", CLUSTER, AT, 5))
    session.receive(dataclasses.replace(WELCOME, path=("ams-1", "b", "c"), epoch_seen=6))
    assert session.epoch_seen == 6


@pytest.mark.parametrize(
    "message",
    [
        Transactions(5, b""),
        Heartbeat(AT, 0, 5),
        SnapshotBegin(AT, 1, 1),
        SnapshotPages(1, 1, b""),
        SnapshotEnd(AT, b""),
        Rollback(AT),
    ],
)
def test_welcome_comes_first(message: Message) -> None:
    """Nothing is taken before it."""
    assert _breaks(FollowSession(Own("fra-1", CLUSTER, AT, 5)), message) is Rule.ORDER


@pytest.mark.parametrize("message", [WELCOME, SnapshotPages(1, 1, b""), SnapshotEnd(AT, b"")])
def test_not_due_while_following(message: Message) -> None:
    """A second Welcome, and pages of no snapshot."""
    assert _breaks(_session(), message) is Rule.ORDER


def test_lies_are_told_from_misfortune() -> None:
    """Who is merely no node to follow now is asked again soon."""
    honest = {rule for rule in Rule if not Broken(rule).lie}
    assert honest == {Rule.PROTOCOL, Rule.LOOP, Rule.TOO_FAR, Rule.OLD_EPOCH}


# Transactions


def test_files_that_follow_each_other() -> None:
    """Of one transaction and of many, and into the next epoch."""
    chain = _chain()
    session = _session(chain.at)
    for epoch, count in ((5, 1), (5, 40), (6, 1)):
        session.receive(Transactions(epoch, chain.next(epoch, count=count)))
        assert session.position == chain.at


def test_a_repeated_file() -> None:
    """Going back in TXID is a repetition too."""
    chain = _chain()
    session, file = _session(chain.at), chain.next(5)
    session.receive(Transactions(5, file))
    assert _breaks(session, Transactions(5, file)) is Rule.REPEATED


def test_a_file_that_overlaps() -> None:
    """A range whose first transactions are there already."""
    chain, other = _chain(), _chain()
    session = _session(chain.at)
    session.receive(Transactions(5, chain.next(5)))
    assert _breaks(session, Transactions(5, other.next(5, count=2))) is Rule.REPEATED


def test_a_skipped_file() -> None:
    """Some transaction is left out."""
    chain = _chain()
    session = _session(chain.at)
    chain.next(5)
    assert _breaks(session, Transactions(5, chain.next(5))) is Rule.SKIPPED


def test_a_lower_epoch() -> None:
    """No branch goes on in an epoch that is over."""
    chain = _chain()
    session = _session(chain.at)
    assert _breaks(session, Transactions(4, chain.next(5))) is Rule.WENT_BACK


def test_a_file_of_another_content() -> None:
    """The right TXID after other data."""
    chain = _chain()
    session = _session(dataclasses.replace(chain.at, checksum=1 << 63 | 1))
    assert _breaks(session, Transactions(5, chain.next(5))) is Rule.CHECKSUM


def test_transactions_for_who_has_nothing() -> None:
    """They continue nothing."""
    assert _breaks(_session(None), Transactions(5, _chain().next(5))) is Rule.ORDER


def test_files_that_are_none() -> None:
    """Too short, of another magic, of another page size, without checksums, or with a trailer
    that cannot be."""
    chain = _chain()
    at, file = chain.at, chain.next(5)
    header = Header.parse(file[:100])
    forged = [
        b"",
        file[:115],
        b"LTX9" + file[4:],
        dataclasses.replace(header, page_size=512).encode() + file[100:],
        dataclasses.replace(header, flags=2, pre_apply_checksum=0).encode() + file[100:],
        file[:-16] + bytes(16),
    ]
    for data in forged:
        assert _breaks(_session(at), Transactions(5, data)) is Rule.HEADER


# Heartbeats


def test_heartbeats() -> None:
    """The epoch that the leader has seen rises, and never falls."""
    session = _session()
    session.receive(Heartbeat(AT, 0, 7))
    assert session.epoch_seen == 7
    assert _breaks(session, Heartbeat(AT, 0, 6)) is Rule.WENT_BACK


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (("ams-1", "fra-1"), Rule.LOOP),
        (("ams-1", "fra-1", "ams-1"), Rule.LOOP),
        (("ams-2",), Rule.PATH),
        (("ams-1", "b", "b"), Rule.PATH),
        (("ams-1", "b", "c", "d"), Rule.TOO_FAR),
    ],
)
def test_another_way_that_cannot_be_gone(path: tuple[str, ...], rule: Rule) -> None:
    """In a circle, over somebody else, too far: as in a welcome."""
    assert _breaks(_session(), Heartbeat(AT, 0, 5, path)) is rule


def test_another_way_to_the_same_leader() -> None:
    """Is told in the stream, also that there is none now; an older node says nothing of it."""
    session = FollowSession(Own("fra-1", CLUSTER, AT, 5))
    session.receive(dataclasses.replace(WELCOME, leads=(5, "sin-1")))
    assert session.path == ("ams-1",)
    session.receive(Heartbeat(AT, 0, 5, ("ams-1", "lax-1", "sin-1"), "sin-1"))
    assert session.path == ("ams-1", "lax-1", "sin-1")
    session.receive(Heartbeat(AT, 0, 5))
    assert session.path == ("ams-1", "lax-1", "sin-1")
    session.receive(Heartbeat(AT, 0, 5, ("ams-1",), "sin-1"))
    assert session.path == ("ams-1",)


def test_another_leader() -> None:
    """Ends the stream well: whose the epoch is has to be heard in a welcome, and bound."""
    session = FollowSession(Own("fra-1", CLUSTER, AT, 5))
    session.receive(dataclasses.replace(WELCOME, leads=(5, "sin-1")))
    session.receive(Heartbeat(AT, 0, 5, ("ams-1", "sin-1"), "sin-1"))
    with pytest.raises(OtherLeader):
        session.receive(Heartbeat(AT, 0, 6, ("ams-1", "lax-1"), "lax-1"))
    assert _breaks(session, Heartbeat(AT, 0, 6)) is Rule.ORDER


# Snapshots


def _run(first: int, count: int) -> SnapshotPages:
    return SnapshotPages(first, count, (count * PAGE_SIZE).to_bytes(4, "little") + b"lz4")


def test_a_snapshot() -> None:
    """Pages, what changed meanwhile in two parts, then transactions."""
    chain = _chain()
    begun = chain.at
    session = _session(None)
    session.receive(SnapshotBegin(begun, 5, 1))
    for run in (_run(1, 2), _run(3, 3)):
        session.receive(run)
        session.receive(Heartbeat(AT, 0, 5))
    first = chain.next(5, count=3)
    session.receive(SnapshotEnd(chain.at, first, more=True))
    assert session.position is None
    session.receive(SnapshotEnd(chain.at, b""))
    assert session.position == chain.at
    session.receive(Transactions(5, chain.next(5)))
    assert session.position == chain.at


def test_a_snapshot_of_what_is_there_still() -> None:
    """Nothing was written meanwhile."""
    session = _session(None)
    for message in (SnapshotBegin(AT, 1, 1), _run(1, 1), SnapshotEnd(AT, b"")):
        session.receive(message)
    assert session.position == AT


def test_a_snapshot_that_goes_on() -> None:
    """Only where it was interrupted, and only the same one."""
    session = _session(None, (AT, 4))
    session.receive(SnapshotBegin(AT, 5, 4))
    session.receive(_run(4, 2))
    session.receive(SnapshotEnd(AT, b""))
    other = dataclasses.replace(AT, txid=2)
    for begin in (SnapshotBegin(other, 5, 4), SnapshotBegin(AT, 5, 3), SnapshotBegin(AT, 2, 4)):
        assert _breaks(_session(None, (AT, 4)), begin) is Rule.PAGES
    assert _breaks(_session(None), SnapshotBegin(AT, 5, 4)) is Rule.PAGES


@pytest.mark.parametrize(
    ("begin", "rule"),
    [
        (SnapshotBegin(AT, limits.LTX_COMMIT_MAX_PAGES + 1, 1), Rule.SIZE),
        (SnapshotBegin(AT, 0, 1), Rule.SIZE),
        (SnapshotBegin(AT, 5, 0), Rule.PAGES),
        (SnapshotBegin(Position(5, 1), 5, 1), Rule.HEADER),
        (SnapshotBegin(Position(5, 0, 1), 5, 1), Rule.HEADER),
    ],
)
def test_a_snapshot_that_cannot_be(begin: SnapshotBegin, rule: Rule) -> None:
    """A database of an impossible size, or of no position."""
    assert _breaks(_session(None), begin) is rule


@pytest.mark.parametrize(
    ("run", "rule"),
    [
        (_run(2, 1), Rule.PAGES),
        (_run(1, 6), Rule.PAGES),
        (_run(1, 0), Rule.SIZE),
        (_run(1, limits.STREAM_RUN_MAX_PAGES + 1), Rule.SIZE),
        (dataclasses.replace(_run(1, 2), count=1), Rule.SIZE),
        (SnapshotPages(1, 1, b"\xff\xff\xff\xff" + bytes(9)), Rule.SIZE),
        (SnapshotPages(1, 1, (PAGE_SIZE).to_bytes(4, "little")), Rule.SIZE),
        (SnapshotPages(1, 1, b""), Rule.SIZE),
    ],
)
def test_pages_that_are_not_due(run: SnapshotPages, rule: Rule) -> None:
    """Not the next ones, more than there are, or another size than announced: before anything is
    unpacked."""
    session = _session(None)
    session.receive(SnapshotBegin(AT, 5, 1))
    assert _breaks(session, run) is rule


def test_the_lock_page_is_not_sent() -> None:
    """It is in no run, and the page after it is the next."""
    session = _session(None, (AT, LOCK_PAGE - 2))
    session.receive(SnapshotBegin(AT, LOCK_PAGE + 2, LOCK_PAGE - 2))
    session.receive(_run(LOCK_PAGE - 2, 2))
    session.receive(_run(LOCK_PAGE + 1, 2))
    session.receive(SnapshotEnd(AT, b""))
    spanning = _session(None, (AT, LOCK_PAGE - 2))
    spanning.receive(SnapshotBegin(AT, LOCK_PAGE + 2, LOCK_PAGE - 2))
    assert _breaks(spanning, _run(LOCK_PAGE - 2, 3)) is Rule.PAGES


def _sent(session: FollowSession, begun: Position) -> FollowSession:
    """A session that has all pages of a snapshot."""
    session.receive(SnapshotBegin(begun, 1, 1))
    session.receive(_run(1, 1))
    return session


def test_a_snapshot_that_ends_too_early() -> None:
    """Some pages are missing."""
    session = _session(None)
    session.receive(SnapshotBegin(AT, 2, 1))
    session.receive(_run(1, 1))
    assert _breaks(session, SnapshotEnd(AT, b"")) is Rule.PAGES


def test_a_snapshot_that_ends_elsewhere() -> None:
    """Where it says that it ends is not where its file leads, or leads nowhere."""
    chain = _chain()
    begun, file = chain.at, chain.next(5)
    wrong = dataclasses.replace(chain.at, checksum=1 << 63)
    assert _breaks(_sent(_session(None), begun), SnapshotEnd(wrong, file)) is Rule.CHECKSUM
    assert _breaks(_sent(_session(None), begun), SnapshotEnd(chain.at, b"")) is Rule.CHECKSUM
    assert _breaks(_sent(_session(None), begun), SnapshotEnd(begun, b"", True)) is Rule.ORDER
    skipping = chain.next(5)
    assert _breaks(_sent(_session(None), begun), SnapshotEnd(chain.at, skipping)) is Rule.SKIPPED


@pytest.mark.parametrize("message", [Transactions(5, b""), SnapshotBegin(AT, 1, 1), Rollback(AT)])
def test_not_due_within_a_snapshot(message: Message) -> None:
    """It is sent to its end, or the stream ends."""
    assert _breaks(_sent(_session(None), AT), message) is Rule.ORDER


def test_no_pages_between_the_ends() -> None:
    """Once the first end came, only ends come."""
    chain = _chain()
    session = _sent(_session(None), chain.at)
    file = chain.next(5)
    session.receive(SnapshotEnd(chain.at, file, more=True))
    assert _breaks(session, _run(1, 1)) is Rule.ORDER


# Rollback


def test_a_fork() -> None:
    """It is the last word."""
    session = _session(Position(5, 9, 1 << 63))
    session.receive(Rollback(Position(4, 3, 1 << 63)))
    assert _breaks(session, Heartbeat(AT, 0, 5)) is Rule.ORDER


def test_a_fork_of_nothing() -> None:
    """Who has no data has no branch."""
    assert _breaks(_session(None), Rollback(Position(0, 0))) is Rule.ORDER
