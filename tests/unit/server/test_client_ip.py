"""Which address a request comes from, and who is believed about it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from petsem.server.client_ip import client_ip

PROXIES = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8")]


def scope(peer: str | None, *forwarded: bytes) -> dict[str, Any]:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value) for value in forwarded)]
    return {"client": None if peer is None else (peer, 1), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("testclient", None),
        (None, None),
    ],
)
def test_the_peer_is_the_client_and_is_written_in_one_way(
    peer: str | None, expected: str | None
) -> None:
    """Canonical text, IPv4 as IPv4, no zone; what is no address is unknown."""
    assert client_ip(scope(peer), []) == expected
    assert client_ip(scope(peer), PROXIES) == expected


def test_a_forged_header_is_not_read() -> None:
    """Without trusted proxies, and from a peer that is none of them."""
    assert client_ip(scope("127.0.0.1", b"192.0.2.9"), []) == "127.0.0.1"
    assert client_ip(scope("192.0.2.1", b"192.0.2.9"), PROXIES) == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ([b"192.0.2.9"], "192.0.2.9"),
        ([b"::ffff:192.0.2.9"], "192.0.2.9"),
        ([b"198.51.100.1, 192.0.2.9"], "192.0.2.9"),
        ([b"198.51.100.1", b"192.0.2.9"], "192.0.2.9"),
        ([b"192.0.2.9, 10.1.1.1,\tfd00::1"], "192.0.2.9"),
        ([b"192.0.2.9", b"::ffff:10.1.1.1"], "192.0.2.9"),
        ([b"10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ([], "10.0.0.1"),
        ([b"192.0.2.9, unknown"], None),
        ([b"192.0.2.9, 192.0.2.7:80"], None),
        ([b"192.0.2.9,"], None),
        ([b"192.0.2.9, \xff"], None),
        ([b"rubbish, 192.0.2.9"], "192.0.2.9"),
    ],
)
def test_behind_a_proxy_the_nearest_untrusted_hop_counts(
    forwarded: list[bytes], expected: str | None
) -> None:
    """From the right; what stands left of that hop, its own hand wrote."""
    assert client_ip(scope("10.0.0.1", *forwarded), PROXIES) == expected
    assert client_ip(scope("::ffff:10.0.0.1", *forwarded), PROXIES) == expected
