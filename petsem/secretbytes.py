"""Bytes that must not be shown by accident.

Guarantees: no `repr`, `str`, `format`, pickle or copy of a `SecretBytes` contains the value, and
comparison takes the same time wherever the difference is. It does not wipe memory: CPython copies
freely, so the process's memory is trusted for as long as it holds a key (see the threat model).
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class SecretBytes:
    """Wraps bytes; `reveal()` is the only way to them, and easy to search for."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves. Whoever calls this answers for where they go."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> NoReturn:
        raise TypeError("SecretBytes is not hashable")

    def __repr__(self) -> str:
        return "SecretBytes(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("SecretBytes cannot be serialised")
