"""The transaction log: appending, reading, finding, cutting and dropping."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_types import (
    EpochRange,
    LogGap,
    LogRecord,
    RecordInfo,
    RecordTooLarge,
)
from petsem.replication.ltx import HEADER_BYTES, Header, LtxError, Rule, format_name, peek_header
from petsem.replication.segment import HEADER_BYTES as RECORD_HEADER
from petsem.replication.segment import ORIGIN
from tests.support.ltx_files import Chain
from tests.unit.replication.drivers.log_support import (
    SMALL,
    all_files,
    contents,
    filled,
    opened,
    segment_files,
)


def test_a_new_log_has_nothing(tmp_path: Path) -> None:
    """Not even a base, and not a file."""
    log = opened(tmp_path)
    assert (log.base, log.end, log.synced, log.oldest_ms) == (None, None, None, None)
    assert (log.gaps, log.segments, log.epochs(), log.size_bytes) == ((), (), (), 0)
    assert (log.position_of(0), log.info_at(1), log.record_at(1)) == (None, None, None)
    with pytest.raises(LogGap):
        log.read(0, 1 << 16)
    log.sync()
    log.close()
    assert all_files(tmp_path) == {}


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    """In order, over several segments, as whole values, and again after it was closed."""
    log, chain = opened(tmp_path), Chain()
    files, ends = [], []
    for _ in range(40):
        files.append(chain.next(3))
        ends.append(chain.at)
        log.append(3, files[-1])
    assert (log.base, log.end) == (ORIGIN, ends[-1])
    assert len(segment_files(tmp_path)) > 2
    for _ in range(2):
        assert contents(log) == files
        first, *_ = log.read(6, 1 << 16)
        assert first == LogRecord(3, 7, 7, ends[5].checksum or 0, ends[6].checksum or 0, files[6])
        assert first.position == ends[6]
        assert log.record_at(7) == first
        assert log.info_at(7) == RecordInfo(ends[5], ends[6], len(files[6]), 7_000)
        assert [info.after for info in log.infos(30)] == ends[30:]
        assert [log.position_of(txid) for txid in range(1, 41)] == ends
        assert log.read(40, 1 << 16) == []
        log.close()
        log = opened(tmp_path)
    assert log.synced == log.end == ends[-1]


def test_a_read_is_bounded(tmp_path: Path) -> None:
    """By bytes of the log; a first record that alone is longer is not read at all."""
    log, chain = opened(tmp_path), Chain()
    files = [chain.next(size=600) for _ in range(3)]
    for data in files:
        log.append(1, data)
    record = RECORD_HEADER + -(-len(files[0]) // 8) * 8
    assert len(log.read(0, record)) == 1
    assert len(log.read(0, 2 * record - 9)) == 1
    assert len(log.read(0, 2 * record)) == 2
    for too_few in (RECORD_HEADER + len(files[0]) - 1, 1, 0):
        with pytest.raises(RecordTooLarge) as caught:
            log.read(0, too_few)
        assert caught.value.record == log.info_at(1)
    with pytest.raises(RecordTooLarge):
        log.record_at(1, len(files[0]) - 1)
    assert log.record_at(1, len(files[0])) is not None
    assert b"".join(log.chunks(1, 100)) == files[0]
    assert max(map(len, log.chunks(1, 100))) == 100


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    """Before the base, beyond the end and inside a record nothing follows."""
    log, chain = opened(tmp_path), Chain(Position(1, 10, 1 << 63))
    log.reset(chain.at)
    filled(log, chain, 2)
    log.append(1, chain.next(count=5))
    for txid in (0, 9, 13, 16, 18, 1000):
        with pytest.raises(LogGap):
            log.read(txid, 1 << 16)
    assert [log.position_of(txid) is None for txid in (9, 10, 12, 13, 16, 17, 18)] == [
        True,
        False,
        False,
        True,
        True,
        False,
        True,
    ]
    assert log.record_at(10) is None
    assert log.record_at(18) is None
    inside = log.record_at(15)
    assert inside is not None
    assert (inside.min_txid, inside.max_txid) == (13, 17)
    with pytest.raises(LogGap):
        list(log.chunks(18))


def test_what_does_not_follow_is_refused(tmp_path: Path) -> None:
    """A skipped or repeated TXID, another branch, and an epoch that goes back; nothing changes."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 3, epoch=2)
    other = Chain(Position(2, 3, (1 << 63) + 1))
    skipped = Chain(chain.at)
    skipped.next()
    for epoch, data in (
        (2, skipped.next()),
        (2, files[-1]),
        (2, other.next()),
        (1, Chain(chain.at).next()),
        (2, Chain().next()),
    ):
        with pytest.raises(LogGap):
            log.append(epoch, data)
        with pytest.raises(LogGap):
            log.append_stream(epoch, peek_header(data), (data,))
    assert contents(log) == files
    log.append(2, chain.next(2))


