"""What a crash tore is cut; what was synced and does not hold any more is never cut silently."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from fastcrc import crc64

from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_recovery import Damage
from petsem.replication.drivers.log_types import DamagedRecord, Gap, LogGap
from petsem.replication.ltx import LtxError
from petsem.replication.segment import (
    HEADER_BYTES,
    ORIGIN,
    Kind,
    RecordHeader,
    SegmentName,
    point,
    span,
)
from tests.support.ltx_files import Chain
from tests.unit.replication.drivers.log_support import (
    SMALL,
    Quick,
    all_files,
    alter,
    contents,
    everything,
    filled,
    flip,
    opened,
    segment_files,
)

QUICK = Quick()


def quick(directory: Path, durable_txid: int = 0) -> TransactionLog:
    return opened(directory, ops=QUICK, durable_txid=durable_txid)


def offsets(path: Path) -> list[tuple[int, RecordHeader]]:
    """Offset and header of each record of the segment."""
    name = SegmentName.parse(path.name)
    assert name is not None
    data, at = path.read_bytes(), HEADER_BYTES
    found: list[tuple[int, RecordHeader]] = []
    while True:
        try:
            header = RecordHeader.parse(data[at : at + HEADER_BYTES], name.number, at)
        except ValueError:
            return found
        if header.kind is not Kind.DATA:
            return found
        found.append((at, header))
        at += header.span


Tear = Callable[[bytes, bytes, int, int, int], bytes]
"""Old bytes of the file, new ones, start and end of what was not synced, and where it tore."""


def _cut_short(_: bytes, new: bytes, __: int, ___: int, at: int) -> bytes:
    return new[:at]


def _zero_behind(_: bytes, new: bytes, __: int, end: int, at: int) -> bytes:
    return new[:at] + bytes(end - at) + new[end:]


def _zero_before(_: bytes, new: bytes, start: int, __: int, at: int) -> bytes:
    return new[:start] + bytes(at - start) + new[at:]


def _old_behind(old: bytes, new: bytes, _: int, __: int, at: int) -> bytes:
    return new[:at] + old[at:]


def _old_before(old: bytes, new: bytes, _: int, __: int, at: int) -> bytes:
    return old[:at] + new[at:]


def _noise_behind(_: bytes, new: bytes, __: int, end: int, at: int) -> bytes:
    return new[:at] + random.Random(at).randbytes(end - at) + new[end:]


@pytest.mark.parametrize(
    "tear", [_cut_short, _zero_behind, _zero_before, _old_behind, _old_before, _noise_behind]
)
@pytest.mark.parametrize("synced", [0, 2])
def test_a_tail_torn_at_every_byte(tmp_path: Path, synced: int, tear: Tear) -> None:
    """It is cut at the record that is torn, nothing is reported as damage, and the log goes on."""
    log, chain = quick(tmp_path), Chain()
    files = filled(log, chain, synced)
    if not synced:
        log.reset()
    log.sync()
    (path,) = segment_files(tmp_path)
    old = path.read_bytes()
    files += filled(log, chain, 2)
    new = path.read_bytes()
    (start, _), (last, header) = offsets(path)[synced:]
    end = last + header.span
    following = chain.next()
    for at in range(start, end + 1):
        path.unlink(missing_ok=True)
        for each in segment_files(tmp_path):
            each.unlink()
        path.write_bytes(tear(old, new, start, end, at))
        log = quick(tmp_path)
        found = contents(log)
        assert found == files[: len(found)]
        whole = synced + (at >= last) + (at >= end)
        # Torn from the front, all of a record may be there, or a record and nothing before it.
        front = tear in (_zero_before, _old_before)
        assert len(found) >= synced if front else len(found) >= whole
        assert log.report.damage == []
        if len(found) == len(files):
            log.append(1, following)
            log.sync()
            assert contents(quick(tmp_path)) == [*files, following]
        else:
            log.append(1, files[len(found)])
            log.sync()
            again = quick(tmp_path)
            assert (contents(again), again.report.torn_bytes) == (files[: len(found) + 1], 0)
        assert not (tmp_path / "quarantine").exists()


def test_what_was_written_but_not_synced_is_kept(tmp_path: Path) -> None:
    """A killed process loses nothing that it wrote, and the next one syncs it before it says so."""
    log, chain = quick(tmp_path), Chain()
    files = filled(log, chain, 20)
    synced: list[str] = []

    class Watching(Quick):
        def fsync(self, fd: int) -> None:
            synced.append(Path(f"/proc/self/fd/{fd}").resolve().name)

        def fsync_directory(self, path: Path) -> None:
            synced.append(path.name)

    again = opened(tmp_path, ops=Watching())
    assert (contents(again), again.synced) == (files, chain.at)
    assert synced == [segment_files(tmp_path)[-1].name, tmp_path.name]


def test_the_growing_segment_goes_on_growing(tmp_path: Path) -> None:
    """A start does not begin a new one."""
    chain = Chain()
    for _ in range(5):
        log = quick(tmp_path)
        filled(log, chain, 1)
        log.close()
    assert len(segment_files(tmp_path)) == 1


def test_the_bytes_of_another_segment_are_no_records(tmp_path: Path) -> None:
    """As they may lie in space that a file system hands out again."""
    log = quick(tmp_path)
    filled(log, Chain(), 3)
    (path,) = segment_files(tmp_path)
    stale = path.read_bytes()
    path.unlink()
    reused = tmp_path / str(SegmentName(0, 2))
    reused.write_bytes(point(Kind.BASE, ORIGIN).encode(2, 0) + stale[HEADER_BYTES:])
    log = quick(tmp_path)
    assert (contents(log), log.end, log.report.damage) == ([], ORIGIN, [])
    assert log.report.torn_bytes > 0


def test_a_record_that_does_not_follow_is_none(tmp_path: Path) -> None:
    """An older one of the same place, left behind a shorter new one, is not taken for the next."""
    log, chain = quick(tmp_path), Chain()
    files = filled(log, chain, 2)
    (path,) = segment_files(tmp_path)
    stray = Chain(Position(1, 2, (1 << 63) + 1))
    data = stray.next()
    stale = RecordHeader(
        Kind.DATA,
        1,
        1,
        len(data),
        3,
        3,
        (1 << 63) + 1,
        stray.at.checksum or 0,
        0,
        HEADER_BYTES,
        crc64.xz(data),
    )
    end = sum(span(len(each)) for each in files) + HEADER_BYTES
    alter(path, end, stale.encode(1, end) + data)
    log = quick(tmp_path)
    assert (contents(log), log.end, log.report.damage) == (files, chain.at, [])
    assert log.report.torn_bytes == len((stale.encode(1, end) + data).rstrip(b"\0"))


def test_a_cut_leaves_nothing_behind(tmp_path: Path) -> None:
    """Not a byte of what was dropped, so that nothing of it can come back."""
    log, chain = quick(tmp_path), Chain()
    filled(log, chain, 3)
    fork = chain.at
    dropped = filled(log, chain, 3)
    log.cut_after(fork)
    filled(log, Chain(fork, seed=1), 1, epoch=2)
    left = b"".join(all_files(tmp_path).values())
    assert [data[40:120] in left for data in dropped] == [False] * 3


def regions(directory: Path) -> list[tuple[str, Path, int]]:
    """Byte by byte, what each byte of the log is."""
    found = []
    paths = segment_files(directory)
    for place, path in zip(
        ("first", "middle", "last"), (paths[0], paths[1], paths[-1]), strict=True
    ):
        records = offsets(path)
        at = 0
        for i, (offset, header) in enumerate([*records, (path.stat().st_size, None)]):
            if header is None:
                found += [(f"{place} rest", path, each) for each in range(at, offset)]
                break
            found += [(f"{place} base", path, each) for each in range(at, offset)]
            data = offset + HEADER_BYTES
            end = data + header.length
            which = "last" if i == len(records) - 1 else "other"
            found += [(f"{place} {which} header", path, each) for each in range(offset, data)]
            found += [(f"{place} {which} data", path, each) for each in range(data, end)]
            at = offset + header.span
            found += [(f"{place} padding", path, each) for each in range(end, at)]
    return found


def three_segments(directory: Path) -> list[bytes]:
    """A log that was closed in order, the last segment half full."""
    log, chain = quick(directory), Chain()
    files = filled(log, chain, 4)
    while len(segment_files(directory)) < 3 or len(files) % 5:
        files += filled(log, chain, 1)
    log.close()
    return files


def restore(directory: Path, was: dict[str, bytes]) -> None:
    """Put the files of the directory back as they were."""
    for name in all_files(directory):
        (directory / name).unlink()
    for name, data in was.items():
        (directory / name).write_bytes(data)


def test_a_flipped_byte_anywhere(tmp_path: Path) -> None:
    """Nothing that was synced is missing without being reported, and one record at most is."""
    files = three_segments(tmp_path)
    was = all_files(tmp_path)
    noise = random.Random(1)
    lost: dict[str, int] = {}
    for what, path, offset in regions(tmp_path):
        if noise.random() > 0.04:
            continue
        restore(tmp_path, was)
        flip(path, offset, noise.randrange(8))
        log = quick(tmp_path)
        found, damage = everything(log)
        missing = [i for i in range(1, len(files) + 1) if i not in found]
        assert found == {i: data for i, data in enumerate(files, 1) if i not in missing}
        assert len(missing) <= 1, (what, offset)
        if missing:
            told = [
                txid
                for each in damage
                for txid in range(each.after_txid + 1, (each.until_txid or len(files)) + 1)
            ]
            assert told == missing, (what, offset)
        if "rest" in what:
            # Zeros, index, seal or mark: nobody lost anything.
            assert damage == [], (what, offset)
        lost[what] = lost.get(what, 0) + len(missing)
        # And what was mended stays mended.
        again = quick(tmp_path)
        assert (everything(again), again.report.torn_bytes) == ((found, []), 0), (what, offset)
        assert [gap.until.txid for gap in again.gaps] == [
            txid for txid in missing if txid != len(files)
        ]
    for what, count in lost.items():
        assert (count > 0) == ("data" in what or " header" in what), what


@pytest.mark.parametrize("size", [0, 3 * SMALL])
def test_damage_to_the_last_record_needs_the_mark(tmp_path: Path, size: int) -> None:
    """Without it only the caller's word tells damage from a tear; a full segment has one too."""
    log, chain = quick(tmp_path), Chain()
    files = filled(log, chain, 2)
    files.append(chain.next(size=size))
    log.append(1, files[-1])
    log.sync()
    path = segment_files(tmp_path)[-1]
    *_, (last, header) = offsets(path)
    was = all_files(tmp_path)
    flip(path, last + HEADER_BYTES + 30)
    log = quick(tmp_path)
    assert (contents(log), len(log.report.damage)) == (files[:2], 1)
    for durable_txid, damaged in ((0, 0), (2, 0), (3, 1)):
        restore(tmp_path, was)
        flip(path, last + HEADER_BYTES + 30)
        alter(path, last + header.span, bytes(HEADER_BYTES))
        log = quick(tmp_path, durable_txid)
        assert (contents(log), len(log.report.damage)) == (files[:2], damaged)
        assert (log.report.torn_bytes > 0) == (not damaged)


