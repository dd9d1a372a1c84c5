"""The token and the address of a caller."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.principal import Request
from petsem.server.rpc.caller import bearer, grpc_peer_ip


@pytest.mark.parametrize("text", ["Bearer abc", "bearer abc", "BEARER  abc", "Bearer abc "])
def test_a_bearer_token_is_found_whatever_the_case_of_its_scheme(text: str) -> None:
    """RFC 9110: a scheme's name has no case."""
    assert bearer(text) == "abc"


@pytest.mark.parametrize("text", ["Basic abc", "abc", "", "Bearer,abc"])
def test_another_scheme_is_refused_without_quoting_it(text: str) -> None:
    """Whoever mistyped the header may have put the token where the scheme belongs."""
    with pytest.raises(PetsemError) as refused:
        bearer(text)
    assert refused.value.code is Code.UNAUTHENTICATED
    assert "abc" not in refused.value.message


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        ("ipv4:192.0.2.7:5000", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:5000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::1"),
        ("ipv6:rubbish", None),
        ("unix:/run/x", None),
        ("", None),
    ],
)
def test_a_peer_is_its_address(peer: str, ip: str | None) -> None:
    """As caveats write it: unmapped, without brackets, port or zone; None if there is none."""
    assert grpc_peer_ip(peer) == ip


def test_a_request_does_not_show_its_token() -> None:
    """It is in every traceback's reach."""
    assert "CANARY" not in repr(Request("CANARY", "192.0.2.7"))
