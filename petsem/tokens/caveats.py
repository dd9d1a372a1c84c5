"""Clearing: does what is asked lie within every caveat of a verified token?

Guarantees: fails closed. A caveat that is not in the grammar, whose attribute is absent, or whose
key nobody set, denies; no caveat is skipped and none can allow what another denies, so a token
with more caveats never allows more.

Does not check signatures: the caveats handed in must come from `verifier.verify_signatures`. Does
not know what an action means, which org a token belongs to, or what time it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from petsem.tokens.grammar import (
    Predicate,
    address,
    network,
    one_of,
    parse_predicate,
    parse_predicates,
    time_before,
    time_s,
)
from petsem.tokens.reasons import Reason, TokenRefused, caveat_text

__all__ = [
    "Access",
    "Predicate",
    "SecretFilter",
    "actions_of",
    "clear",
    "expiry_of",
    "inherited_of",
    "one_of",
    "parse_predicate",
    "parse_predicates",
    "time_before",
    "values_of",
]

_NOT_INHERITED = frozenset({"time", "user"})


class Access(msgspec.Struct, frozen=True):
    """What is asked for: every fact that a caveat may be held against.

    `attributes` by key (a `time` among them is never read); `now_s`: the server's clock, Unix
    seconds; `secrets`: every secret name that the request touches, or None if it names none;
    `filterable`: the answer may leave names out, so that `secret` caveats filter it. `late` is
    asked, with the values that a caveat allows, for an attribute that is not among the others: for
    what costs something to learn and few tokens have a caveat on.
    """

    attributes: Mapping[str, str]
    now_s: int
    secrets: tuple[str, ...] | None = None
    filterable: bool = False
    late: Callable[[str, tuple[str, ...]], str | None] | None = None


@dataclass(frozen=True, slots=True)
class SecretFilter:
    """The names that all `secret` caveats of a token allow together."""

    caveats: tuple[tuple[str, ...], ...] = ()

    def admits(self, name: str) -> bool:
        """Whether every `secret` caveat allows `name`."""
        return all(_matches(values, name) for values in self.caveats)


@lru_cache(maxsize=1024)
def _patterns(values: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    exact = frozenset(value for value in values if not value.endswith("*"))
    return exact, tuple(value[:-1] for value in values if value.endswith("*"))


def _matches(values: tuple[str, ...], name: str) -> bool:
    exact, prefixes = _patterns(values)
    return name in exact or name.startswith(prefixes)


def clear(caveats: Sequence[bytes], access: Access) -> SecretFilter | None:
    """Return if every caveat holds; the filter, if `access` is filterable and names are limited.

    Raises TokenRefused with the first caveat, in order, that does not hold: EXPIRED for `time <`,
    NOT_YET_VALID for `time >=`, CAVEAT for all others.
    """
    attributes = access.attributes
    limits: list[tuple[str, ...]] = []
    for cid in caveats:
        predicate = parse_predicate(cid)
        if predicate is None:
            raise _refusal(Reason.CAVEAT, cid)
        key, values = predicate.key, predicate.values
        if key == "time":
            _clear_time(cid, predicate, access.now_s)
        elif key == "secret" and access.filterable:
            limits.append(values)
        elif not _holds(key, values, access, attributes):
            raise _refusal(Reason.CAVEAT, cid)
    return SecretFilter(tuple(limits)) if limits else None


def _clear_time(cid: bytes, predicate: Predicate, now_s: int) -> None:
    bound_s = time_s(predicate.values[0])
    assert bound_s is not None, "parse_predicate takes real dates only"
    if predicate.op == "<":
        if now_s >= bound_s:
            raise _refusal(Reason.EXPIRED, cid)
    elif now_s < bound_s:
        raise _refusal(Reason.NOT_YET_VALID, cid)


def _holds(
    key: str, values: tuple[str, ...], access: Access, attributes: Mapping[str, str]
) -> bool:
    if key == "secret" and access.secrets is not None:
        # A request that names no secret at all is not within a limit on names.
        names = access.secrets
        return bool(names) and all(_matches(values, name) for name in names)
    value = attributes.get(key)
    if value is None and access.late is not None:
        value = access.late(key, values)
    if value is None:
        return False
    if key == "secret":
        return _matches(values, value)
    if key == "ip":
        return _within(values, value)
    return value in values


def _within(values: tuple[str, ...], value: str) -> bool:
    client = address(value)
    if client is None:
        return False
    for each in values:
        allowed = network(each)
        if allowed is not None and allowed.version == client.version and client in allowed:
            return True
    return False


def _refusal(reason: Reason, cid: bytes) -> TokenRefused:
    text = caveat_text(cid)
    message = (
        f"the token's caveat '{text}' does not allow this" if reason is Reason.CAVEAT else None
    )
    return TokenRefused(reason, message, caveat=text)


def values_of(predicates: Iterable[Predicate], key: str) -> frozenset[str] | None:
    """The values that every `=` and `in` caveat on `key` allows; None if there is no such caveat.

    For plain keys only: a `secret` pattern or a network is a set of values in itself.
    """
    allowed: frozenset[str] | None = None
    for predicate in predicates:
        if predicate.key == key and predicate.op in ("=", "in"):
            values = frozenset(predicate.values)
            allowed = values if allowed is None else allowed & values
    return allowed


def actions_of(predicates: Iterable[Predicate]) -> frozenset[str] | None:
    """The actions that a token of these caveats can at most do; None if they limit none."""
    return values_of(predicates, "action")


def expiry_of(predicates: Iterable[Predicate]) -> int | None:
    """The moment (Unix seconds) from which the earliest `time <` denies; None without one."""
    bounds = (time_s(p.values[0]) for p in predicates if p.key == "time" and p.op == "<")
    return min((bound for bound in bounds if bound is not None), default=None)


def inherited_of(predicates: Iterable[Predicate]) -> tuple[str, ...]:
    """The caveats that a token minted on this one's authority carries on: all but time and user."""
    return tuple(str(p) for p in predicates if p.key not in _NOT_INHERITED)
