"""What has arrived and is not stored yet."""

from __future__ import annotations

import asyncio

import pytest

from petsem import limits
from petsem.replication.session.from_leader import SnapshotPages, Transactions
from petsem.server.replica.inbox import Inbox

FILE = Transactions(1, b"a")
RUN = SnapshotPages(1, 1, b"b")


async def test_in_order() -> None:
    """Transactions side by side come out together, the rest one by one, the end last."""
    inbox = Inbox()
    for item in (FILE, FILE, RUN, RUN, FILE):
        inbox.put(item)
    inbox.end(ValueError("first"))
    inbox.end(ValueError("second"))
    found = [await inbox.next() for _ in range(4)]
    assert found == [[(1, b"a")] * 2, RUN, RUN, [(1, b"a")]]
    with pytest.raises(ValueError, match="first"):
        await inbox.next()


async def test_batches_are_bounded() -> None:
    """A file that is longer than a batch may be comes alone."""
    inbox = Inbox()
    half = Transactions(1, bytes(limits.FOLLOW_BATCH_MAX_BYTES // 2))
    long = Transactions(1, bytes(limits.FOLLOW_BATCH_MAX_BYTES + 1))
    for item in (half, half, half, long):
        inbox.put(item)
    lengths = []
    for _ in range(3):
        batch = await inbox.next()
        assert isinstance(batch, list)
        lengths.append(len(batch))
    assert lengths == [2, 1, 1]


async def test_it_waits() -> None:
    """For something to come, and for room."""
    inbox = Inbox()
    taking = asyncio.create_task(inbox.next())
    await asyncio.sleep(0)
    assert not taking.done()
    inbox.put(RUN)
    assert await taking == RUN
    big = SnapshotPages(1, 1, bytes(limits.FOLLOW_INBOX_MAX_BYTES // 2))
    inbox.put(big)
    await inbox.room()
    inbox.put(big)
    assert inbox.full
    waiting = asyncio.create_task(inbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await inbox.next()
    await waiting
    assert not inbox.full