def test_a_log_without_a_base_begins_with_a_snapshot(tmp_path: Path) -> None:
    """Anything else would follow nothing."""
    log = opened(tmp_path)
    with pytest.raises(LogGap):
        log.append(1, Chain(Position(1, 10, 1 << 63)).next())
    snapshot = Chain().next(4, count=10)
    log.append(4, snapshot)
    assert (log.base, contents(log)) == (ORIGIN, [snapshot])
    assert log.end is not None
    assert (log.end.epoch, log.end.txid) == (4, 10)


def test_a_file_without_checksums_is_refused(tmp_path: Path) -> None:
    """The chain would end there."""
    header = Header(2, 4096, 1, 1, 1, 0, 0)
    with pytest.raises(LogGap):
        opened(tmp_path).append(1, header.encode() + bytes(100))


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """Header and trailer at least."""
    log = opened(tmp_path)
    data = Chain().next()
    for short in (b"", data[:99], data[:115]):
        with pytest.raises(LtxError) as caught:
            log.append(1, short)
        assert caught.value.rule is Rule.TRUNCATED
    with pytest.raises(LtxError):
        log.append_stream(1, peek_header(data), (data[:115],))
    assert all_files(tmp_path) == {}


def test_a_reset_log_is_empty_at_its_base(tmp_path: Path) -> None:
    """Also after it was closed; what was there is gone, and what follows can be appended."""
    log, chain = opened(tmp_path), Chain()
    filled(log, chain, 40)
    base = Position(7, 500, (1 << 63) + 5)
    log.reset(base)
    assert (log.base, log.end, log.synced, log.read(500, 1)) == (base, base, base, [])
    assert len(segment_files(tmp_path)) == 1
    log.close()
    log = opened(tmp_path)
    assert (log.base, log.end, log.report.damage) == (base, base, [])
    files = filled(log, Chain(base), 3, epoch=7)
    assert contents(log) == files
    log.reset()
    assert (log.base, log.end) == (ORIGIN, ORIGIN)


def test_a_snapshot_begins_an_empty_log_anew(tmp_path: Path) -> None:
    """Wherever the empty log stood."""
    log = opened(tmp_path)
    log.reset(Position(7, 500, (1 << 63) + 5))
    chain = Chain()
    snapshot = chain.next(8, count=600)
    log.append(8, snapshot)
    files = filled(log, chain, 20, epoch=8)
    for _ in range(2):
        assert (log.base, contents(log)) == (ORIGIN, [snapshot, *files])
        log.close()
        log = opened(tmp_path)


def test_a_record_longer_than_a_segment(tmp_path: Path) -> None:
    """It gets a segment of its own size, and the log goes on."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 2)
    files.append(chain.next(size=10 * SMALL))
    log.append(1, files[-1])
    files += filled(log, chain, 2)
    log.close()
    log = opened(tmp_path)
    assert contents(log) == files
    sizes = [path.stat().st_size for path in segment_files(tmp_path)]
    assert sizes[1] > len(files[2])
    assert (sizes[0] < SMALL, sizes[2]) == (True, SMALL)


def test_a_streamed_file(tmp_path: Path) -> None:
    """The same bytes as one that was appended, on the disk at once, in chunks of any size."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 2)
    files.append(chain.next(size=5 * SMALL))
    data = files[-1]
    chunks = (data[at : at + 77] for at in range(0, len(data), 77))
    log.append_stream(1, peek_header(data), chunks)
    assert log.synced == log.end == chain.at
    files += filled(log, chain, 2)
    assert contents(log) == files
    log.close()
    assert contents(opened(tmp_path)) == files


