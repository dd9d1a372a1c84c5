"""How often something may be done, for each of many keys.

Guarantees: no key has more than `burst` at once and `per_s` from then on; what is remembered is
bounded, and when it is full a key that is not known yet has to wait. Pure: the clock is given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable

from petsem.clock import Clock
from petsem.errors import limited


class Rates:
    """One bucket for each key, full at first."""

    def __init__(self, clock: Clock, *, per_s: float, burst: int, keys_max: int) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = float(burst)
        self._keys_max = keys_max
        self._left: dict[Hashable, tuple[float, float]] = {}

    def take(self, key: Hashable) -> None:
        """Count one; `limit` if there is none left."""
        now_s = self._clock.boot_s()
        if key not in self._left and len(self._left) >= self._keys_max:
            self._forget(now_s)
            if len(self._left) >= self._keys_max:
                raise _too_often(1)
        left = self._level(key, now_s)
        if left < 1.0:
            raise _too_often(1 + int((1.0 - left) / self._per_s))
        self._left[key] = (left - 1.0, now_s)

    def _level(self, key: Hashable, now_s: float) -> float:
        left, then_s = self._left.get(key, (self._burst, now_s))
        return min(self._burst, left + (now_s - then_s) * self._per_s)

    def _forget(self, now_s: float) -> None:
        """Forget the buckets that are full again."""
        for key in list(self._left):
            if self._level(key, now_s) >= self._burst:
                del self._left[key]


def block_of(ip: str | None) -> str | None:
    """What an address is counted as: itself, of IPv6 its /64, which one machine has all of."""
    try:
        address = ipaddress.ip_address(ip or "")
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"


def _too_often(retry_after_s: int) -> Exception:
    return limited("too many sign-ins at once; try again in a moment", retry_after_s=retry_after_s)
