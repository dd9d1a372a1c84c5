"""The keyring: the KEKs that a node holds, as JSON that an operator keeps outside the database.

    {"keys": [{"id": "64 hexadecimal digits", "purpose": "secrets", "key": "base64 of 32 bytes"}]}

Guarantees: a keyring that parsed holds each key once, under the id that its bytes hash to, within
the limits; no error quotes anything that was read, nor keeps it in its chain of causes. It does
not know which key of a purpose is primary or retired: the database's rows do, and they travel.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from petsem import limits
from petsem.crypto.keys import Key, Purpose, kek
from petsem.errors import PetsemError, invalid

_ENTRY_FIELDS: Final = {"id", "purpose", "key"}
_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Keyring:
    """A set of KEKs, each for one purpose, in the order in which they were added."""

    _keys: tuple[tuple[Purpose, Key], ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Keyring:
        """The keyring that `data` spells; `invalid` for anything that is not exactly one."""
        if len(data) > limits.KEYRING_MAX_BYTES:
            raise invalid(f"the keyring is over {limits.KEYRING_MAX_BYTES} bytes")
        top = _load(data)
        if not isinstance(top, dict) or top.keys() != {"keys"} or not isinstance(top["keys"], list):
            raise invalid('the keyring must be a JSON object with the one field "keys", a list')
        keyring = cls()
        for number, entry in enumerate(top["keys"], start=1):
            keyring = keyring.with_key(*_entry(number, entry))
        return keyring

    def encode(self) -> bytes:
        """The JSON of this keyring, one key a line. Secret: it goes into a file of mode 0600."""
        lines = ",\n".join(
            json.dumps(
                {
                    "id": key.id.hex(),
                    "purpose": purpose.value,
                    "key": base64.b64encode(key.secret.reveal()).decode("ascii"),
                }
            )
            for purpose, key in self._keys
        )
        return f'{{"keys": [\n{lines}\n]}}\n'.encode("ascii")

    def get(self, purpose: Purpose, key_id: bytes) -> Key | None:
        """The KEK of this id, if it is held for this purpose."""
        for held_for, key in self._keys:
            if key.id == key_id and held_for is purpose:
                return key
        return None

    def ids(self, purpose: Purpose) -> tuple[bytes, ...]:
        """The ids of the KEKs held for `purpose`."""
        return tuple(key.id for held_for, key in self._keys if held_for is purpose)

    def keys(self) -> tuple[tuple[Purpose, Key], ...]:
        """Every KEK with its purpose."""
        return self._keys

    def with_key(self, purpose: Purpose, key: Key) -> Keyring:
        """This keyring and one KEK more; `invalid` if it is full, or holds that key already.

        A key held for one purpose is refused for another too: separate purposes are worth
        something only while their keys are separate.
        """
        if any(key.id == held.id for _, held in self._keys):
            raise invalid("the keyring holds the same key twice; keep each key once")
        if len(self._keys) >= limits.KEYRING_MAX_KEYS:
            raise invalid(f"a keyring holds at most {limits.KEYRING_MAX_KEYS} keys")
        assert key == kek(key.secret.reveal()), "a keyring holds KEKs only"
        return Keyring((*self._keys, (purpose, key)))


def _load(data: bytes) -> Any:
    try:
        # Decoded here, because json.loads would also guess UTF-16 and UTF-32.
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        pass
    # Outside the handler: JSONDecodeError carries the whole document, and even `from None` would
    # leave it reachable as this error's context.
    raise invalid("the keyring is not valid JSON in UTF-8")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal names, other readers the first: two programs would hold
    # different keys from one file.
    result = dict(pairs)
    if len(result) != len(pairs):
        raise invalid("the keyring has an object that names a field twice")
    return result


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _entry(number: int, entry: Any) -> tuple[Purpose, Key]:
    """One element of the list. Errors give its place, counted from 1, and nothing of it."""
    if (
        not isinstance(entry, dict)
        or entry.keys() != _ENTRY_FIELDS
        or not all(isinstance(field, str) for field in entry.values())
    ):
        raise _bad(number, 'must be an object of the texts "id", "purpose" and "key", no others')
    if entry["purpose"] not in list(Purpose):
        raise _bad(number, "has a purpose that is not " + ", ".join(Purpose))
    if _ID.fullmatch(entry["id"]) is None:
        raise _bad(number, "has an id that is not 64 lower-case hexadecimal digits")
    raw = _decode(entry["key"])
    if raw is None:
        raise _bad(number, "has a key that is not 32 bytes in padded standard base64")
    key = kek(raw)
    if key.id.hex() != entry["id"]:
        raise _bad(number, "has an id that is not its key's; one of the two was altered")
    return Purpose(entry["purpose"]), key


def _decode(text: str) -> bytes | None:
    if len(text) != 44:
        return None
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    # The last character of 43 carries two bits that decode to nothing, and Python ignores them:
    # four spellings of each key. Only the one that we would write is taken.
    canonical = base64.b64encode(raw).decode("ascii")
    return raw if len(raw) == 32 and canonical == text else None


def _bad(number: int, problem: str) -> PetsemError:
    return invalid(f"key {number} of the keyring {problem}")