def test_a_stream_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    """Whether it fails or is another file than it was said to be."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 2)
    data = chain.next(size=SMALL)
    header = peek_header(data)

    def broken() -> object:
        yield data[:500]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        log.append_stream(1, header, broken())  # type: ignore[arg-type]
    other = data[: HEADER_BYTES - 1] + b"\1" + data[HEADER_BYTES:]
    with pytest.raises(LtxError):
        log.append_stream(1, header, (other,))
    changed = Header.parse(data[:100])
    for name in ("max_txid", "timestamp_ms"):
        with pytest.raises(LtxError):
            log.append_stream(1, _with(changed, name), (data,))
    assert contents(log) == files
    assert not list(tmp_path.glob("*.tmp"))
    log.append(1, data)
    assert contents(log) == [*files, data]


def _with(header: Header, name: str) -> Header:
    import dataclasses

    return dataclasses.replace(header, **{name: getattr(header, name) + 1})


def test_epochs(tmp_path: Path) -> None:
    """Ranges of transactions, over segments that hold one epoch or several."""
    log, chain = opened(tmp_path), Chain()
    assert log.epochs() == ()
    for epoch, count in ((1, 30), (2, 1), (5, 3), (6, 30)):
        filled(log, chain, count, epoch)
    expected = (
        EpochRange(1, 1, 30),
        EpochRange(2, 31, 31),
        EpochRange(5, 32, 34),
        EpochRange(6, 35, 64),
    )
    assert log.epochs() == expected
    log.close()
    assert opened(tmp_path).epochs() == expected


def test_dropping_what_all_have(tmp_path: Path) -> None:
    """Whole segments only, never the last, and the base moves to where the rest begins."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 60)
    log.sync()
    segments = log.segments
    assert len(segments) > 3
    log.drop_before(segments[0].end.txid - 1)
    assert log.segments == segments
    log.drop_before(segments[2].end.txid - 1)
    assert log.segments == segments[2:]
    assert (log.base, log.oldest_ms) == (segments[2].base, segments[2].oldest_ms)
    assert log.oldest_ms == 1_000 * (segments[2].base.txid + 1)
    assert contents(log) == files[segments[2].base.txid :]
    log.drop_before(1_000)
    assert log.segments == segments[-1:]
    assert len(segment_files(tmp_path)) == 1
    log.close()
    log = opened(tmp_path)
    assert (log.base, log.gaps) == (segments[-1].base, ())
    assert contents(log) == files[segments[-1].base.txid :]


def test_size_on_disk(tmp_path: Path) -> None:
    """What the files take, preallocated room of the growing one included."""
    log, chain = opened(tmp_path), Chain()
    filled(log, chain, 40)

    def on_disk() -> int:
        return sum(path.stat().st_size for path in segment_files(tmp_path))

    assert log.size_bytes == on_disk() > 2 * SMALL
    log.close()
    log = opened(tmp_path)
    assert log.size_bytes == on_disk()
    log.cut_after(log.segments[0].end)
    assert log.size_bytes == on_disk() < SMALL


@pytest.mark.parametrize("keep", [0, 1, 5, 12, 13, 14, 25, 39, 40])
def test_cutting(tmp_path: Path, keep: int) -> None:
    """What follows the position is gone, on the disk too, and another branch can follow."""
    log, chain = opened(tmp_path), Chain()
    ends = [ORIGIN]
    files = []
    for _ in range(40):
        files += filled(log, chain, 1)
        ends.append(chain.at)
    log.cut_after(ends[keep])
    assert (log.end, log.synced) == (ends[keep], ends[keep] if keep < 40 else log.synced)
    assert contents(opened(_copied(tmp_path))) == contents(log) == files[:keep]
    branch = filled(log, Chain(ends[keep], seed=9), 20, epoch=2)
    log.close()
    log = opened(tmp_path)
    assert (contents(log), log.gaps, log.report.damage) == (files[:keep] + branch, (), [])


def _copied(directory: Path) -> Path:
    """What another process would find there now."""
    import shutil

    target = directory.with_name(f"{directory.name}-copy")
    return shutil.copytree(directory, target)


def test_cutting_after_a_position_that_is_not_here(tmp_path: Path) -> None:
    """Another checksum, another epoch, inside a record, before the base: nothing is cut."""
    log, chain = opened(tmp_path), Chain(Position(1, 10, 1 << 63))
    log.reset(chain.at)
    files = filled(log, chain, 3)
    here = log.position_of(12)
    assert here is not None
    for other in (
        Position(1, 12, (1 << 63) + 1),
        Position(2, 12, here.checksum),
        Position(1, 9, 1 << 63),
        Position(1, 14, 1 << 63),
    ):
        with pytest.raises(LogGap):
            log.cut_after(other)
    assert contents(log) == files
    log.cut_after(Position(1, 12))
    assert contents(log) == files[:2]


