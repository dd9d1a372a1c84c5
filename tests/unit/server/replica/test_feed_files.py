"""Files out of the log: that they continue what was asked for, and what is remembered of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from petsem.model import Position
from petsem.replication.drivers.log_types import LogGap
from petsem.server.replica.feed_files import File, Files, merged
from tests.support.feeding import Source


def test_another_branch(tmp_path: Path) -> None:
    """A file begins with the checksum of the position that was asked for, not with its TXID."""
    source = Source(tmp_path)
    source.change(2)
    files = Files(source.log)
    with pytest.raises(LogGap):
        files.groups(Position(1, 1, 1 << 63), source.end)


async def test_not_beyond_the_end(tmp_path: Path) -> None:
    """What the log has more than may be sent is not sent."""
    source = Source(tmp_path)
    start, end = source.end, source.change(2)
    more = source.change(3)
    files = Files(source.log)
    [group] = files.groups(start, end)
    [file] = await merged(group)
    assert file == File(end, source.log.read(1, 1 << 16)[0].data)
    files.keep(end, more, b"message")
    assert files.kept(end, end) is None
    assert files.kept(end, more) == (more, b"message")
    assert files.kept(start, more) is None


async def test_what_is_remembered(tmp_path: Path) -> None:
    """A few small messages, until the branch changes."""
    files = Files(Source(tmp_path).log)
    ends = [Position(1, txid, txid) for txid in range(100)]
    for end in ends:
        files.keep(end, end, b"small")
    assert [end for end in ends if files.kept(end, ends[-1])] == ends[-16:]
    files.keep(ends[0], ends[1], bytes(1 << 20))
    assert files.kept(ends[0], ends[-1]) is None
    files.forget()
    assert files.kept(ends[-1], ends[-1]) is None
