"""Keys and the ids that commit to them."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from petsem.crypto import keys
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from tests.unit.crypto import reference
from tests.unit.crypto.reference import vectors

RAW = bytes(range(32))
MAKERS = {"kek": keys.kek, "data_key": keys.data_key}
PERSONS = {"kek": b"petsem-kek-id-v1", "data_key": b"petsem-dek-id-v1"}


@pytest.mark.parametrize("case", vectors("key_ids"), ids=lambda case: f"{case['kind']}")
def test_ids_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    """A key of 32 bytes has the id of the table; any other length is refused."""
    raw, make = bytes.fromhex(case["key"]), MAKERS[case["kind"]]
    if "error" in case:
        with pytest.raises(PetsemError) as caught:
            make(raw)
        assert caught.value.code is Code.INVALID
        assert caught.value.message == "a key is exactly 32 bytes"
        return
    key = make(raw)
    assert key.id.hex() == case["id"]
    assert key.id == reference.key_id(raw, PERSONS[case["kind"]])
    assert key.secret.reveal() == raw


def test_one_value_has_another_id_of_each_kind() -> None:
    """The same bytes as KEK and as data key are two keys, so layers cannot be confused."""
    assert keys.kek(RAW).id != keys.data_key(RAW).id
    assert keys.kek(RAW) != keys.data_key(RAW)


def test_equality_and_hash_are_those_of_the_id() -> None:
    """Keys serve as members of sets without their bytes being hashed or compared."""
    assert keys.kek(RAW) == keys.kek(bytes(RAW))
    assert len({keys.kek(RAW), keys.kek(RAW), keys.kek(bytes(32))}) == 2


def test_generated_keys_differ_and_carry_their_own_id() -> None:
    """Each generated key is new, 32 bytes, and under the id of its kind."""
    for generate, make in (
        (keys.generate_kek, keys.kek),
        (keys.generate_data_key, keys.data_key),
    ):
        first, second = generate(), generate()
        assert first != second
        assert first == make(first.secret.reveal())


def test_random_ids_are_16_bytes_and_differ() -> None:
    """Row ids, incarnations and nonces do not repeat."""
    drawn = {keys.random_id() for _ in range(100)}
    assert (len(drawn), {len(one) for one in drawn}) == (100, {16})


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__, lambda key: f"{[key]}"])
def test_a_key_shows_only_a_prefix_of_its_id(show: Any) -> None:
    """No text of a key holds its bytes, in any usual spelling, nor the whole id."""
    key = keys.data_key(b"canary-canary-canary-canary-0123")
    text = show(key)
    assert "canary" not in text
    assert key.secret.reveal().hex() not in text
    assert key.id.hex() not in text
    assert f"Key({key.id.hex()[:8]}…)" in text


def test_a_key_can_be_neither_pickled_nor_copied_deep_nor_turned_into_a_dict() -> None:
    """Whatever would walk through a key's fields stops at its secret."""
    key = keys.data_key(RAW)
    for attempt in (pickle.dumps, copy.deepcopy, dataclasses.asdict):
        with pytest.raises(TypeError):
            attempt(key)


def test_a_key_is_frozen() -> None:
    """An id cannot be set on a key after it was computed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        keys.kek(RAW).id = bytes(32)  # type: ignore[misc]
    assert not hasattr(keys.kek(RAW), "__dict__")


def test_purposes_are_the_three_of_the_format() -> None:
    """Purposes are stored as text, so their spelling is fixed."""
    assert list(Purpose) == ["secrets", "tokens", "cluster"]
