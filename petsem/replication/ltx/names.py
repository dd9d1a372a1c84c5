"""The name of a file: the TXIDs it holds, as `0000000000000001-000000000000002a.ltx`."""

from __future__ import annotations

import re
from typing import Final

from petsem.replication.ltx.errors import LtxError, Rule

_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx", re.ASCII)
_TXID_MAX: Final = 2**64 - 1


def format_name(min_txid: int, max_txid: int) -> str:
    """The name of the file that holds these TXIDs, both included."""
    _check(min_txid, max_txid)
    return f"{min_txid:016x}-{max_txid:016x}.ltx"


def parse_name(name: str) -> tuple[int, int]:
    """First and last TXID of the file so named; `LtxError` for any other spelling."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise LtxError(Rule.NAME)
    min_txid, max_txid = (int(digits, 16) for digits in match.groups())
    _check(min_txid, max_txid)
    return min_txid, max_txid


def _check(min_txid: int, max_txid: int) -> None:
    if not 1 <= min_txid <= max_txid <= _TXID_MAX:
        raise LtxError(Rule.NAME)