def test_a_start_marks_what_it_synced(tmp_path: Path) -> None:
    """What a killed process wrote without syncing counts as synced from then on."""
    files = filled(quick(tmp_path), Chain(), 3)
    quick(tmp_path)
    (path,) = segment_files(tmp_path)
    flip(path, offsets(path)[-1][0] + HEADER_BYTES)
    log = quick(tmp_path)
    assert (contents(log), len(log.report.damage)) == (files[:2], 1)


def test_damage_keeps_its_bytes_and_says_what_is_lost(tmp_path: Path) -> None:
    """A record in the middle: its bytes go to quarantine, what is behind it stays."""
    log, chain = quick(tmp_path), Chain()
    files, ends = [], []
    for _ in range(9):
        files += filled(log, chain, 1)
        ends.append(chain.at)
    log.sync()
    (path,) = segment_files(tmp_path)
    offset, header = offsets(path)[4]
    flip(path, offset + HEADER_BYTES + 100)
    damaged = path.read_bytes()[offset : offset + header.span]
    for first_look in (True, False):
        log = quick(tmp_path)
        saved = tmp_path / "quarantine" / f"{path.name}-{offset:x}"
        damage = Damage(path.name, offset, header.span, 4, 5, saved)
        assert log.report.damage == ([damage] if first_look else [])
        assert saved.read_bytes() == damaged
        assert log.gaps == (Gap(ends[3], ends[4]),)
        assert (log.end, contents(log), contents(log, 5)) == (ends[8], files[:4], files[5:])
        assert [log.position_of(txid) for txid in range(3, 7)] == ends[2:6]
        assert (log.record_at(5), log.info_at(5)) == (None, None)
        with pytest.raises(LogGap):
            log.read(4, 1 << 16)
        log.close()
    log = quick(tmp_path)
    files += filled(log, chain, 3)
    assert contents(log, 5) == files[5:]


