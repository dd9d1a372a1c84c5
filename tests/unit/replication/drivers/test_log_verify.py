"""A log looked at as a whole: what holds, what does not, and in which words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastcrc import crc64

from petsem.model import Position
from petsem.replication.drivers.log_verify import Verification, verify
from petsem.replication.segment import HEADER_BYTES, Kind, RecordHeader
from tests.support.ltx_files import Chain
from tests.unit.replication.drivers.log_support import (
    SMALL,
    Quick,
    all_files,
    alter,
    contents,
    filled,
    flip,
    opened,
    segment_files,
)


def written(directory: Path, count: int = 30) -> list[bytes]:
    """A closed log of a few segments."""
    log = opened(directory, ops=Quick())
    files = filled(log, Chain(), count)
    log.close()
    return files


def test_a_log_that_holds(tmp_path: Path) -> None:
    """Every record counted, nothing changed; an empty one holds too."""
    assert verify(tmp_path) == Verification(None, None, 0, 0, ())
    written(tmp_path)
    before = all_files(tmp_path)
    end = opened(tmp_path).end
    assert verify(tmp_path) == Verification(Position(0, 0, 0), end, 30, 0, ())
    assert all_files(tmp_path).keys() == before.keys()


def test_a_running_nodes_log(tmp_path: Path) -> None:
    """What was appended and not synced is looked at; a record half written is no problem."""
    log, chain = opened(tmp_path, ops=Quick()), Chain()
    filled(log, chain, 3)
    found = verify(tmp_path)
    assert (found.end, found.records, found.problems) == (chain.at, 3, ())
    (path,) = segment_files(tmp_path)
    used = len(path.read_bytes().rstrip(b"\0"))
    alter(path, used + -used % 8, b"PLog, and no more")
    assert verify(tmp_path) == dataclasses.replace(found, unfinished_bytes=17)


def test_a_flipped_byte_in_a_finished_segment(tmp_path: Path) -> None:
    """It is named with its transactions, and all others are looked at."""
    written(tmp_path)
    path = segment_files(tmp_path)[1]
    size = path.stat().st_size
    flip(path, HEADER_BYTES + 120)
    found = verify(tmp_path)
    lost = int(path.name[:16], 16) + 1
    assert found.records == 29
    assert len(found.problems) == 2
    assert found.problems[0].endswith(
        f" bytes at 88 of {path.name} are damaged, "
        f"and with them transactions {lost:016x}-{lost:016x}"
    )
    assert found.problems[1] == f"transactions {lost:016x}-{lost:016x} are missing"
    assert path.stat().st_size == size
    assert not (tmp_path / "quarantine").exists()


def test_a_flipped_byte_in_the_last_record(tmp_path: Path) -> None:
    """Nobody knows what followed it."""
    files = written(tmp_path, 3)
    (path,) = segment_files(tmp_path)
    used = len(path.read_bytes().rstrip(b"\0"))
    flip(path, used - HEADER_BYTES - len(files[-1]))
    (problem,) = verify(tmp_path).problems
    assert problem.endswith("are damaged, and with them all after transaction 0000000000000002")


def test_a_file_that_breaks_a_rule_of_ltx(tmp_path: Path) -> None:
    """The record's CRC is right, but it was written around a bad file."""
    log = opened(tmp_path, ops=Quick())
    data = bytearray(Chain().next())
    data[-1] ^= 1
    log.append(1, bytes(data))
    filled_end = log.end
    log.close()
    found = verify(tmp_path)
    assert found.end == filled_end
    assert found.problems == (
        "transactions 0000000000000001-0000000000000001: "
        "the LTX file breaks the rule file-checksum",
    )


def test_a_header_that_says_something_else_than_its_file(tmp_path: Path) -> None:
    """Both are whole, but they do not belong together."""
    log, chain = opened(tmp_path, ops=Quick()), Chain()
    filled(log, chain, 1)
    data = chain.next()
    log.append(1, data)
    log.close()
    (path,) = segment_files(tmp_path)
    other = Chain(Position(1, 1, 1 << 63), seed=2).next()
    at = HEADER_BYTES
    first = RecordHeader.parse(path.read_bytes()[at : at + HEADER_BYTES], 1, at)
    at += first.span
    second = RecordHeader.parse(path.read_bytes()[at : at + HEADER_BYTES], 1, at)
    forged = dataclasses.replace(second, length=len(other), data_crc=crc64.xz(other))
    assert forged.kind is Kind.DATA
    alter(path, at, bytes(SMALL // 2))
    alter(path, at, forged.encode(1, at) + other)
    assert contents(opened(tmp_path, ops=Quick()))[1] == other
    assert verify(tmp_path).problems == (
        "transactions 0000000000000002-0000000000000002: "
        "the LTX file is not the one that its record says",
    )


def test_a_missing_segment(tmp_path: Path) -> None:
    """The chain of TXIDs has a hole."""
    written(tmp_path)
    first, second, third = (int(path.name[:16], 16) for path in segment_files(tmp_path))
    segment_files(tmp_path)[1].unlink()
    found = verify(tmp_path)
    assert found.problems == (f"transactions {second + 1:016x}-{third:016x} are missing",)
    assert found.records == 30 - (third - second)
    assert first == 0
