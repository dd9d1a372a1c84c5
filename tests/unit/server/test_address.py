"""Where a door listens: what is an address, what is none, and whether others can reach it."""

from __future__ import annotations

import ipaddress

import pytest

from petsem.errors import PetsemError
from petsem.server.address import Address


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:7400", Address("127.0.0.1", 7400), True),
        ("127.8.9.1:1", Address("127.8.9.1", 1), True),
        ("[::1]:7400", Address("::1", 7400), True),
        ("[0:0::0001]:0", Address("::1", 0), True),
        ("[::ffff:127.0.0.1]:1", Address(str(ipaddress.IPv6Address("::ffff:127.0.0.1")), 1), True),
        ("localhost:65535", Address("localhost", 65_535), True),
        ("0.0.0.0:7400", Address("0.0.0.0", 7400), False),
        ("[::]:7400", Address("::", 7400), False),
        ("[::ffff:10.0.0.1]:1", Address(str(ipaddress.IPv6Address("::ffff:10.0.0.1")), 1), False),
        ("10.0.0.1:7400", Address("10.0.0.1", 7400), False),
        ("fly-local-6pn:7400", Address("fly-local-6pn", 7400), False),
        ("localhost.example:7400", Address("localhost.example", 7400), False),
    ],
)
def test_an_address_is_read_and_its_reach_is_known(
    text: str, address: Address, loopback: bool
) -> None:
    """Only what this machine alone can reach is loopback; a name that resolves to it is not."""
    assert Address.parse(text) == address
    assert address.is_loopback is loopback
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "7400", ":7400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1"),
        *("127.0.0.1:07400", "127.0.0.1:7400 ", " 127.0.0.1:7400", "::1:7400", "[::1]", "[]:1"),
        *(
            "[127.0.0.1]:1",
            "[::1:7400",
            "::1]:7400",
            "127.1:7400",
            "256.0.0.1:1",
            "*:7400",
            "a_b:1",
        ),
        *("http://x:7400", "x/y:1", "-x:1", "x-:1", "127.0.0.1:٧٤٠٠", "127.0.0.1:1\n"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """No short forms: what is bound is what is written."""
    with pytest.raises(PetsemError, match="an address is HOST:PORT"):
        Address.parse(text)