def test_damage_met_while_reading(tmp_path: Path) -> None:
    """In a finished segment it is found by whoever reads it, with the position before it."""
    files = three_segments(tmp_path)
    path = segment_files(tmp_path)[0]
    (_, before), (offset, header) = offsets(path)[2:4]
    flip(path, offset + 20)
    log = quick(tmp_path)
    assert (log.report.damage, log.gaps) == ([], ())
    assert [record.data for record in log.read(0, 1 << 16)] == files[:3]
    for read in (
        lambda: log.read(3, 1 << 16),
        lambda: log.record_at(4),
        lambda: log.record_at(5),
        lambda: list(log.infos()),
        lambda: list(log.chunks(4)),
    ):
        with pytest.raises(DamagedRecord) as caught:
            read()
        assert (caught.value.position, caught.value.txid) == (before.after, 4)
    (damage,) = log.quarantine(4)
    assert (damage.after_txid, damage.until_txid, damage.length) == (3, 4, header.span)
    assert everything(log)[0] == {i: data for i, data in enumerate(files, 1) if i != 4}
    assert log.quarantine(3) == ()
    with pytest.raises(LogGap):
        log.quarantine(4)


def test_damage_in_the_growing_segment_while_it_is_used(tmp_path: Path) -> None:
    """The log ends before it if it was last, and goes on."""
    log, chain = quick(tmp_path), Chain()
    files = filled(log, chain, 3)
    end = chain.at
    last = filled(log, chain, 1)
    (path,) = segment_files(tmp_path)
    flip(path, offsets(path)[3][0] + HEADER_BYTES)
    with pytest.raises(DamagedRecord):
        log.read(3, 1 << 16)
    (damage,) = log.quarantine(4)
    assert (damage.after_txid, damage.until_txid) == (3, None)
    assert (log.end, log.synced, contents(log)) == (end, end, files)
    log.append(1, last[0])
    assert contents(log) == files + last


