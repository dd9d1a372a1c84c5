"""Every byte of a log looked at, and every LTX file in it decoded.

Guarantees: a log without problems is one chain of TXIDs and checksums, each record is the whole
LTX file that its header says, and all of a snapshot's pages give its checksum. It changes nothing,
and a node may be appending. Not looked at: whether the checksum of any other file is that of the
database after it; comparing the database does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from petsem.model import Position
from petsem.replication.drivers.log_reader import LogReader
from petsem.replication.drivers.log_recovery import Damage
from petsem.replication.drivers.log_types import Gap, LogError, RecordInfo
from petsem.replication.ltx import Decoder, Event, Header, LtxError, Trailer


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found; the log holds if there are no `problems`, each a sentence.

    `unfinished_bytes` at the end belong to a record that was never synced: the node is writing it,
    or will cut it when it starts.
    """

    base: Position | None
    end: Position | None
    records: int
    unfinished_bytes: int
    problems: tuple[str, ...]


def verify(directory: Path) -> Verification:
    """Look at the log in `directory`; `LogGap` if it changes faster than it can be read."""
    log = LogReader.open_read_only(directory, thorough=True)
    problems = [*map(_of_damage, log.report.damage), *map(_of_gap, log.gaps)]
    records = 0
    try:
        for info in log.infos():
            records += 1
            problem = _of_record(log, info)
            if problem is not None:
                problems.append(f"transactions {_range(info.min_txid, info.max_txid)}: {problem}")
    except LogError as error:
        problems.append(f"{error}")
    return Verification(log.base, log.end, records, log.report.torn_bytes, tuple(problems))


def _of_record(log: LogReader, info: RecordInfo) -> str | None:
    header: Header | None = None
    trailer: Trailer | None = None
    try:
        for event in _events(log, info.min_txid):
            if isinstance(event, Header):
                header = event
            elif isinstance(event, Trailer):
                trailer = event
    except LtxError as error:
        return f"the LTX file breaks the rule {error.rule}"
    except LogError:
        return "the record is damaged or was removed meanwhile"
    assert header is not None
    assert trailer is not None
    said = (info.min_txid, info.max_txid, info.before.checksum, info.after.checksum)
    found = (header.min_txid, header.max_txid, header.pre_apply_checksum)
    if said != (*found, trailer.post_apply_checksum):
        return "the LTX file is not the one that its record says"
    return None


def _events(log: LogReader, txid: int) -> Iterator[Event]:
    decoder = Decoder()
    for chunk in log.chunks(txid):
        decoder.receive(chunk)
        while (event := decoder.next_event()) is not None:
            yield event
    decoder.finish()


def _of_damage(damage: Damage) -> str:
    where = f"{damage.length:,} bytes at {damage.offset} of {damage.segment} are damaged"
    if damage.until_txid is None:
        return f"{where}, and with them all after transaction {damage.after_txid:016x}"
    if damage.until_txid == damage.after_txid:
        return f"{where}; no transaction is lost"
    return f"{where}, and with them transactions {_range_after(damage)}"


def _range_after(damage: Damage) -> str:
    assert damage.until_txid is not None
    return _range(damage.after_txid + 1, damage.until_txid)


def _of_gap(gap: Gap) -> str:
    missing = _range(gap.after.txid + 1, gap.until.txid)
    if gap.until.txid <= gap.after.txid:
        return f"after {gap.after} it goes on at {gap.until}, which does not follow"
    return f"transactions {missing} are missing"


def _range(first: int, last: int) -> str:
    return f"{first:016x}-{last:016x}"