def test_saving_a_branch(tmp_path: Path) -> None:
    """As files under the names of the public tool; nothing is overwritten."""
    (tmp_path / "ltx").mkdir()
    log, chain = opened(tmp_path / "ltx"), Chain()
    files = filled(log, chain, 20)
    files.append(chain.next(count=5))
    log.append(1, files[-1])
    saved = log.copy_range(17, tmp_path / "lost")
    assert [path.name for path in saved] == [
        format_name(18, 18),
        format_name(19, 19),
        format_name(20, 20),
        format_name(21, 25),
    ]
    assert [path.read_bytes() for path in saved] == files[17:]
    assert all_files(tmp_path / "lost").keys() == {path.name for path in saved}
    with pytest.raises(FileExistsError):
        log.copy_range(18, tmp_path / "lost")
    assert log.copy_range(25, tmp_path / "none") == []


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """A reader beside a node that appends sees what is there and leaves every byte alone."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 30)
    (tmp_path / "x.tmp").write_bytes(b"unfinished")
    before = all_files(tmp_path)
    for thorough in (False, True):
        reader = LogReader.open_read_only(tmp_path, thorough=thorough)
        assert (contents(reader), reader.gaps, reader.report.damage) == (files, (), [])
        assert (reader.base, reader.end) == (log.base, log.end)
    assert all_files(tmp_path) == before
    filled(log, chain, 1)
    assert len(contents(LogReader.open_read_only(tmp_path))) == 31


def test_reading_beside_a_writer(tmp_path: Path) -> None:
    """While another thread appends, syncs, cuts and drops, a reader gets right records or a gap."""
    log, chain = opened(tmp_path), Chain()
    filled(log, chain, 30)
    problems: list[object] = []
    done = threading.Event()

    def read() -> None:
        at = 0
        while not done.is_set():
            try:
                records = log.read(at, 2_000)
                end = log.end
                assert end is not None
                at = records[-1].max_txid if records else max(0, end.txid - 20)
                for record in records:
                    header = peek_header(record.data)
                    assert (header.min_txid, header.max_txid) == (record.min_txid, record.max_txid)
                log.position_of(at)
                log.record_at(at)
            except LogGap:
                at = log.segments[0].base.txid
            except BaseException as error:
                problems.append(error)
                raise

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        filled(log, chain, 9)
        log.sync()
        if turn % 3 == 0 and log.end is not None:
            fork = log.position_of(log.end.txid - 14)
            assert fork is not None
            log.cut_after(fork)
            chain = Chain(fork, seed=turn)
        if turn % 7 == 0 and log.end is not None:
            log.drop_before(log.end.txid - 30)
    done.set()
    reader.join()
    assert problems == []


def test_a_cut_under_a_reader(tmp_path: Path) -> None:
    """What is gone meanwhile is a gap and no damage; what was dropped is read to its end."""
    log, chain = opened(tmp_path), Chain()
    files = filled(log, chain, 2)
    fork = chain.at
    log.append(1, chain.next(size=2_000))
    reading = log.chunks(3, 100)
    next(reading)
    log.cut_after(fork)
    with pytest.raises(LogGap):
        list(reading)
    filled(log, Chain(fork), 30)
    reading = log.chunks(2, 50)
    start = next(reading)
    log.drop_before(30)
    assert log.record_at(2) is None
    assert start + b"".join(reading) == files[1]


def test_a_log_with_other_files_beside_it(tmp_path: Path) -> None:
    """They are neither read nor removed."""
    (tmp_path / "note").write_text("x")
    (tmp_path / "0-0.seg").write_text("x")
    log = opened(tmp_path)
    filled(log, Chain(), 3)
    log.close()
    assert opened(tmp_path).end is not None
    assert (tmp_path / "note").read_text() == (tmp_path / "0-0.seg").read_text() == "x"


def test_files_are_private(tmp_path: Path) -> None:
    """Segments, what is saved from them, and what is copied out."""
    log = opened(tmp_path)
    filled(log, Chain(), 3)
    log.copy_range(0, tmp_path / "lost")
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_it_never_opens_more_files_than_it_needs(tmp_path: Path) -> None:
    """However many segments there are: the growing one, and one for each reading."""
    log = opened(tmp_path)
    filled(log, Chain(), 200)
    assert len(segment_files(tmp_path)) > 10
    list(log.infos())
    fds = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert [path for path in fds if path.parent == tmp_path.resolve()] == [
        segment_files(tmp_path)[-1].resolve()
    ]
    assert isinstance(log, TransactionLog)
