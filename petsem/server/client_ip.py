"""Which address a request comes from.

Guarantees: `X-Forwarded-For` is believed only from networks that the operator named, and only as
far back as those networks reach. An address that cannot be known is None, which denies where a
caveat asks for it. It does not look at any other header.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_ip(scope: Mapping[str, Any], trusted_proxies: Sequence[IPNetwork]) -> str | None:
    """The client's address: the peer's, or the nearest hop behind trusted proxies.

    An IPv4-mapped IPv6 address is written as IPv4, and a zone is left out.
    """
    client = scope.get("client")
    if not client:
        return None
    if not trusted_proxies:
        return canonical_ip(client[0])
    peer = _parse(client[0])
    if peer is None or not _within(peer, trusted_proxies):
        return None if peer is None else str(peer)
    hops = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    nearest = peer
    # Each proxy appends whom it heard, so from the right the hops were written by ever less
    # trusted hands; the first that is not ours is the last that can be believed.
    for hop in reversed(hops.split(b",") if hops else ()):
        found = _parse(hop.strip(b" \t").decode("latin-1"))
        if found is None:
            return None
        nearest = found
        if not _within(found, trusted_proxies):
            break
    return str(nearest)


@lru_cache(maxsize=4096)
def canonical_ip(text: str) -> str | None:
    """A peer's address as caveats are held against it, or None if it is none."""
    found = _parse(text)
    return None if found is None else str(found)


def _parse(text: str) -> IPAddress | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)
