"""Names of files."""

import pytest

from petsem.replication.ltx import LtxError, Rule, format_name, parse_name


def test_names_and_ranges() -> None:
    """Two TXIDs of 16 hexadecimal digits, and back."""
    names = {
        (1, 1): "0000000000000001-0000000000000001.ltx",
        (1, 42): "0000000000000001-000000000000002a.ltx",
        (2**64 - 1, 2**64 - 1): "ffffffffffffffff-ffffffffffffffff.ltx",
    }
    assert {txids: format_name(*txids) for txids in names} == names
    assert {parse_name(name): name for name in names.values()} == names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0000000000000001-0000000000000001",
        "0000000000000001-0000000000000001.ltx\n",
        "0000000000000001-0000000000000001.LTX",
        "000000000000000A-000000000000000A.ltx",
        "1-1.ltx",
        "./0000000000000001-0000000000000001.ltx",
        "00000000000000001-0000000000000001.ltx",
        "0000000000000000-0000000000000001.ltx",
        "0000000000000002-0000000000000001.ltx",
        "٠000000000000001-0000000000000001.ltx",
    ],
)
def test_refused_names(name: str) -> None:
    """Any other spelling, no transaction, or an empty range."""
    with pytest.raises(LtxError) as caught:
        parse_name(name)
    assert caught.value.rule is Rule.NAME


@pytest.mark.parametrize("txids", [(0, 1), (2, 1), (1, 2**64), (-1, 1)])
def test_refused_ranges(txids: tuple[int, int]) -> None:
    """No name is made that would not be read."""
    with pytest.raises(LtxError) as caught:
        format_name(*txids)
    assert caught.value.rule is Rule.NAME
