"""What may stand in a log record, and what is taken out of it.

Guarantees: after `scrub`, a record holds plain values only; no bytes, no `SecretBytes`, nothing
under a name that promises a secret, no token (whole or cut), no bearer credential and no private
key. It cannot recognise a secret's value inside a sentence: nobody may put one there.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from petsem.model import Position

REDACTED: Final = "(redacted)"
_TEXT_MAX_CHARS: Final = 32 * 1024
_DEPTH_MAX: Final = 6
_ITEMS_MAX: Final = 200

_SECRET_WORDS: Final = frozenset(
    {
        *("token", "tokens", "authorization", "bearer", "macaroon", "cookie", "credential"),
        *("credentials", "value", "values", "secret", "secrets", "plaintext", "password"),
        *("passphrase", "key", "keys", "keyring", "body", "data", "headers", "metadata"),
    }
)
_SHOWN_AS_TEXT: Final = (
    PurePath,
    Position,
    datetime.datetime,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)
_WORD_BREAK = re.compile(r"[^a-z0-9]+")
_SECRET_TEXT = re.compile(
    # A token with our prefix. Its body starts with "Ag" (version 2 of the binary format), which
    # also catches one that was cut short; anything else this long is taken for one too.
    r"petsem_(?:Ag|[A-Za-z0-9_+/=-]{16})\S*"
    # A token that another library made: no prefix, location or identifier field first.
    r"|Ag[E-L][A-Za-z0-9_+/=-]{40}\S*"
    r"|(?i:\bbearer)\s+\S+"
    r"|-----BEGIN[A-Z ]* PRIVATE KEY-----.*?(?:-----END[A-Z ]* PRIVATE KEY-----|\Z)",
    re.ASCII | re.DOTALL,
)


def scrub(value: Any, depth: int = 0) -> Any:
    """`value` as plain text, numbers, lists and dictionaries, without what must not be shown."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, BaseException):
        return scrub_text(f"{type(value).__name__}: {value}")
    if isinstance(value, _SHOWN_AS_TEXT):
        return scrub_text(str(value))
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        return {
            scrub_text(str(name)): REDACTED if promises_secret(name) else scrub(item, depth + 1)
            for name, item in list(value.items())[:_ITEMS_MAX]
        }
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [scrub(item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    # Bytes, SecretBytes, and every object whose repr nobody has looked at.
    return f"({type(value).__name__})"


def scrub_text(text: str) -> str:
    """`text` without tokens, credentials and private keys, cut to a bounded length."""
    if len(text) > _TEXT_MAX_CHARS:
        text = text[:_TEXT_MAX_CHARS] + "…"
    return _SECRET_TEXT.sub(REDACTED, str(text))


def promises_secret(name: object) -> bool:
    """Whether what stands under `name` is a secret by its name: `join_token`, not `token_id`."""
    words = [word for word in _WORD_BREAK.split(str(name).lower()) if word]
    return bool(words) and words[-1] in _SECRET_WORDS
