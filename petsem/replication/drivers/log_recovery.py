"""Opening a log: what is in the directory, what crash or disk did to it, and setting it right.

Guarantees: what was synced is either in the log again or reported as damage, with its bytes in
`quarantine/`; only what was never synced is cut. Every step may be interrupted: the next opening
goes on. `survey`, for programs that only look, changes nothing.

A finished segment is taken at its seal's word, so that a start costs the same however long the
log is; damage in it is found when it is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from fastcrc import crc64

from petsem.replication.drivers.log_builder import Builder
from petsem.replication.drivers.log_files import Descriptor
from petsem.replication.drivers.log_scan import Part, Run, Scan, Scanner
from petsem.replication.drivers.log_segment import Segment, Tail, data_of, header_at
from petsem.replication.drivers.log_store import Store, record_room_bytes
from petsem.replication.drivers.log_types import LogGap
from petsem.replication.ltx import HEADER_BYTES as LTX_HEADER_BYTES
from petsem.replication.ltx import Header
from petsem.replication.segment import HEADER_BYTES, Kind, SegmentName
from petsem.replication.segment_index import SegmentIndex

_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that were synced and do not hold any more.

    The transactions after `after_txid` and up to `until_txid` are lost with them: none if the two
    are equal, and None where it is not known. `saved` is where the bytes are now.
    """

    segment: str
    offset: int
    length: int
    after_txid: int
    until_txid: int | None
    saved: Path | None = None


@dataclass(slots=True)
class Report:
    """What opening a log found: bytes of a torn tail, which were cut, and damage."""

    torn_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Found:
    """A segment by its first header and its seal, as far as they hold.

    `records_end` is where the records end according to the seal; with `sealed` all is known.
    """

    name: SegmentName
    path: Path
    size_bytes: int
    kind: Kind | None
    records_end: int | None
    sealed: Segment | None


def recover(store: Store, durable_txid: int = 0) -> tuple[list[Segment], Report]:
    """The log's segments, the last of them open if it may grow, and what had to be done."""
    store.sweep()
    report = Report()
    found = [_look(store, name) for name in store.names()]
    valid = list(_not_void(found))
    for each in found:
        if each not in valid:
            store.remove(each.path)
    segments: list[Segment] = []
    for each, following in _with_next(valid):
        if each.sealed is not None and _ends_before(each.sealed, following):
            segments.append(each.sealed)
            continue
        scan = _scan(each, following, durable_txid)
        if scan.torn is not None:
            report.torn_bytes += scan.torn.end - scan.torn.start
        if scan.damaged:
            until = None if following is None else following.name.base_txid
            repaired = repair(store, each.path, each.name, scan, until)
            if repaired.old is None:
                store.sync_names()
            else:
                store.cut(repaired.old)
            segments += repaired.segments
            report.damage += repaired.damage
            continue
        segment = _growing(each, scan.runs[0])
        if following is not None or each.records_end is not None or scan.torn is not None:
            store.cut(segment)
        segments.append(segment)
    if segments:
        # What a killed process wrote can be read here and yet be in no disk.
        file = segments[-1].open()
        store.ops.fsync(file.fd)
        store.mark(segments[-1])
        store.ops.fsync_directory(store.directory)
    return segments, report


def survey(store: Store, *, thorough: bool = False) -> tuple[list[Segment], Report]:
    """The same for somebody who only looks, perhaps while a node appends.

    With `thorough`, every byte of every segment is looked at. `LogGap` if the directory changes
    faster than it can be read.
    """
    for _ in range(_ATTEMPTS):
        names = store.names()
        with contextlib.suppress(FileNotFoundError):
            seen = _survey(store, names, thorough)
            if store.names() == names:
                return seen
    raise LogGap("the log changes faster than it can be read")


def _survey(store: Store, names: list[SegmentName], thorough: bool) -> tuple[list[Segment], Report]:
    report = Report()
    segments: list[Segment] = []
    valid = list(_not_void([_look(store, name) for name in names]))
    for each, following in _with_next(valid):
        if each.sealed is not None and _ends_before(each.sealed, following) and not thorough:
            segments.append(each.sealed)
            continue
        scan = _scan(each, following, 0)
        for _ in range(_ATTEMPTS):
            # A node that appends may have been caught in the middle: damage stays where it is.
            before, scan = scan, _scan(each, following, 0) if scan.damaged else scan
            if scan.damaged == before.damaged:
                break
        if scan.torn is not None:
            report.torn_bytes += scan.torn.end - scan.torn.start
        until = None if following is None else following.name.base_txid
        report.damage += _damages(each.name, scan, until)
        segments += [_run_segment(each.path, each.name, run) for run in scan.runs]
    return segments, report


@dataclass(frozen=True, slots=True)
class Repaired:
    """The segments in place of a damaged one.

    `old` is the first of them if it is the damaged one, whose file is still to be cut at its tail;
    else that file was moved away, and the directories are still to be synced.
    """

    segments: list[Segment]
    old: Segment | None
    damage: list[Damage]