def test_a_gap_is_filled(tmp_path: Path) -> None:
    """In one piece or in several; what does not fit it is refused."""
    files = three_segments(tmp_path)
    path = segment_files(tmp_path)[1]
    first = SegmentName.parse(path.name)
    assert first is not None
    path.write_bytes(bytes(path.stat().st_size))
    log = quick(tmp_path)
    (gap,) = log.gaps
    (damage,) = log.report.damage
    assert gap.after.txid == damage.after_txid == first.base_txid
    assert damage.until_txid == gap.until.txid
    missing = files[gap.after.txid : gap.until.txid]
    with pytest.raises(LogGap):
        log.fill([(1, missing[1])])
    with pytest.raises(LogGap):
        log.fill([(1, files[0])])
    with pytest.raises(LogGap):
        log.fill([(1, missing[0]), (1, missing[2])])
    with pytest.raises(LogGap):
        log.fill([(1, data) for data in files[gap.after.txid : gap.until.txid + 1]])
    with pytest.raises(LogGap):
        log.fill([(1, Chain(gap.after, seed=7).next(count=len(missing)))])
    with pytest.raises(LogGap):
        log.fill([(0, missing[0])])
    with pytest.raises(LtxError):
        log.fill([(1, missing[0][:115])])
    assert log.gaps == (gap,)
    log.fill([(1, missing[0])])
    assert log.gaps[0].after.txid == gap.after.txid + 1
    log.fill([(1, data) for data in missing[1:]])
    for _ in range(2):
        assert (log.gaps, contents(log)) == ((), files)
        log.close()
        log = quick(tmp_path)
    assert log.report.damage == []


