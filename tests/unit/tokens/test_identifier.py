"""The identifier: 62 bytes with one spelling."""

from __future__ import annotations

from typing import Any

import pytest

from petsem.model import Kind
from petsem.tokens.identifier import IDENTIFIER_BYTES, Identifier
from petsem.tokens.reasons import Reason
from tests.unit.tokens.build import IDENTIFIER, ids, refused, vectors

CASES = vectors("token_identifier.json")


@pytest.mark.parametrize("case", CASES["accepted"], ids=ids(CASES["accepted"], "kind"))
def test_identifiers_are_as_the_byte_table_says(case: dict[str, Any]) -> None:
    """Bytes to value and back."""
    data = bytes.fromhex(case["hex"])
    expected = Identifier(
        bytes.fromhex(case["cluster_id"]),
        Kind.from_text(case["kind"]),
        bytes.fromhex(case["root_key_id"]),
        bytes.fromhex(case["nonce"]),
        case["epoch"],
        case["txid"],
    )
    assert Identifier.parse(data) == expected
    assert expected.encode() == data
    assert len(data) == IDENTIFIER_BYTES
    assert expected.token_id == case["nonce"]


@pytest.mark.parametrize("case", CASES["refused"], ids=ids(CASES["refused"]))
def test_other_identifiers_are_malformed(case: dict[str, Any]) -> None:
    """A length, format or kind that is not known here is not guessed at."""
    with refused(Reason.MALFORMED):
        Identifier.parse(bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_byte(kind: Kind) -> None:
    """The eighteenth byte is the kind's number."""
    data = bytearray(IDENTIFIER.encode())
    data[17] = int(kind)
    assert Identifier.parse(bytes(data)).kind is kind
