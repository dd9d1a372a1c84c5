"""The caveat grammar: one predicate, `KEY OP VALUE`, and how to write one.

Guarantees: a caveat either has exactly one meaning or is not in the grammar, and then it denies.
Parsing is pure and bounded, and its results are kept in bounded caches (caveats are not secret).

Does not decide whether a predicate holds: that is `caveats.clear`. ABNF, meaning and a table of
accepted and refused texts: `docs/formats/caveats.md`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias

from petsem.clock import rfc3339
from petsem.errors import invalid
from petsem.limits import CAVEAT_MAX_BYTES

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_CACHE_ENTRIES: Final = 1024
_MAPPED_BITS: Final = 96

_VALUE = rb"[\x21-\x2b\x2d-\x7e]{1,255}"
_PREDICATE = re.compile(
    rb"([a-z][a-z0-9_.-]{0,62}) (?:(=|<|>=) (%b)|in (%b(?:, %b)*))" % (_VALUE, _VALUE, _VALUE)
)
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z", re.ASCII)
_PREFIX_LENGTH = re.compile(r"0|[1-9]\d{0,2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Predicate:
    """A caveat that is in the grammar. `op` is `=`, `in`, `<` or `>=`; only `in` has many values.

    `<` and `>=` belong to the key `time` and to no other.
    """

    key: str
    op: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key} {self.op} {', '.join(self.values)}"


@lru_cache(maxsize=_CACHE_ENTRIES)
def parse_predicate(cid: bytes) -> Predicate | None:
    """The predicate that `cid` spells, or None if it is not in the grammar (so that it denies)."""
    if len(cid) > CAVEAT_MAX_BYTES:
        return None
    match = _PREDICATE.fullmatch(cid)
    if match is None:
        return None
    name, op, single, several = match.groups()
    key = name.decode("ascii")
    values = tuple((single or several).decode("ascii").split(", "))
    if not _values_fit(key, op in (b"<", b">="), values):
        return None
    return Predicate(key, op.decode("ascii") if op else "in", values)


def _values_fit(key: str, ordered: bool, values: tuple[str, ...]) -> bool:
    if key == "time":
        return ordered and time_s(values[0]) is not None
    if ordered:
        return False
    if key == "ip":
        return all(network(value) is not None for value in values)
    if key == "secret":
        # No secret has `*` in its name: elsewhere than last it could only be a mistake.
        return not any("*" in value[:-1] for value in values)
    # A star that looks like a wildcard and is none would allow less than its writer thinks, and
    # a key that turns into a pattern later would allow more.
    return not any(value.endswith("*") for value in values)


def parse_predicates(texts: Iterable[str]) -> tuple[Predicate, ...]:
    """Every caveat of a list, for whoever is about to add them; `invalid` naming the first bad one.

    The text itself is not quoted: what was mistyped into a caveat may be a secret.
    """
    predicates = []
    for number, text in enumerate(texts, 1):
        predicate = parse_predicate(text.encode("ascii")) if text.isascii() else None
        if predicate is None:
            raise invalid(
                f"caveat {number} is not in the grammar: write 'KEY = VALUE', 'KEY in A, B', or "
                "'time < YYYY-MM-DDTHH:MM:SSZ', with single spaces"
            )
        predicates.append(predicate)
    return tuple(predicates)


@lru_cache(maxsize=_CACHE_ENTRIES)
def time_s(value: str) -> int | None:
    """Seconds since 1970 of exactly `YYYY-MM-DDTHH:MM:SSZ`, a date that exists; else None."""
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError:
        return None


@lru_cache(maxsize=_CACHE_ENTRIES)
def network(value: str) -> Network | None:
    """The addresses that an `ip` value names, IPv4-mapped ones as IPv4; None if it names none.

    A network's host bits are zero and its length is a plain number, so `10.0.0.1/8` and
    `10.0.0.0/255.0.0.0` name nothing, and neither does an address with a zone.
    """
    address, slash, length = value.partition("/")
    if "%" in address or (slash and not _PREFIX_LENGTH.fullmatch(length)):
        return None
    try:
        found = ipaddress.ip_network(value)
    except ValueError:
        return None
    if found.version == 6 and found.prefixlen >= _MAPPED_BITS:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED_BITS))
    return found


def address(value: str) -> Address | None:
    """The address that an access comes from, an IPv4-mapped one as IPv4; None if it is none."""
    if "%" in value:
        return None
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if found.version == 6 else found


def time_before(unix_ms: int) -> str:
    """The caveat that ends a token at that moment, rounded down to a whole second."""
    return f"time < {rfc3339(unix_ms)}"


def one_of(key: str, *values: str) -> str:
    """The caveat that holds an attribute to `values`; `invalid` if the grammar cannot say it."""
    text = f"{key} = {values[0]}" if len(values) == 1 else f"{key} in {', '.join(values)}"
    parse_predicates((text,))
    return text