def test_a_gap_is_cut_or_dropped(tmp_path: Path) -> None:
    """By whoever has no need of what is behind it, or before it."""
    files = three_segments(tmp_path)
    was = all_files(tmp_path)
    path = segment_files(tmp_path)[1]
    path.write_bytes(bytes(path.stat().st_size))
    log = quick(tmp_path)
    (gap,) = log.gaps
    log.cut_after(gap.after)
    assert (log.gaps, log.end, contents(log)) == ((), gap.after, files[: gap.after.txid])
    restore(tmp_path, was)
    path.write_bytes(bytes(path.stat().st_size))
    log = quick(tmp_path)
    log.drop_before(gap.until.txid)
    assert (log.gaps, log.base, contents(log)) == ((), gap.until, files[gap.until.txid :])


def test_a_segment_that_is_gone_is_a_gap(tmp_path: Path) -> None:
    """Nothing damaged is there to report, but it shows."""
    files = three_segments(tmp_path)
    paths = segment_files(tmp_path)
    paths[1].unlink()
    log = quick(tmp_path)
    after = SegmentName.parse(paths[1].name)
    until = SegmentName.parse(paths[2].name)
    assert after is not None
    assert until is not None
    assert [(gap.after.txid, gap.until.txid) for gap in log.gaps] == [
        (after.base_txid, until.base_txid)
    ]
    assert contents(log) == files[: after.base_txid]


def test_what_is_left_of_a_reset_is_removed(tmp_path: Path) -> None:
    """A crash after the new segment has its name and before the old ones are gone."""
    log = quick(tmp_path)
    filled(log, Chain(), 40)
    old = all_files(tmp_path)
    base = Position(3, 20, 1 << 63)
    log.reset(base)
    files = filled(log, Chain(base), 3, epoch=3)
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    for seen in (LogReader.open_read_only(tmp_path), quick(tmp_path)):
        assert (seen.base, contents(seen), seen.gaps) == (base, files, ())
    assert len(segment_files(tmp_path)) == 1


def test_a_number_is_never_used_again(tmp_path: Path) -> None:
    """Not even that of a segment of which only quarantine knows."""
    files = three_segments(tmp_path)
    for path in segment_files(tmp_path):
        path.write_bytes(bytes(SMALL))
    log = quick(tmp_path)
    assert (log.base, log.end, len(log.report.damage)) == (None, None, 3)
    assert segment_files(tmp_path) == []
    for _ in range(2):
        log.append(1, files[0])
        (path,) = segment_files(tmp_path)
        assert path.name.endswith("-00000004.seg")
        log.close()
        path.unlink()
        log = quick(tmp_path)


def test_what_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that answers with an error is as good as one that answers wrongly."""
    import errno
    import os

    files = three_segments(tmp_path)
    path = segment_files(tmp_path)[0]
    offset, _ = offsets(path)[3]
    real = os.pread

    def failing(fd: int, length: int, at: int) -> bytes:
        inside = at < offset + HEADER_BYTES + 50 and at + length > offset + HEADER_BYTES
        if inside and Path(f"/proc/self/fd/{fd}").resolve() == path:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, length, at)

    monkeypatch.setattr(os, "pread", failing)
    log = quick(tmp_path)
    found, damage = everything(log)
    assert found == {i: data for i, data in enumerate(files, 1) if i != 4}
    assert [(each.after_txid, each.until_txid) for each in damage] == [(3, 4)]
