"""The trailer: its bytes, and one case for each of its rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from petsem.replication.ltx import CHECKSUM_FLAG, NO_CHECKSUM, Header, LtxError, Rule, Trailer
from petsem.replication.ltx.trailer import RULES

HEADER = Header(0, 4096, 3, 5, 8, 0, CHECKSUM_FLAG)
UNTRACKED = replace(HEADER, flags=NO_CHECKSUM, pre_apply_checksum=0)
EMPTIED = replace(HEADER, commit=0)
GOOD = Trailer(CHECKSUM_FLAG | 1, CHECKSUM_FLAG | 2)

BROKEN: dict[Rule, tuple[Trailer, Header]] = {
    Rule.POST_APPLY_NOT_ALLOWED: (GOOD, UNTRACKED),
    Rule.POST_APPLY_REQUIRED: (replace(GOOD, post_apply_checksum=0), HEADER),
    Rule.POST_APPLY_FORMAT: (replace(GOOD, post_apply_checksum=1), HEADER),
    Rule.POST_APPLY_OF_NOTHING: (GOOD, EMPTIED),
    Rule.FILE_CHECKSUM_REQUIRED: (replace(GOOD, file_checksum=0), HEADER),
    Rule.FILE_CHECKSUM_FORMAT: (replace(GOOD, file_checksum=1), HEADER),
}
ALLOWED = {
    "tracked": (GOOD, HEADER),
    "untracked": (replace(GOOD, post_apply_checksum=0), UNTRACKED),
    "emptied": (replace(GOOD, post_apply_checksum=CHECKSUM_FLAG), EMPTIED),
    "emptied and untracked": (replace(GOOD, post_apply_checksum=0), replace(UNTRACKED, commit=0)),
}


@pytest.mark.parametrize("case", ALLOWED.values(), ids=ALLOWED)
def test_allowed(case: tuple[Trailer, Header]) -> None:
    """Passes under its header, and comes back from its bytes."""
    trailer, header = case
    trailer.validate(header)
    assert Trailer.parse(trailer.encode()) == trailer


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES], ids=str)
def test_rule(rule: Rule) -> None:
    """A trailer that breaks the rule is refused by its name."""
    trailer, header = BROKEN[rule]
    with pytest.raises(LtxError) as caught:
        trailer.validate(header)
    assert caught.value.rule is rule


def test_bytes() -> None:
    """The database's checksum first, then the file's, big-endian."""
    assert GOOD.encode().hex() == "80000000000000018000000000000002"