def repair(
    store: Store, path: Path, name: SegmentName, scan: Scan, until_txid: int | None
) -> Repaired:
    """Save the damaged parts of a segment; what holds after one gets a segment of its own.

    The order matters, also that the last part comes first: a crash between the steps leaves both
    the old and the new, and the next opening sees that the new takes over where it begins. An
    OSError leaves all as it was.
    """
    file = Descriptor.open(path)
    damage = _damages(name, scan, until_txid)
    copied: list[Segment] = []
    try:
        if scan.base_holds:
            saved = [store.save_damaged(path, file, part.start, part.end) for part in scan.damaged]
        for run in reversed(scan.runs[1:] if scan.base_holds else scan.runs):
            copied.insert(0, _copied(store, file, name.number, run))
        if not scan.base_holds:
            saved = [store.move_damaged(path)] * len(damage)
    except OSError:
        for each in copied:
            store.discard(each.path)
        raise
    damage = [replace(each, saved=at) for each, at in zip(damage, saved, strict=True)]
    old = _run_segment(path, name, scan.runs[0]) if scan.base_holds else None
    return Repaired([*([] if old is None else [old]), *copied], old, damage)


def _look(store: Store, name: SegmentName) -> _Found:
    path = store.path(name)
    file = Descriptor.open(path)
    size = file.size_bytes
    first = header_at(file, name.number, 0)
    kind = first.kind if first is not None and first.kind in (Kind.BASE, Kind.RESET) else None
    seal = header_at(file, name.number, size - HEADER_BYTES) if size >= HEADER_BYTES else None
    if seal is None or seal.kind is not Kind.SEAL:
        return _Found(name, path, size, kind, None, None)
    sealed = None
    if first is not None and kind is not None:
        encoded = file.read(seal.length, seal.synced)
        if crc64.xz(encoded) == seal.data_crc and seal.before == first.after:
            tail = Tail(seal.synced, seal.after)
            empty = tail.offset == HEADER_BYTES
            sealed = Segment(
                path,
                name,
                seal.before,
                tail,
                SegmentIndex.parse(encoded),
                size_bytes=size,
                oldest_ms=None if empty else seal.timestamp_ms,
            )
    return _Found(name, path, size, kind, seal.synced, sealed)


def _not_void(found: list[_Found]) -> Iterator[_Found]:
    """Without the segments that a later reset made void."""
    newest = max((each.name.number for each in found if each.kind is Kind.RESET), default=0)
    return (each for each in found if each.name.number >= newest)


def _with_next(found: list[_Found]) -> Iterator[tuple[_Found, _Found | None]]:
    return ((each, next(iter(found[i + 1 : i + 2]), None)) for i, each in enumerate(found))


def _ends_before(sealed: Segment, following: _Found | None) -> bool:
    return following is None or sealed.end.txid <= following.name.base_txid


def _scan(each: _Found, following: _Found | None, durable_txid: int) -> Scan:
    return Scanner(
        Descriptor.open(each.path),
        each.name.number,
        each.size_bytes if each.records_end is None else each.records_end,
        all_synced=each.records_end is not None or following is not None,
        durable_txid=durable_txid,
        until_txid=None if following is None else following.name.base_txid,
    ).scan()


def _damages(name: SegmentName, scan: Scan, until_txid: int | None) -> list[Damage]:
    def one(part: Part) -> Damage:
        before = [run.last.txid for run in scan.runs if run.end <= part.start]
        behind = [run.base.txid for run in scan.runs if run.start >= part.end]
        after = before[-1] if before else name.base_txid
        until = behind[0] if behind else until_txid
        return Damage(str(name), part.start, part.end - part.start, after, until)

    return [one(part) for part in scan.damaged]


def _growing(each: _Found, run: Run) -> Segment:
    segment = _run_segment(each.path, each.name, run)
    segment.size_bytes = each.size_bytes
    segment.file = Descriptor.open(each.path, writable=True)
    segment.room_bytes = record_room_bytes(each.size_bytes)
    return segment


def _run_segment(path: Path, name: SegmentName, run: Run) -> Segment:
    return Segment(
        path,
        name,
        run.base,
        Tail(run.end, run.last),
        run.index,
        size_bytes=run.end,
        oldest_ms=run.oldest_ms,
        start=run.start,
    )


def _copied(store: Store, file: Descriptor, number: int, run: Run) -> Segment:
    source = _run_segment(Path(), SegmentName(run.base.txid, number), run)
    with Builder(store, run.base) as builder:
        for offset, record in source.headers(file):
            encoded = file.read(LTX_HEADER_BYTES, offset + HEADER_BYTES)
            builder.add(record.epoch, Header.parse(encoded), data_of(file, offset, record))
        return builder.finish()
