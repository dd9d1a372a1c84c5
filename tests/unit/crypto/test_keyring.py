"""The keyring's strict JSON, and that no error tells what it read."""

import base64
import json
import re
import traceback
from typing import Any

import pytest

from petsem import limits
from petsem.crypto import keys
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Key, Purpose
from petsem.errors import Code, PetsemError
from tests.unit.crypto.reference import vectors

RAW = b"canary-canary-canary-canary-0123"


def _entry(raw: bytes = RAW, purpose: str = "secrets", **change: Any) -> dict[str, Any]:
    return {
        "id": keys.kek(raw).id.hex(),
        "purpose": purpose,
        "key": base64.b64encode(raw).decode(),
        **change,
    }


def _keks(count: int) -> list[Key]:
    return [keys.kek(number.to_bytes(32, "big")) for number in range(count)]


def _listed(keyring: Keyring) -> list[list[str]]:
    held = keyring.keys()
    return [[purpose, key.id.hex()] for purpose, key in held]


@pytest.mark.parametrize("case", vectors("keyring"), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    """Each text of the table is the keyring, or the one error, that the table says."""
    data = (
        bytes.fromhex(case["bytes"])
        if "bytes" in case
        else case["text"].encode("utf-8", "surrogatepass")
    )
    if "error" in case:
        with pytest.raises(PetsemError) as caught:
            Keyring.parse(data)
        assert (caught.value.code, caught.value.message) == (Code(case["error"]), case["message"])
        return
    keyring = Keyring.parse(data)
    assert _listed(keyring) == case["keys"]
    assert Keyring.parse(keyring.encode()) == keyring


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"keys":' * 20_000, '{"keys": ' + "9" * 5_000 + "}"], ids=len
)
def test_what_would_exhaust_the_parser_is_not_valid(text: str) -> None:
    """Deep nesting and endless numbers are refused as any other text that is no keyring."""
    with pytest.raises(PetsemError, match="not valid JSON"):
        Keyring.parse(text.encode())


def test_size_is_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit nothing is decoded; at the limit the text is read."""
    text = json.dumps({"keys": [_entry()]}).encode()
    assert Keyring.parse(text.ljust(limits.KEYRING_MAX_BYTES)).ids(Purpose.SECRETS)
    monkeypatch.setattr("json.loads", lambda *_, **__: pytest.fail("the text was read"))
    with pytest.raises(PetsemError, match="the keyring is over 262144 bytes"):
        Keyring.parse(text.ljust(limits.KEYRING_MAX_BYTES + 1))


def test_a_full_keyring_is_read_and_one_key_more_is_refused() -> None:
    """The limit on the number of keys holds for parse and for with_key."""
    full = Keyring()
    for key in _keks(limits.KEYRING_MAX_KEYS):
        full = full.with_key(Purpose.TOKENS, key)
    assert Keyring.parse(full.encode()) == full
    with pytest.raises(PetsemError, match="a keyring holds at most 256 keys"):
        full.with_key(Purpose.TOKENS, keys.kek(b"\xff" * 32))
    more = json.loads(full.encode())
    more["keys"].append(_entry())
    with pytest.raises(PetsemError, match="a keyring holds at most 256 keys"):
        Keyring.parse(json.dumps(more).encode())


def test_keys_are_found_by_purpose_and_id() -> None:
    """A key serves the purpose that it is held for and no other."""
    first, second, third = _keks(3)
    keyring = (
        Keyring()
        .with_key(Purpose.SECRETS, first)
        .with_key(Purpose.TOKENS, second)
        .with_key(Purpose.SECRETS, third)
    )
    assert keyring.get(Purpose.SECRETS, first.id) is first
    assert keyring.get(Purpose.TOKENS, first.id) is None
    assert keyring.get(Purpose.SECRETS, b"") is None
    assert keyring.ids(Purpose.SECRETS) == (first.id, third.id)
    assert keyring.ids(Purpose.CLUSTER) == ()
    assert keyring.keys() == (
        (Purpose.SECRETS, first),
        (Purpose.TOKENS, second),
        (Purpose.SECRETS, third),
    )


def test_with_key_leaves_the_keyring_as_it_was() -> None:
    """Adding gives another keyring, and adding what is there is refused."""
    (key,) = _keks(1)
    empty = Keyring()
    one = empty.with_key(Purpose.SECRETS, key)
    assert (empty.keys(), len(one.keys())) == ((), 1)
    for purpose in Purpose:
        with pytest.raises(PetsemError, match="holds the same key twice"):
            one.with_key(purpose, key)


def test_a_data_key_is_no_kek() -> None:
    """A data key put into a keyring is our own mistake and is stopped."""
    with pytest.raises(AssertionError):
        Keyring().with_key(Purpose.SECRETS, keys.data_key(RAW))


def test_encoding_is_one_key_a_line() -> None:
    """The text is stable, readable by people, and exactly what the format page shows."""
    keyring = Keyring().with_key(Purpose.CLUSTER, keys.kek(RAW))
    entry = _entry(purpose="cluster")
    assert keyring.encode().decode() == (
        '{"keys": [\n'
        f'{{"id": "{entry["id"]}", "purpose": "cluster", "key": "{entry["key"]}"}}\n'
        "]}\n"
    )
    assert Keyring.parse(Keyring().encode()) == Keyring()


def test_no_text_of_a_keyring_shows_a_key() -> None:
    """The repr holds id prefixes only."""
    shown = repr(Keyring().with_key(Purpose.SECRETS, keys.kek(RAW)))
    assert "canary" not in shown
    assert base64.b64encode(RAW).decode() not in shown
    assert keys.kek(RAW).id.hex() not in shown


SPOILED = {
    "not JSON": lambda text: text[:-1],
    "unknown field": lambda text: text.replace('"purpose"', '"canary-field"'),
    "unknown purpose": lambda text: text.replace('"secrets"', '"canary-purpose"'),
    "id": lambda text: re.sub(r'"id": "[0-9a-f]', '"id": "canary', text),
    "key": lambda text: text.replace('"key": "Y2', '"key": "canary'),
    "duplicate": lambda text: text.replace('{"id"', '{"key": "canary", "id"'),
    "number": lambda text: text.replace('"secrets"', "1e400"),
    "mismatch": lambda text: text.replace('"key": "Y2', '"key": "Y3'),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=list(SPOILED))
def test_errors_never_quote_what_was_read(spoil: Any) -> None:
    """Neither the message, nor the traceback, nor any exception behind it holds the input."""
    text = spoil(json.dumps({"keys": [_entry()]}))
    with pytest.raises(PetsemError) as caught:
        Keyring.parse(text.encode())
    assert caught.value.code is Code.INVALID
    behind: BaseException | None = caught.value
    while behind is not None:
        told = "".join(traceback.format_exception_only(behind)) + repr(vars(behind))
        for piece in ("canary", "Y2FuYXJ5", "Y3FuYXJ5", keys.kek(RAW).id.hex()[1:]):
            assert piece not in told
        behind = behind.__context__
